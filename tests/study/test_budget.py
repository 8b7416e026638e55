"""A budget scales what the configuration leaves open, once, and the study keeps it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from nas_proxy.errors import ConfigError
from nas_proxy.statistics.words import duration_seconds
from nas_proxy.study import budgeting
from nas_proxy.study.budget import LEVELS, Amount, Sizes, is_given, with_values
from nas_proxy.study.budgeting import ChosenSizes, Fit, largest_that_fits, within_budget
from nas_proxy.study.config import check_config
from nas_proxy.study.estimate import Timed
from nas_proxy.study.looking import look_at
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.types import DatasetSpec
from tests.helpers.display import Quiet

SPACE = {"name": "convnet", "widths": [4, 8], "depths": [1, 2]}
STUDY = {
    "study_name": "budgeted",
    "budget": "10min",
    "data": {"name": "digits", "images_per_class": 12},
    "space": SPACE,
    "tracking": {"enabled": False},
}
SPEC = DatasetSpec(
    name="digits",
    class_names=("0", "1"),
    image_shape=(1, 64, 64),
    mean=(0.5,),
    std=(0.5,),
    licence="",
    source_hash="",
)


def sizes(num_cores: int = 4, num_images: int = 1000, num_networks: int = 128, **sections) -> Sizes:
    return Sizes(check_config({**STUDY, **sections}), SPEC, num_images, num_cores, num_networks)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine on which a step takes so many seconds of a core, whatever is trained."""

    class Machine:
        step = 0.01

    class Stopwatch:
        def __init__(self, study, seconds, num_workers, progress) -> None:
            self.study = study

        def measure(self, plans) -> None:
            pass

        def price(self, unit):
            train = getattr(unit, "train", None)
            steps = 1 if train is None else train.steps_for(unit.num_images)
            return Timed((Machine.step * steps,), is_exact=True)

    monkeypatch.setattr(budgeting, "Timekeeper", Stopwatch)
    monkeypatch.setattr(budgeting, "num_cores", lambda: 2)
    return Machine


