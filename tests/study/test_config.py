import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas_proxy.errors import ConfigError, StudyError
from nas_proxy.study.config import check_config, load_config
from nas_proxy.study.pipeline import run_pipeline
from tests.helpers.display import Quiet

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
MINIMAL = {
    "study_name": "minimal",
    "distill": {"name": "random_subset"},
    "space": {"name": "convnet"},
    "train": {"num_steps": 3},
}


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_says_what_it_costs(path: Path) -> None:
    config = load_config(path)
    assert config.study_name == path.stem
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    text = " ".join(header).lower()
    for word in ("command", "hardware", "time", "result"):
        assert f"{word}:" in text, f"the header of {path.name} lacks {word!r}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_resolved_config_reproduces_the_study_alone(path: Path) -> None:
    config = load_config(path, ["train.learning_rate=0.025"])
    again = check_config(yaml.safe_load(config.to_yaml()))
    assert again == config
    assert again.train.learning_rate == 0.025


def test_a_section_that_is_left_out_gets_its_defaults() -> None:
    config = check_config(MINIMAL)
    assert config.data.name == "digits"
    assert config.images_per_class == 10
    assert config.validation is None
    assert config.resolved["search"]["sampler"] == "tpe"


def test_yaml_traps(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(MINIMAL))
    # PyYAML reads 1e-3 as text and off as a truth value.
    assert load_config(path, ["train.learning_rate=1e-3"]).train.learning_rate == 1e-3
    with pytest.raises(ConfigError, match=r"train\.schedule: .*'cosine'.*got False"):
        load_config(path, ["train.schedule=off"])
    with pytest.raises(ConfigError, match=r"train\.num_steps: expected a number, got true"):
        load_config(path, ["train.num_steps=on"])
    with pytest.raises(ConfigError, match=r"train\.learning_rate: .*finite"):
        load_config(path, ["train.learning_rate=.nan"])


