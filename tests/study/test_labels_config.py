"""The key labels of the section distill: a word or a section, teachers by word or by section."""

import pytest
import yaml

from nas_proxy.errors import ConfigError
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.study.config import check_config, load_config
from nas_proxy.teachers.settings import LabelSettings
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.teacher_settings import DEFAULT_TEACHER, PretrainedSettings, TeacherSettings

CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|avg_pool_3x3~1|skip_connect~2|"


def config(labels=None, **distill):
    section = {"name": "random_subset", **distill}
    if labels is not None:
        section["labels"] = labels
    return check_config(
        {
            "study_name": "labels",
            "distill": section,
            "space": {"name": "convnet"},
            "train": {"num_steps": 3},
        }
    )


def faults(labels, **distill):
    with pytest.raises(ConfigError) as caught:
        config(labels, **distill)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_labels_are_hard_unless_it_is_said():
    assert config().labels == LabelSettings() == config("hard").labels
    assert config().resolved["distill"]["labels"]["kind"] == "hard"


@pytest.mark.parametrize("kind", ["soft", "learned"])
def test_a_word_stands_for_the_section_with_the_default_teacher(kind):
    labels = config(kind).labels
    assert labels == LabelSettings(kind=kind, teachers=(DEFAULT_TEACHER,))
    assert labels == config({"kind": kind}).labels


def test_a_word_may_be_an_override_on_the_command_line(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(dict(config().resolved)))
    overrides = ["distill.labels=soft"]
    assert load_config(path, overrides).labels == LabelSettings(kind="soft")
    overrides = ["distill.labels.kind=soft", "distill.labels.temperature=4"]
    assert load_config(path, overrides).labels == LabelSettings(kind="soft", temperature=4.0)
    overrides = ["distill.labels={kind: soft, teachers: [resnet18, mlp], per: view}"]
    labels = load_config(path, overrides).labels
    assert [t.network.name for t in labels.teachers] == ["resnet18", "mlp"]
    assert labels.per == "view"


def test_a_word_alone_is_one_teacher():
    expected = config({"kind": "soft", "teachers": ["resnet18"]}).labels
    assert config({"kind": "soft", "teachers": "resnet18"}).labels == expected


def test_teachers_are_words_or_sections():
    train = {"num_steps": 9, "space_fidelity": {"num_cells": 1}}
    section = {
        "kind": "soft",
        "temperature": 4,
        "per": "view",
        "allow_leakage": True,
        "teachers": [
            "resnet18",
            "torchvision:resnet50",
            "somewhere/teacher.safetensors",
            {"network": {"name": "convnet", "width": 64}, "seed": 3},
            {"architecture": CELL, "train": train},
            {"pretrained": {"name": "resnet18", "weights": "mine.pth", "train": "all"}},
        ],
    }
    assert config(section).labels == LabelSettings(
        kind="soft",
        temperature=4.0,
        per="view",
        allow_leakage=True,
        teachers=(
            TeacherSettings(network=NetworkSettings(name="resnet18")),
            TeacherSettings(pretrained=PretrainedSettings(name="resnet50")),
            TeacherSettings(checkpoint="somewhere/teacher.safetensors"),
            TeacherSettings(network=NetworkSettings(name="convnet", width=64), seed=3),
            TeacherSettings(
                architecture=CELL,
                train=TrainSettings(num_steps=9, space_fidelity={"num_cells": 1}),
            ),
            TeacherSettings(
                pretrained=PretrainedSettings(name="resnet18", weights="mine.pth", train="all")
            ),
        ),
    )


@pytest.mark.parametrize(
    "labels",
    [
        "soft",
        {"kind": "learned", "teachers": ["mlp"]},
        {"kind": "soft", "teachers": ["torchvision:resnet18", "a.safetensors", "vgg11"]},
        {"kind": "soft", "teachers": [{"architecture": CELL, "train": {"num_epochs": 2}}]},
    ],
    ids=str,
)
def test_the_resolved_configuration_says_the_same(labels):
    checked = config(labels)
    again = check_config(yaml.safe_load(checked.to_yaml()))
    assert again == checked
    assert again.labels == checked.labels


@pytest.mark.parametrize(
    ("labels", "path", "said"),
    [
        ("sotf", "distill.labels.kind", "'hard', 'soft' or 'learned'"),
        ({"kind": "none"}, "distill.labels.kind", "'hard', 'soft' or 'learned'"),
        (True, "distill.labels", ""),
        ({"kind": "soft", "tempera": 4}, "distill.labels.tempera", "'temperature'"),
        ({"kind": "soft", "temperature": 0}, "distill.labels.temperature", "greater than 0"),
        ({"kind": "soft", "temperature": True}, "distill.labels.temperature", "expected a number"),
        ({"kind": "soft", "per": "class"}, "distill.labels.per", "'image' or 'view'"),
        ({"kind": "soft", "teachers": []}, "distill.labels", "at least one teacher"),
        ({"temperature": 4}, "distill.labels", "but kind is 'hard'; set kind: soft"),
        ({"kind": "hard", "per": "view"}, "distill.labels", "but kind is 'hard'; set kind: soft"),
        ({"kind": "learned", "temperature": 2}, "distill.labels", "but kind is 'learned'"),
        ({"kind": "soft", "teachers": 3}, "distill.labels.teachers", "(got 3)"),
        (
            {"kind": "soft", "teachers": "resnet19"},
            "distill.labels.teachers.0.network.name",
            "vgg11",
        ),
        (
            {"kind": "soft", "teachers": ["resnet19"]},
            "distill.labels.teachers.0.network.name",
            "'resnet18'",
        ),
        (
            {"kind": "soft", "teachers": [{"network": {"name": "mlp"}, "checkpoint": "a"}]},
            "distill.labels.teachers.0",
            "got network and checkpoint",
        ),
        ({"kind": "soft", "teachers": [{}]}, "distill.labels.teachers.0", "got none of them"),
        (
            {"kind": "soft", "teachers": ["mlp", {"network": {"name": "mlp"}, "sed": 1}]},
            "distill.labels.teachers.1.sed",
            "unknown key",
        ),
        (
            {
                "kind": "soft",
                "teachers": [
                    {"network": {"name": "mlp"}, "train": {"num_steps": 3, "num_seeds": 2}}
                ],
            },
            "distill.labels.teachers.0",
            "leave train.num_seeds",
        ),
        (
            {"kind": "soft", "teachers": [{"checkpoint": "a.safetensors", "seed": 1}]},
            "distill.labels.teachers.0",
            "is trained already",
        ),
    ],
    ids=str,
)
def test_a_fault_is_named_with_its_path(labels, path, said):
    (fault,) = faults(labels)
    assert fault.startswith(f"{path}: ")
    assert said in fault


def test_all_faults_are_told_at_once():
    told = faults({"kind": "soft", "temperature": -1, "per": "class"}, images_per_class=0)
    assert {fault.partition(":")[0] for fault in told} == {
        "distill.images_per_class",
        "distill.labels.temperature",
        "distill.labels.per",
    }


def test_every_distiller_takes_labels():
    for name in ("random_subset", "distribution_matching", "gradient_matching"):
        assert config("soft", name=name).labels.kind == "soft"
