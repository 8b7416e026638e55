"""Transfer learning through the configuration and the commands, as a user meets it."""

import json
from dataclasses import replace

import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image

from nas_proxy.cli.main import cli
from nas_proxy.errors import ConfigError
from nas_proxy.evaluate.factory import training_fidelity
from nas_proxy.reproducibility import make_generator
from nas_proxy.study.config import check_config
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.testing import tiny_dataset
from tests.helpers.display import Quiet

# By its module, so that the test does not need the plug-in to be installed.
SPACE = "nas_proxy.search_spaces.torchvision_backbones:TorchvisionBackbonesSpace"
TINY = {
    "study_name": "tiny",
    "data": {"name": "digits", "classes": [0, 1, 2], "images_per_class": 20},
    "distill": {"name": "random_subset", "images_per_class": 4},
    "space": {
        "name": SPACE,
        "backbones": ["squeezenet1_1"],
        "feature_extraction_epochs": [1],
        "fine_tuning_epochs": [2],
        "frozen_shares": [0.5],
    },
    "train": {"num_epochs": "architecture", "batch_size": 6},
    "search": {"n_trials": 2},
    "tracking": {"enabled": False},
}
PRETRAIN = {"train": {"num_steps": 2, "batch_size": 8, "augmentation": {"crop": 0.2}}}


def with_changes(**sections):
    return {**TINY, **sections}


def test_the_length_of_the_architecture_is_kept_in_the_fidelity():
    config = check_config(TINY)
    assert config.train.num_epochs == "architecture"
    fidelity = training_fidelity(config.train, tiny_dataset().spec, "d", 24)
    assert fidelity.num_steps == 0
    assert fidelity.length == "each architecture's own length"
    number = replace(config.train, num_epochs=3)
    assert training_fidelity(number, tiny_dataset().spec, "d", 24).length == "12 steps"


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"space": {"name": "convnet"}}, "those of the space 'convnet' say none; give a number"),
        (
            {"validate": {"reference": {"train": {"num_epochs": 1}}}},
            "train.num_epochs: architecture gives each candidate its own length",
        ),
        (
            {
                "space": {"name": "convnet"},
                "train": {"num_epochs": 1},
                "validate": {"reference": {"train": {"num_epochs": "architecture"}}},
            },
            "validate.reference.train.num_epochs: architecture takes the epochs",
        ),
        ({"train": {"num_epochs": "genotype"}}, "train.num_epochs"),
        (
            {"retrain": {"train": {"num_epochs": "architecture"}}},
            "retrain.train.num_epochs: architecture gives a ResNet-18 no length",
        ),
        (
            {"space": {"name": SPACE, "backbones": ["resnet81"]}},
            "space: torchvision has no network 'resnet81'; did you mean 'resnet18'?",
        ),
        ({"pretrain": {"method": "simclr", "temperature": 0}}, "pretrain.temperature"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(sections, said):
    with pytest.raises(ConfigError) as caught:
        check_config(with_changes(**sections))
    assert said in str(caught.value)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("drawn")
def test_from_images_without_labels_to_a_search(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = "weights/squeezenet1_1.safetensors"
    space = {**TINY["space"], "weights": {"squeezenet1_1": file}}
    score = {"signals": ["val_loss"]}
    text = yaml.safe_dump(with_changes(space=space, pretrain=PRETRAIN, score=score))
    (tmp_path / "tiny.yaml").write_text(text)
    runner = CliRunner()
    missing = runner.invoke(cli, ["search", "tiny.yaml"])
    assert f"the weights file {file} does not exist" in str(missing.exception)
    made = runner.invoke(cli, ["pretrain", "tiny.yaml"], catch_exceptions=False)
    assert f"squeezenet1_1: {file}" in made.output
    runner.invoke(cli, ["run", "tiny.yaml"], catch_exceptions=False)
    report = json.loads((tmp_path / "results/tiny/report.json").read_text())
    training = report["search"]["best_training"]
    # 12 images in batches of 6: one epoch of the head, and two of fine-tuning.
    assert training["phases"] == [["feature extraction", 2], ["fine-tuning", 4]]
    assert len(training["train_losses"]) == 6
    assert (tmp_path / "results/tiny/figures/learning_curve.png").is_file()
    page = (tmp_path / "results/tiny/report.html").read_text()
    assert "where feature extraction ends and fine-tuning begins" in page


def test_a_space_without_backbones_must_be_told_which(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(
        yaml.safe_dump(with_changes(space={"name": "convnet"}, train={"num_epochs": 1}))
    )
    shown = CliRunner().invoke(cli, ["pretrain", "tiny.yaml"])
    assert "name some in pretrain.backbones" in str(shown.exception)


def test_images_that_judge_and_are_learned_from_are_said(tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "cache"))
    generator = make_generator(0)
    for name in ("cat", "dog"):
        for index in range(5):
            pixels = torch.randint(256, (8, 8, 3), generator=generator, dtype=torch.uint8)
            for part in ("train", "test"):  # a copy of the same folder
                file = tmp_path / "images" / part / name / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.numpy()).save(file)
    data = {"name": "image_folder", "root": str(tmp_path / "images"), "image_size": 8}
    distill = {"name": "random_subset", "images_per_class": 2}
    told = with_changes(data=data, results=str(tmp_path), distill=distill)
    display = Quiet()
    run_pipeline(check_config(told), display, last="distill")
    assert any("10 of the 10 test images of image_folder are among" in s for s in display.said)