def test_all_faults_are_reported_at_once_with_path_and_nearest_key() -> None:
    faulty = {
        **MINIMAL,
        "serch": {},
        "seed": -1,
        "train": {"num_stepz": 3, "num_steps": "three", "augmentation": {"dsa": "colour"}},
        "distill": {
            "name": "distribution_matching",
            "num_step": 5,
            "images_per_class": 0,
            "label": 1,
        },
        "space": {"name": "convnets"},
        "score": {"signals": ["val_los"]},
    }
    with pytest.raises(ConfigError) as caught:
        check_config(faulty)
    message = str(caught.value)
    for expected in (
        "serch: unknown key; did you mean 'search'?",
        "seed: ",
        "train.num_stepz: unknown key; did you mean 'num_steps'?",
        "train.num_steps: ",
        "train.augmentation: unknown augmentation family 'colour' in 'colour'; "
        "did you mean 'color'?",
        "distill.num_step: unknown key; did you mean 'num_steps'?",
        "distill.images_per_class: ",
        "distill.label: unknown key; did you mean 'labels'?",
        "space.name: unknown search space 'convnets'; did you mean 'convnet'?",
    ):
        assert expected in message, f"{expected!r} is missing in:\n{message}"
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"distillation": "self"}, "distillation"),
        ({"retrain": {"distillation": "self"}}, "retrain.distillation"),
        (
            {"calibrate": {"recipes": [{"name": "taught", "distillation": "self"}]}},
            "calibrate.recipes.0.distillation",
        ),
    ],
)
def test_a_key_that_was_renamed_is_answered_with_its_new_name(
    sections: dict[str, Any], where: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_config({**MINIMAL, **sections})
    said = f"{where}: this key is called knowledge_distillation now; rename it"
    assert said in str(caught.value).replace("[0]", ".0")


def test_a_key_that_is_no_longer_needed_is_refused_with_the_reason() -> None:
    validate = {"reference": {"table": "t.csv"}, "num_resamples": 2000, "num_stratified": 12}
    with pytest.raises(ConfigError) as caught:
        check_config({**MINIMAL, "validate": validate})
    assert (
        "validate.num_resamples: this key is no longer needed (intervals follow from the sample "
        "alone and draw nothing); take it out"
    ) in str(caught.value)
    assert (
        "validate.num_stratified: this key is no longer needed (all are drawn uniformly; add its "
        "number to num_architectures); take it out"
    ) in str(caught.value)


def test_a_folder_of_an_earlier_release_is_refused_in_one_sentence(tmp_path: Path) -> None:
    config = check_config({**MINIMAL, "results": str(tmp_path)})
    stored = dict(config.resolved)
    stored["distillation"] = stored.pop("knowledge_distillation")
    folder = config.layout.stage("search")
    folder.mkdir(parents=True)
    record = {"finished": True, "goal": 20, "terms": {}, "inputs": {"stage version": 1, "seed": 0}}
    (folder / "stage.json").write_text(json.dumps(record))
    config.layout.config.write_text(yaml.safe_dump(stored))
    with pytest.raises(StudyError, match="written by another version of nas_proxy") as refused:
        run_pipeline(config, Quiet())
    assert "\n" not in str(refused.value)
    assert json.loads((folder / "stage.json").read_text()) == record


@pytest.mark.parametrize(
    ("section", "value", "expected"),
    [
        ("retrain", {"train": {}}, "give exactly one of num_steps and num_epochs"),
        ("train", {"num_steps": 3, "num_epochs": 3}, "give exactly one"),
        ("train", {"num_steps": 3, "space_fidelity": {"num_cells": 1}}, "not a fidelity"),
        ("score", {"signals": ["val_los"]}, "did you mean 'val_loss'?"),
        ("score", {"signals": []}, "signals is empty"),
        ("score", {"signals": ["naswot", "val_loss"]}, "rank_mean"),
        ("validate", {"reference": {}}, "give exactly one of table and train"),
        ("validate", {"reference": {"table": "t.csv"}, "k": 72}, "must be smaller"),
        ("validate", {"reference": {"table": "t.csv"}, "controls": ["nasw"]}, "'naswot'"),
        ("validate", {}, "validate.reference: missing"),
        ("device", "gpu", "device: it is neither cpu nor cuda nor such as cuda:1 (got 'gpu')"),
        ("study_name", "a/b", "study_name: it names a folder: take at most 100 letters"),
        ("study_name", "..", "study_name: "),
        ("distill", {"images_per_class": 3}, "distill.name: name a distiller"),
        ("distill", 3, "distill: the value should be a section with keys of its own (got 3)"),
        ("distill", "randm", "distill.name: unknown distiller 'randm'"),
        ("train", None, "train: the value should be a section with keys of its own (got None)"),
        ("results", None, "results: the value should be a path (got None)"),
        ("seed", 1.5, "seed: the value should be a whole number (got 1.5)"),
        ("seed", "1e3", "seed: the value should be a whole number, in digits (got '1e3')"),
        ("score", {"signals": "val_loss"}, "score.signals: the value should be a list, such as"),
        ("data", {"root": "photos"}, "such as name: image_folder for a folder of images"),
        ("data", {"download": True}, "digits come with scikit-learn: take download out"),
        ("space", {"name": 3}, "space.name: name a search space"),
        ("search", {"constraints": {"params": 3}}, "did you mean 'num_params'?"),
        ("space", {"name": "convnet", "widths": [30], "norms": ["group"]}, "space"),
    ],
)  # fmt: skip
def test_wrong_values_are_named_with_a_way_out(section: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_config({**MINIMAL, section: value})
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("section", "value", "fault"),
    [
        (
            "train",
            {"num_epochs": 0},
            "train.num_epochs: the value should be greater than or equal to 1, or 'architecture' "
            "(got 0)",
        ),
        (
            "space",
            {"name": "torchvision_backbones", "weights": 3},
            "space.weights: the value should be 'none' or 'default', or a section with keys of its "
            "own (got 3)",
        ),
        (
            "space",
            {"name": "torchvision_backbones", "weights": {"resnet18": 3}},
            "space.weights.resnet18: without quotes YAML reads this as 3, not as text; put the "
            "word in quotes to have it as it is written",
        ),
    ],
)
def test_a_value_that_may_be_of_several_kinds_has_one_fault(
    section: str, value: object, fault: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_config({**MINIMAL, section: value})
    assert str(caught.value) == f"the configuration cannot be used:\n  {fault}"


@pytest.mark.parametrize("section", ["data", "distill", "space"])
def test_the_name_alone_is_the_section_without_options(section: str) -> None:
    names = {"data": "digits", "distill": "random_subset", "space": "convnet"}
    short = check_config({**MINIMAL, section: names[section]})
    assert short == check_config({**MINIMAL, section: {"name": names[section]}})
    assert short.resolved[section]["name"] == names[section]


@pytest.mark.parametrize("section", ["study_name", "space"])
def test_a_missing_section_is_named(section: str) -> None:
    with pytest.raises(ConfigError, match=f"{section}: missing"):
        check_config({name: value for name, value in MINIMAL.items() if name != section})


def test_overrides_create_sections_and_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(MINIMAL))
    config = load_config(path, ["validate.reference.train.num_epochs=2", "data.classes=[3, 5]"])
    assert config.validation is not None
    assert config.validation.reference.train is not None
    assert config.validation.reference.train.num_epochs == 2
    assert config.data.classes == (3, 5)
    for override in ("train", "=3", "train..x=3", "study_name.x=3", "train.num_steps=[1"):
        with pytest.raises(ConfigError, match="override"):
            load_config(path, [override])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("study_name: a\n  train: [", "line 2"),
        ("- a\n- b\n", "must hold sections"),
        ("", "must hold sections"),
        ("a: \t b: c: d", "not valid YAML"),
        ("train:\n  num_steps: 3\n  num_steps: 4\n", "line 3, column 3 .* num_steps stands twice"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_config(write(tmp_path, text))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "binary.yaml")


def test_a_plug_in_from_a_file_is_checked_against_its_own_options(tmp_path: Path) -> None:
    plugin = tmp_path / "half.py"
    plugin.write_text(
        "from dataclasses import dataclass\n"
        "from nas_proxy.distill.random_subset import RandomSubset\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Half(RandomSubset):\n"
        "    share: float = 0.5\n"
    )
    section = {"name": f"{plugin}:Half", "share": 0.25}
    config = check_config({**MINIMAL, "distill": section})
    assert config.resolved["distill"]["share"] == 0.25
    assert config.resolved["distill"]["name"] == f"{plugin}:Half"
    with pytest.raises(ConfigError, match=r"distill\.shares: unknown key; did you mean 'share'\?"):
        check_config({**MINIMAL, "distill": {"name": f"{plugin}:Half", "shares": 1}})


def test_passwords_are_used_and_never_written(tmp_path: Path) -> None:
    tracking, storage = "http://me:secret@host:5000", "postgresql://me:secret@host/trials"
    config = load_config(
        next(path for path in CONFIGS if path.stem == "quickstart"),
        [f"tracking.uri={tracking}", f"search.storage={storage}"],
    )
    assert (config.tracking.uri, config.search.storage) == (tracking, storage)
    assert "secret" not in config.to_yaml()
    assert "secret" not in json.dumps(config.resolved)
    assert "http://***@host:5000" in config.to_yaml()


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        (
            "data.classes",
            "[no, b]",
            r"data\.classes\.0: .* reads no, off and false",
        ),
        (
            "data.classes",
            "[a, yes]",
            r"data\.classes\.1: .* reads yes, on and true",
        ),
        ("data.classes", "[1.5, b]", r"data\.classes\.0: without quotes YAML reads this as 1\.5,"),
        ("study_name", "2024", "study_name: without quotes YAML reads this as 2024, not as text"),
        ("study_name", "2024-05-01", "study_name: .* as 2024-05-01, not as text; put .* in quotes"),
        ("tracking.experiment", "on", r"experiment: without quotes YAML reads yes, on and true"),
    ],
)
def test_words_that_yaml_takes_for_something_else_are_to_be_quoted(
    tmp_path: Path, path: str, text: str, words: str
) -> None:
    file = write(tmp_path, yaml.safe_dump(MINIMAL))
    with pytest.raises(ConfigError, match=words):
        load_config(file, [f"{path}={text}"])
    quoted = "['no', 'yes']" if text.startswith("[") else f"'{text}'"
    load_config(file, [f"{path}={quoted}"])


@pytest.mark.parametrize(
    "uri", ["localhost:5000", "127.0.0.1:5000/", "mlflow.example.org:443/x", "user:word@host:5000"]
)
def test_an_address_without_its_beginning_is_refused(uri: str) -> None:
    shown = uri.rpartition("@")[2]
    with pytest.raises(ConfigError, match=f"tracking: uri: .*write http://{shown}") as caught:
        check_config({**MINIMAL, "tracking": {"uri": uri}})
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["http://localhost:5000", "sqlite:///a.db", "postgresql://u:p@h:5432/d", "runs", None]
)
def test_other_addresses_are_taken(uri: str | None) -> None:
    assert check_config({**MINIMAL, "tracking": {"uri": uri}}).tracking.uri == uri
