"""`nas-proxy evaluate-proxy`, from the command line to what it leaves behind."""

import json

import pytest
import torch
import yaml
from click.testing import CliRunner

from nas_proxy.cli.main import main
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.evaluate import network as network_module
from nas_proxy.study.config import check_config

SMALL_TRAINING = {"num_epochs": 1, "learning_rate": 0.05, "batch_size": 64}
CONFIG = {
    "study_name": "evaluate_proxy",
    "data": {"name": "digits", "images_per_class": 20},
    "distill": {
        "name": "random_subset",
        "images_per_class": 2,
        "labels": {
            "kind": "soft",
            "per": "view",
            "temperature": 2.0,
            "teachers": [{"network": {"name": "mlp", "width": 8}, "train": SMALL_TRAINING}],
        },
    },
    "space": {"name": "convnet", "widths": [8]},
    "train": {"num_steps": 3, "learning_rate": 0.02},
    "tracking": {"enabled": False},
    "evaluate_proxy": {
        "protocol": "short",
        "short_steps": 4,
        "num_seeds": 2,
        "networks": ["mlp", {"name": "convnet", "width": 8, "depth": 1}],
        "replay": {
            "num_seeds": 2,
            "network": {"name": "mlp", "width": 8},
            "train": {"num_steps": 3, "batch_size": 16, "learning_rate": 0.01},
        },
    },
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A distilled study: its folder and its configuration file."""
    folder = tmp_path_factory.mktemp("evaluate_proxy")
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, "results": str(folder)}))
    assert run("distill", config)[0] == 0
    return folder / "evaluate_proxy", config


def run(*words):
    """Exit status and standard error of the command line."""
    import contextlib
    import io

    errors = io.StringIO()
    with (
        contextlib.redirect_stderr(errors),
        contextlib.redirect_stdout(io.StringIO()),
        pytest.raises(SystemExit) as ended,
    ):
        main([str(word) for word in words])
    return ended.value.code, errors.getvalue()


def result_of(folder, task):
    (found,) = folder.glob(f"evaluate_proxy/*/{task}/{task}.json")
    return json.loads(found.read_text()), found.parent


def test_accuracies_under_every_condition_are_written_and_drawn(study):
    folder, config = study
    status, errors = run("evaluate-proxy", folder / "distill" / "proxy.safetensors", config)
    assert status == 0, errors
    result, place = result_of(folder, "accuracy")
    assert [network["network"] for network in result["networks"]] == [
        "MLP",
        "ConvNet, depth 1, width 8, instance norm",
    ]
    for network in result["networks"]:
        assert set(network["accuracies"]) == {
            "as it is", "hard labels", "random images", "full data"
        }  # fmt: skip
        assert all(len(f["values"]) == 2 for f in network["accuracies"].values())
        total = sum(map(sum, network["confusion"]))
        trace = sum(row[label] for label, row in enumerate(network["confusion"]))
        # Both seeds are tested on the same images, so the pooled share is the mean accuracy.
        assert trace / total == pytest.approx(network["accuracies"]["as it is"]["mean"])
    assert (place / "accuracies.png").is_file()
    assert (place / "confusion.png").is_file()


def test_what_is_finished_is_not_trained_again(study, monkeypatch):
    folder, config = study
    run("evaluate-proxy", folder / "distill" / "proxy.safetensors", config)

    def never(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(network_module.NetworkEvaluator, "evaluate", never)
    status, errors = run("evaluate-proxy", folder / "distill" / "proxy.safetensors", config)
    assert status == 0, errors


def test_random_images_have_the_sets_kind_of_labels_and_differ_for_each_seed(study):
    folder, config = study
    run("evaluate-proxy", folder / "distill" / "proxy.safetensors", config)
    _, place = result_of(folder, "accuracy")
    own = ProxyDataset.load(folder / "distill" / "proxy.safetensors")
    first, second = (ProxyDataset.load(place / f"random_{i}.safetensors") for i in range(2))
    for control in (first, second):
        assert control.labelling == own.labelling
        assert len(control) == len(own)
    assert not torch.equal(first.images, second.images)
    hard = ProxyDataset.load(place / "hard_labels.safetensors")
    assert torch.equal(hard.images, own.images)
    assert torch.equal(hard.labels, own.classes)


@pytest.mark.exhaustive
def test_replay_compares_three_memories(study):
    folder, config = study
    file = folder / "distill" / "proxy.safetensors"
    overrides = ["distill.labels.allow_leakage=false"]
    status, errors = run("evaluate-proxy", file, config, *overrides, "--task", "replay")
    assert status == 0, errors
    result, place = result_of(folder, "replay")
    names = [memory["name"] for memory in result["memories"]]
    assert names == ["the proxy data set", "herding", "random images"]
    for memory in result["memories"]:
        assert len(memory["after_each_task"]) == 2
        assert all(len(row) == 5 for row in memory["after_each_task"])
    assert (place / "replay.png").is_file()


def test_a_set_of_another_data_set_is_refused_in_one_sentence(study, tmp_path):
    folder, config = study
    status, errors = run(
        "evaluate-proxy", folder / "distill" / "proxy.safetensors", config, "data.classes=[0,1,2]"
    )
    assert status == 2
    assert "whose classes is" in errors
    assert "Traceback" not in errors


def test_a_missing_file_is_named_before_images_are_loaded(study, tmp_path):
    _, config = study
    status, errors = run("evaluate-proxy", tmp_path / "nothing.safetensors", config)
    assert status == 2
    assert "nothing.safetensors does not exist" in errors


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"networks": ["resnet19"]}, "evaluate_proxy.networks.0.name"),
        ({"networks": ["mlp", "mlp"]}, "none of them twice"),
        ({"networks": []}, "at least one network"),
        ({"num_seeds": 1}, "evaluate_proxy.num_seeds"),
        ({"protocol": "long"}, "evaluate_proxy.protocol"),
        ({"replay": {"num_tasks": 1}}, "evaluate_proxy.replay.num_tasks"),
    ],
)
def test_wrong_settings_are_named_with_their_path(section, words):
    with pytest.raises(ValueError, match="the configuration cannot be used") as raised:
        check_config({**CONFIG, "evaluate_proxy": section})
    assert words in str(raised.value)


def test_the_command_explains_itself():
    from nas_proxy.cli.main import cli

    shown = CliRunner().invoke(cli, ["evaluate-proxy", "--help"]).output
    assert "--task" in shown
    assert "FILE" in shown


def test_a_finished_set_brings_its_teachers_into_another_study(study, tmp_path):
    folder, config = study
    file = folder / "distill" / "proxy.safetensors"
    other = tmp_path / "other.yaml"
    distill = {"name": "file", "path": str(file), "images_per_class": 2}
    other.write_text(yaml.safe_dump({**CONFIG, "results": str(tmp_path), "distill": distill}))
    status, errors = run("distill", other)
    assert status == 0, errors
    (teacher,) = (tmp_path / "evaluate_proxy" / "distill" / "teachers").iterdir()
    assert (file.parent / "teachers" / teacher.name).read_bytes() == teacher.read_bytes()
    # Its labels are those of views, so without that file nothing could train on the copy.
    status, errors = run(
        "evaluate-proxy", tmp_path / "evaluate_proxy" / "distill" / file.name, other
    )
    assert status == 0, errors