# Durations and amounts


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10min", 600), ("2h", 7200), ("1d", 86_400), ("1h 30min", 5400), ("1.5h", 5400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_seconds(text) == seconds
    assert check_config({**STUDY, "budget": text}).budget == text


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (600, "budget: it has no unit; write 90s"),
        (True, "budget: it has no unit"),
        ("600", "budget: no duration; write a number with its unit"),
        ("10 minutes", "budget: no duration"),
        ("-5min", "budget: no duration"),
        ("5min or so", "budget: no duration"),
        ("0s", "budget: no time at all"),
    ],
)
def test_a_wrong_budget_is_refused_in_one_sentence(budget, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        check_config({**STUDY, "budget": budget})
    assert len(str(caught.value).splitlines()) == 2


def test_amounts_grow_from_the_least_to_the_most() -> None:
    amount = Amount(12, 200)
    found = [amount.at(level) for level in range(LEVELS + 1)]
    assert (found[0], found[-1]) == (12, 200)
    assert found == sorted(found)


@pytest.mark.parametrize("available", [0.5, 1.0, 7.3, 20.0, 1e9])
def test_the_largest_that_fits_is_the_one_that_a_search_of_all_finds(available: float) -> None:
    def seconds(fit: Fit) -> float:
        return 1.0 + 0.5 * fit.level

    fitting = [level for level in range(LEVELS + 1) if seconds(Fit(level)) <= available]
    found = largest_that_fits(seconds, available)
    assert (None if found is None else found.level) == max(fitting, default=None)


# What is scaled


def test_everything_that_is_open_is_scaled_and_nothing_else() -> None:
    free = sizes().at(0, calibrates=False)
    assert {option.split(".")[0] for option in free} == {
        "train", "recipe", "search", "validate", "retrain"
    }  # fmt: skip
    fixed = {
        "train": {"num_steps": 7, "batch_size": 5, "image_size": 16},
        "search": {"n_trials": 3, "executor": "serial"},
        "validate": {"num_architectures": 12, "reference": {"train": {"num_epochs": 1}}},
        "retrain": {"num_seeds": 2, "train": {"num_epochs": 4}, "comparisons": []},
        "score": {"signals": ["val_accuracy"]},
        "distill": {"name": "distribution_matching", "num_steps": 9},
    }
    assert sizes(**fixed).at(5, calibrates=False) == {}


@pytest.mark.parametrize("calibrates", [False, True])
@pytest.mark.parametrize("level", [0, pytest.param(11, marks=pytest.mark.exhaustive), LEVELS])
def test_what_is_chosen_is_a_configuration_that_keeps_what_was_given(level, calibrates) -> None:
    given = {"search": {"n_trials": 3}, "train": {"learning_rate": 0.02}, "retrain": None}
    values = sizes(**given).at(level, calibrates=calibrates)
    config = check_config(with_values({**STUDY, **given}, values))
    assert config.search.n_trials == 3
    assert config.train.learning_rate == 0.02
    assert config.retrain is None
    assert config.validation.reference.train.learning_rate == 0.02
    assert config.recipe == "calibrated" if calibrates else config.recipe.name == "self_labelled"
    assert check_config(yaml.safe_load(config.to_yaml())) == config
    if not calibrates:
        short = config.recipe.stages[-1].train
        assert (short.num_steps, short.image_size) == (config.train.num_steps, 32)
        full = config.validation.reference.train.steps_for(1000)
        assert full >= 2 * short.num_steps  # a reference is longer than what it judges


def test_published_settings_stay_where_they_are_asked_for() -> None:
    method = {"name": "distribution_matching"}
    scaled = sizes(distill=method, recipe="configured").at(0, calibrates=False)
    assert scaled["distill.num_steps"] == 50
    asked = sizes(distill={**method, "preset": "published"}, recipe="configured")
    assert "distill.num_steps" not in asked.at(0, calibrates=False)
    assert asked.config.distiller.num_steps == 20_000
    with pytest.raises(ConfigError, match=r"distill\.preset"):
        sizes(distill={**method, "preset": "fast"})


def test_a_small_space_leaves_enough_to_validate_on() -> None:
    values = sizes(num_networks=50).at(LEVELS, calibrates=False)
    assert values["validate.num_architectures"] == {"max": 18}


@pytest.mark.parametrize(
    ("option", "given"),
    [("a", True), ("a.b", True), ("a.c", False), ("d", False), ("e.f", True), ("g", False)],
)
def test_what_is_given(option: str, given: bool) -> None:
    assert is_given({"a": {"b": 0}, "e": 3, "g": None}, option) is given


# Choosing


@pytest.mark.parametrize(
    "step", [0.01, *(pytest.param(step, marks=pytest.mark.exhaustive) for step in (0.006, 0.03))]
)
def test_the_estimated_parts_fit_in_the_budget(machine, tmp_path: Path, step: float) -> None:
    """Recomputed from the configuration: trainings, steps, two workers."""
    machine.step = step
    config = check_config({**STUDY, "results": str(tmp_path)})
    found = within_budget(config, Quiet())
    num_images = len(look_at(found, Quiet()).splits.search_train)

    def steps(train) -> int:
        return train.steps_for(num_images)

    candidates = found.recipe.num_reference + found.search.n_trials
    n, retrain = found.validation.max_architectures, found.retrain
    short, full = steps(found.recipe.stages[-1].train), steps(found.validation.reference.train)
    networks = 1 + len(retrain.comparisons)
    retrained = networks * retrain.num_seeds * steps(retrain.train)
    core = step * ((candidates + n) * short + n * full + retrained)
    assert core / 2 < 0.9 * 600 - 30
    assert found.search.num_workers == 2
    chosen = ChosenSizes.read(config.layout.budget)
    # Zero-cost scores are the rest; a network that is trained alone has one worker.
    assert core / 2 <= chosen.expected_seconds < core / 2 + 30 + step * 8 * steps(retrain.train)
    if chosen.level < LEVELS:  # and the next size does not fit
        assert chosen.expected_seconds > 0.7 * (0.9 * 600 - 30)


def test_a_study_keeps_its_sizes_though_the_machine_changes(machine, tmp_path: Path) -> None:
    config = check_config({**STUDY, "results": str(tmp_path)})
    display = Quiet()
    first = within_budget(config, display)
    assert any("a few steps" in said for said in display.said)
    machine.step = 1e6
    again, display = within_budget(config, Quiet()), Quiet()
    assert again == first
    assert dict(again.resolved) == dict(first.resolved)
    larger = check_config({**STUDY, "results": str(tmp_path), "search": {"n_trials": 300}})
    assert within_budget(larger, display).search.n_trials == 300
    assert not any("a few steps" in said for said in display.said)
    other = check_config({**STUDY, "results": str(tmp_path), "budget": "2h"})
    with pytest.raises(ConfigError, match="this study was begun with 10min"):
        within_budget(other, Quiet())
    shutil.copytree(config.layout.folder, tmp_path / "kept")
    machine.step = 1e-4
    assert within_budget(config, Quiet(), anew=True).search.n_trials > first.search.n_trials
    shutil.rmtree(config.layout.folder)
    shutil.move(tmp_path / "kept", config.layout.folder)
    spelt = check_config({**STUDY, "results": str(tmp_path), "budget": "600s"})
    assert within_budget(spelt, Quiet()).search == first.search


def test_a_budget_that_is_too_short_says_what_the_least_is(machine, tmp_path: Path) -> None:
    machine.step = 1.0
    config = check_config({**STUDY, "results": str(tmp_path)})
    with pytest.raises(
        ConfigError, match=r"10min is too short .* set budget to (\d+)min"
    ) as caught:
        within_budget(config, Quiet())
    assert not config.layout.folder.exists()
    enough = str(caught.value).split("set budget to ")[1].split(" ")[0]
    allowed = check_config({**STUDY, "results": str(tmp_path), "budget": enough})
    assert within_budget(allowed, Quiet()).search.n_trials >= 12


@pytest.mark.exhaustive
def test_full_trainings_are_bought_where_there_is_time_for_them(machine, tmp_path: Path) -> None:
    machine.step = 1e-5
    config = check_config({**STUDY, "results": str(tmp_path), "budget": "1d"})
    found = within_budget(config, Quiet())
    assert found.recipe == "calibrated"
    assert found.calibration.when_none == "best"
    scored = check_config({**dict(config.given), "score": {"signals": ["val_accuracy"]}})
    assert within_budget(replace(scored, results=tmp_path / "b"), Quiet()).recipe == "configured"


def test_a_plan_chooses_and_writes_nothing(machine, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "cache"))
    config = check_config({**STUDY, "results": str(tmp_path / "results")})
    seen = within_budget(config, Quiet(), write=False)
    assert not config.layout.folder.exists()
    assert seen.budget == "10min"


@pytest.mark.exhaustive
def test_a_study_on_a_folder_ends_with_all_it_was_asked_for(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(20):
            colour = (index, 9 * index, 255 if name == "a" else 0)
            Image.new("RGB", (8, 8), colour).save(tmp_path / "pictures" / name / f"{index}.png")
    config = check_config(
        {
            **STUDY,
            "budget": "1d",
            "data": {"name": "image_folder", "root": str(tmp_path / "pictures"), "image_size": 8},
            "results": str(tmp_path),
            "train": {"num_steps": 2},
            "recipe": "stream_90_alone",
            "search": {"n_trials": 2},
            "validate": {
                "num_architectures": 6,
                "reference": {"train": {"num_steps": 2}},
                "k": 2,
            },
            "retrain": {"num_seeds": 1, "train": {"num_steps": 2}, "comparisons": []},
        }
    )
    display = Quiet()
    run_pipeline(config, display)
    assert any(said.startswith("budget: 1d") for said in display.said)
    resolved = yaml.safe_load(config.layout.config.read_text())
    assert resolved["budget"] == "1d"
    assert json.loads(config.layout.budget.read_text())["values"]["search.executor"] == "processes"
    assert config.layout.retrain_result.is_file()
