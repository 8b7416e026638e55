"""Transfer learning as a search space: genotypes, networks, phases, and what is refused."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import get_model

from nas_proxy.backbones.tuning import rate_factor
from nas_proxy.backbones.weights import LICENCE, save_weights
from nas_proxy.data.augment import Augmentation
from nas_proxy.errors import ConfigError, DataError
from nas_proxy.export.model_file import ModelOrigin
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.search_spaces.torchvision_backbones import TorchvisionBackbonesSpace as Space
from nas_proxy.study.plain_values import read_options
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.phases import train_phases
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Architecture, WeightsRecord

SMALL = "shufflenet_v2_x0_5"
SPEC = tiny_dataset().spec
GENOTYPE = {
    "backbone": SMALL,
    "hidden_units": 0,
    "dropout": 0.0,
    "feature_extraction_epochs": 2,
    "feature_extraction_rate": 0.1,
    "fine_tuning_epochs": 5,
    "fine_tuning_rate": 0.01,
    "frozen_share": 0.5,
    "rate_decay": "linear",
    "decay_factor": 0.1,
    "weight_decay": 5e-4,
    "flip": True,
    "rotation": 15.0,
    "colour_jitter": 0.4,
    "crop": 0.125,
}


def of(**changes):
    return Architecture("torchvision_backbones", {**GENOTYPE, **changes})


def built(space, architecture, spec=SPEC):
    with isolated_rng(0):
        return space.build(architecture, spec)


def settings(**changes):
    return TrainSettings(**{"num_epochs": "architecture", "precision": "float32", **changes})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    with isolated_rng(3):
        network = get_model(SMALL, weights=None)
    file = tmp_path_factory.mktemp("weights") / "own.safetensors"
    save_weights(file, network, WeightsRecord("SimCLR on tiny", "CC0"))
    return file, network.state_dict()


# Networks


def test_the_body_has_the_weights_of_the_file_and_the_head_is_new(weights):
    file, state = weights
    network = built(Space(backbones=(SMALL,), weights={SMALL: str(file)}), of(hidden_units=8))
    own = network.network.state_dict()
    for key, value in state.items():
        assert key.startswith("fc.") or torch.equal(own[key], value)
    assert [tuple(w.shape) for w in network.head_parameters()] == [(8, 1024), (8,), (3, 8), (3,)]


def test_a_network_that_was_trained_here_can_be_the_weights_of_another(weights, tmp_path):
    network = built(Space(), of())
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    told = {SMALL: str(tmp_path / "model.safetensors")}
    again = built(Space(backbones=(SMALL,), weights=told), of(hidden_units=8))
    assert torch.equal(again.network.conv1[0].weight, network.network.conv1[0].weight)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (3, 48, 48)])
def test_images_of_any_size_and_either_colour(shape):
    spec = tiny_dataset(image_shape=shape).spec
    network = built(Space(), of(), spec)
    expected = 48 if shape[1] == 48 else 32
    assert network.preparation.image_size == expected
    assert network(torch.randn(2, *shape)).shape == (2, 3)


def test_the_answer_does_not_depend_on_how_many_are_asked_about(monkeypatch):
    network = built(Space(), of()).eval()
    images = torch.randn(5, *SPEC.image_shape)
    whole = network(images)
    monkeypatch.setattr("nas_proxy.train.measuring._PIXELS_AT_ONCE", 2 * 32 * 32)
    torch.testing.assert_close(network(images), whole, atol=1e-5, rtol=1e-5)


# Phases


def test_feature_extraction_trains_the_head_and_fine_tuning_the_deeper_half():
    space, dataset = Space(), tiny_dataset()
    network = built(space, of())
    halves = network.body_parameters(2)
    start = {k: v.clone() for k, v in network.state_dict().items()}
    phases = space.training_phases(of(), settings(batch_size=8))
    assert [phase.name for phase in phases] == ["feature extraction", "fine-tuning"]
    train_phases(network, TrainingSet.of(dataset), phases[:1], make_generator(0))
    changed = [k for k, v in network.state_dict().items() if not torch.equal(v, start[k])]
    assert changed == ["network.fc.weight", "network.fc.bias"]  # no statistic of a batch norm
    result = train_phases(network, TrainingSet.of(dataset), phases[1:], make_generator(0))
    now = dict(network.named_parameters())
    names = {id(parameter): name for name, parameter in now.items()}
    deep, shallow = ([names[id(p)] for p in half] for half in halves)
    assert all(not torch.equal(now[name], start[name]) for name in deep)
    assert all(torch.equal(now[name], start[name]) for name in shallow)
    assert result.phases == (("fine-tuning", 15),)


def rates(**changes):
    phase = Space().training_phases(of(**changes), settings())[-1]
    groups = phase.groups(built(Space(), of(**changes)))
    return [round(group.learning_rate_factor, 6) for group in groups]


def test_rates_fall_from_the_head_to_the_images():
    everything = {"frozen_share": 0.0, "decay_factor": 0.0625}
    assert rates(rate_decay="none", **everything) == [1.0] * 5
    assert rates(rate_decay="linear", **everything) == [1.0, 0.765625, 0.53125, 0.296875, 0.0625]
    assert rates(rate_decay="exponential", **everything) == [1.0, 0.5, 0.25, 0.125, 0.0625]
    # What is frozen does not make the others faster.
    assert rates(rate_decay="exponential", frozen_share=0.5, decay_factor=0.0625) == [1, 0.5, 0.25]
    assert rates(frozen_share=0.95, rate_decay="none") == [1.0, 1.0]


@pytest.mark.parametrize("decay", ["none", "linear", "exponential"])
def test_a_decay_ends_at_its_factor(decay):
    assert rate_factor(decay, 0.1, 0.0) == 1.0
    expected = 1.0 if decay == "none" else 0.1
    assert math.isclose(rate_factor(decay, 0.1, 1.0), expected)


@pytest.mark.parametrize(
    ("length", "changes", "expected"),
    [
        ({"num_epochs": "architecture"}, {}, [("num_epochs", 2), ("num_epochs", 5)]),
        ({"num_epochs": 14}, {}, [("num_epochs", 4), ("num_epochs", 10)]),
        ({"num_epochs": None, "num_steps": 70}, {}, [("num_steps", 20), ("num_steps", 50)]),
        ({"num_epochs": None, "num_steps": 2}, {}, [("num_steps", 1), ("num_steps", 1)]),
        ({"num_epochs": None, "num_steps": 1}, {}, [("num_steps", 1)]),
        ({"num_epochs": 7}, {"frozen_share": 1.0}, [("num_epochs", 7)]),
        ({"num_epochs": 7}, {"feature_extraction_epochs": 0}, [("num_epochs", 7)]),
    ],
)
def test_phases_share_the_length(length, changes, expected):
    phases = Space().training_phases(of(**changes), settings(**length))
    assert [getattr(p.settings, key) for p, (key, _) in zip(phases, expected, strict=True)] == [
        value for _, value in expected
    ]


def test_the_genotype_says_how_it_is_trained_and_the_settings_say_the_rest():
    told = settings(batch_size=7, augmentation=Augmentation(cutout=0.5, crop=0.5))
    first, second = Space().training_phases(of(), told)
    assert (first.settings.learning_rate, second.settings.learning_rate) == (0.1, 0.01)
    assert second.settings.batch_size == 7
    assert second.settings.weight_decay == 5e-4
    assert second.settings.augmentation == Augmentation(
        cutout=0.5, crop=0.125, flip=True, rotation=15.0, colour_jitter=0.4
    )


# Genotypes


def test_every_genotype_trains_something_and_all_are_drawn_equally():
    space = Space(
        backbones=(SMALL,), hidden_units=(0,), dropouts=(0.0,), feature_extraction_rates=(0.1,),
        fine_tuning_rates=(0.1,), rate_decays=("none",), decay_factors=(0.1,),
        weight_decays=(0.0,), flips=(False,), rotations=(0.0,), colour_jitters=(0.0,),
        crops=(0.0,), feature_extraction_epochs=(0, 2), fine_tuning_epochs=(0, 5),
        frozen_shares=(0.0, 1.0),
    )  # fmt: skip
    generator = make_generator(0)
    counts = Counter(
        (g["feature_extraction_epochs"], g["fine_tuning_epochs"], g["frozen_share"])
        for g in (space.sample(generator).genotype for _ in range(500))
    )
    assert counts.keys() == {(2, 0, 0), (2, 0, 1), (2, 5, 0), (2, 5, 1), (0, 5, 0)}
    assert min(counts.values()) > 70
    for _ in range(50):
        neighbour = space.mutate(space.sample(generator), generator).genotype
        assert neighbour["feature_extraction_epochs"] or neighbour["frozen_share"] == 0


def test_what_has_no_effect_does_not_make_another_network():
    space, form = Space(), Space().canonical_form
    extracted = of(frozen_share=1.0)
    assert form(extracted) == form(of(frozen_share=1.0, fine_tuning_rate=0.1, rate_decay="none"))
    assert form(extracted) == form(of(fine_tuning_epochs=0))
    assert form(of(rate_decay="none")) == form(of(rate_decay="none", decay_factor=0.3))
    tuned = {"feature_extraction_epochs": 0}
    assert form(of(**tuned)) == form(of(**tuned, feature_extraction_rate=0.3))
    assert len({form(of()), form(of(decay_factor=0.3)), form(of(frozen_share=0.0))}) == 3
    assert "feature extraction 2 epochs at 0.1, fine-tuning 5 epochs" in space.describe(of())


def test_optuna_never_proposes_what_trains_nothing():
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = Space(feature_extraction_epochs=(0,), fine_tuning_epochs=(0, 5))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(40):
        genotype = space.suggest(study.ask()).genotype
        assert genotype["fine_tuning_epochs"] == 5
        assert genotype["frozen_share"] < 1


# Sources and their licences


def test_sources_and_licences_of_weights(weights):
    file, _ = weights
    assert Space().weights_record(of()) == WeightsRecord(f"{SMALL}: random weights")
    assert Space().notices() == ()
    own = Space(backbones=(SMALL,), weights={SMALL: str(file)})
    record = own.weights_record(of())
    assert record.source.startswith(f"{SMALL}: SimCLR on tiny (own.safetensors ")
    assert record.licence == "CC0"
    assert own.notices() == ()
    public = Space(backbones=(SMALL, "resnet18"), weights="default")
    assert public.weights_record(of()).source == f"{SMALL}: IMAGENET1K_V1 of torchvision"
    assert public.notices() == (f"weights for non-commercial use only: {LICENCE}",)


def test_the_content_of_a_file_is_part_of_the_space_and_its_place_is_not(weights, tmp_path):
    file, state = weights
    copy = tmp_path / file.name
    copy.write_bytes(file.read_bytes())
    first, moved = (
        Space(backbones=(SMALL,), weights={SMALL: str(where)}).fingerprint()
        for where in (file, copy)
    )
    assert first == moved
    save_file({**state, "fc.bias": state["fc.bias"] + 1}, copy)
    other = Space(backbones=(SMALL,), weights={SMALL: str(copy)}).fingerprint()
    assert other not in (first, Space(backbones=(SMALL,)).fingerprint())


def test_a_trained_network_is_built_again_without_the_file_of_its_first_weights(weights, tmp_path):
    file, _ = weights
    copy = tmp_path / "gone.safetensors"
    copy.write_bytes(file.read_bytes())
    space = Space(backbones=(SMALL,), weights={SMALL: str(copy)})
    network = built(space, of())
    origin = ModelOrigin.of(space, of(), SPEC)
    copy.unlink()
    assert str(tmp_path) not in str(origin.to_json())
    again = space.without_weights().build(of(), SPEC)
    again.load_state_dict(network.state_dict())
    images = torch.randn(3, *SPEC.image_shape)
    torch.testing.assert_close(again.eval()(images), network.eval()(images))


# What is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backbones": ["resnet81"]}, "no network 'resnet81'; did you mean 'resnet18'?"),
        ({"backbones": []}, "backbones is empty"),
        ({"crops": [0.1, 0.1]}, "crops names a value twice: 0.1, 0.1"),
        (
            {"backbones": ["resnet18", "inception_v3"], "image_size": 64},
            "image_size 64 is nothing that inception_v3 accepts: its smallest is 96",
        ),
        (
            {"feature_extraction_epochs": [0], "frozen_shares": [1.0]},
            "no genotype would train anything",
        ),
        (
            {"feature_extraction_epochs": [0], "fine_tuning_epochs": [0]},
            "no genotype would train anything",
        ),
        ({"weights": {"resnet81": "none"}}, "'resnet81', which is not among the backbones"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_sentence(options, said):
    with pytest.raises(ConfigError) as caught:
        read_options(Space, options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_genotype_that_trains_nothing_is_no_architecture():
    space = Space()
    text = space.to_string(of(backbone="resnet18"))
    text = text.replace("feature_extraction_epochs=2", "feature_extraction_epochs=0")
    with pytest.raises(ValueError, match="trains nothing"):
        space.from_string(text.replace("frozen_share=0.5", "frozen_share=1.0"))


def test_weights_that_do_not_fit_are_refused_with_layers_and_shapes(weights):
    file, _ = weights
    space = Space(backbones=("mobilenet_v3_small",), weights={"mobilenet_v3_small": str(file)})
    with pytest.raises(DataError) as caught:
        built(space, of(backbone="mobilenet_v3_small"))
    message = str(caught.value)
    assert "features.0.0.weight (16, 3, 3, 3) is missing" in message
    assert message.endswith("more); name the network that they belong to")


def test_a_length_that_no_genotype_says_is_refused():
    with pytest.raises(ConfigError, match="num_epochs: architecture is for candidates"):
        replace(settings()).steps_for(10)
