import pytest

from nas_proxy.compress.settings import METHODS, CompressSettings, variant_name
from nas_proxy.errors import ConfigError
from nas_proxy.study.plain_values import dump_options, read_options
from nas_proxy.train.settings import TrainSettings


def test_a_configuration_block_is_read_and_written() -> None:
    block = {
        "variants": [["structured_pruning"], ["distillation", "quantisation_aware_training"]],
        "channel_amount": 0.25,
    }
    settings = read_options(CompressSettings, block)
    assert settings.channel_amount == 0.25
    assert settings.distils
    assert read_options(CompressSettings, dump_options(settings)) == settings


def test_names_follow_the_order_in_which_methods_are_applied() -> None:
    assert variant_name(["distillation", "post_training_quantisation", "structured_pruning"]) == (
        "structured_pruning-post_training_quantisation-distillation"
    )
    assert variant_name(METHODS[::-1]) == "-".join(METHODS)


def test_fine_tuning_is_shorter_and_slower_than_the_training_unless_it_is_said() -> None:
    training = TrainSettings(num_epochs=10, learning_rate=0.1, weight_decay=1e-3)
    fine_tuning = CompressSettings().after(training).fine_tuning
    assert fine_tuning == TrainSettings(
        num_epochs=2, learning_rate=pytest.approx(0.01), weight_decay=1e-3
    )
    own = TrainSettings(num_steps=7)
    assert CompressSettings(fine_tuning=own).after(training).fine_tuning == own
    shortest = CompressSettings().after(TrainSettings(num_steps=1)).fine_tuning
    assert shortest is not None
    assert shortest.num_steps == 1


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"channel_amount": 1}, "channel_amount: the value should be less than 1"),
        ({"channel_amount": 0}, "channel_amount: the value should be greater than 0"),
        ({"weight_amount": 1.5}, "weight_amount: the value should be less than 1"),
        ({"weight_amount": True}, "expected a number, got true"),
        ({"channel_amuont": 0.5}, "unknown key; did you mean 'channel_amount'?"),
        ({"variants": []}, "variants is empty"),
        ({"variants": [[]]}, "a variant is empty"),
        (
            {"variants": [["structured_prunning"]]},
            "unknown compression 'structured_prunning'; did you mean 'structured_pruning'?",
        ),
        ({"variants": [["int8"]]}, "unknown compression 'int8'; known: distillation, post_"),
        ({"variants": [["distillation"]]}, "nothing that distillation could fine-tune"),
        (
            {"variants": [["post_training_quantisation", "distillation"]]},
            "nothing that distillation could fine-tune",
        ),
        (
            {"variants": [["post_training_quantisation", "quantisation_aware_training"]]},
            "makes int8 twice",
        ),
        (
            {"variants": [["structured_pruning", "structured_pruning"]]},
            "names a method twice",
        ),
        (
            {
                "variants": [
                    ["structured_pruning", "unstructured_pruning"],
                    ["unstructured_pruning", "structured_pruning"],
                ]
            },
            "lists structured_pruning-unstructured_pruning twice",
        ),
    ],
)
def test_wrong_blocks_are_named(block: dict, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_options(CompressSettings, block)
    assert said in str(raised.value)
