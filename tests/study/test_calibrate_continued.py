"""What becomes of a calibrated recipe, and a calibration whose money runs out."""

import json
from dataclasses import replace
from types import SimpleNamespace

import optuna
import pytest

from nas_proxy.errors import StudyError
from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.search import guard as guard_module
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.study.config import check_config
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.study.stages.calibrate import Calibrate
from nas_proxy.study.stages.search import Search
from nas_proxy.types import Architecture
from tests.helpers.display import Quiet
from tests.study.helpers_calibrate import (
    CONFIG,
    DISTILLED,
    SHORT,
    ZERO_COST,
    Interrupted,
    genotypes,
    logs,
    result_of,
    run,
    table,
)

pytestmark = pytest.mark.usefixtures("no_test_split")


# --- budgets ----------------------------------------------------------------------------------


@pytest.fixture
def second_each(monkeypatch):
    """Every evaluation is said to take a second."""
    evaluate, done = NetworkEvaluator.evaluate, []

    def timed(self, architecture, seed):
        done.append(architecture)
        found = evaluate(self, architecture, seed)
        return replace(found, seconds=1.0, core_seconds=1.0)

    monkeypatch.setattr(NetworkEvaluator, "evaluate", timed)
    return done


# Correlated about as the threshold asks: no round decides it.
OPEN = {"num_architectures": 30, "threshold": 0.3, "recipes": [ZERO_COST], "when_none": "best"}


@pytest.mark.parametrize(("budget", "num"), [(0.5, 12), (50, 24), (1000, 30)])
def test_a_budget_ends_it_after_a_round(tmp_path, second_each, budget, num):
    reference = table(tmp_path, agreement=0.8)
    run(tmp_path, calibrate={**OPEN, "reference": reference, "budget_seconds": budget})
    result = result_of(tmp_path)
    assert result["num_architectures"] == num
    assert result["num_asked"] == 30
    assert result["seconds"] == pytest.approx(2 * num)  # two signals
    assert not result["trusted"]
    assert f"with the {num} full-data references" in result["verdict"]


def test_a_budget_is_not_spent_twice_after_a_kill(tmp_path, second_each, monkeypatch):
    asked = {**OPEN, "reference": table(tmp_path, agreement=0.8), "budget_seconds": 50}
    timed = NetworkEvaluator.evaluate

    def dying(self, architecture, seed):
        if len(second_each) == 24 + 8:  # in the second round
            raise Interrupted
        return timed(self, architecture, seed)

    monkeypatch.setattr(NetworkEvaluator, "evaluate", dying)
    with pytest.raises(Interrupted):
        run(tmp_path, calibrate=asked)
    monkeypatch.setattr(NetworkEvaluator, "evaluate", timed)
    run(tmp_path, calibrate=asked)
    assert result_of(tmp_path)["num_architectures"] == 24
    assert len(second_each) == 48


# --- the validation, and another study --------------------------------------------------------


@pytest.mark.slow
def test_the_validation_leaves_out_every_genotype_of_a_calibrated_network(tmp_path, monkeypatch):
    def form(space, architecture):
        genotype = architecture.genotype
        return f"{genotype['width']}-{genotype['depth']}-{genotype['norm']}"

    monkeypatch.undo()  # the validation reads the test split
    monkeypatch.setattr(ConvNetSpace, "canonical_form", form)
    validate = {
        "reference": {"train": SHORT},
        "num_architectures": 8,
        "controls": ["num_params"],
        "k": 2,
    }
    run(
        tmp_path,
        last="validate",
        validate=validate,
        calibrate={"num_architectures": 10, "recipes": [ZERO_COST]},
        search={"n_trials": 1, "sampler": "random"},
    )
    points = json.loads((tmp_path / "tiny" / "validate" / "points.json").read_text())["points"]
    asked = logs(tmp_path)["reference"]
    forms = [
        {form(None, SimpleNamespace(genotype=e["genotype"])) for e in entries}
        for entries in (asked, [point["architecture"] for point in points])
    ]
    assert len(points) == 8
    assert not forms[0] & forms[1]


@pytest.mark.exhaustive
def test_another_study_takes_the_trusted_recipe_or_is_refused(tmp_path, monkeypatch):
    monkeypatch.undo()  # the report counts the images of the test split
    tracked = {"tracking": {}, "search": {"n_trials": 3, "sampler": "random"}}
    calibrate = {"recipes": [DISTILLED], "num_architectures": 10}
    said = run(tmp_path, last="report", calibrate=calibrate, **tracked)
    # Its own race chose it, so that figure gives no alias.
    assert any("not trusted: it takes a section validate" in line for line in said)
    validate = {
        "reference": {"train": SHORT},
        "num_architectures": 12,
        "controls": ["num_params"],
        "k": 2,
    }
    said = run(tmp_path, last="report", calibrate=calibrate, validate=validate, **tracked)
    assert any("alias trusted" in line for line in said)
    first = tmp_path / "tiny"

    trusting = {key: value for key, value in CONFIG.items() if key != "calibrate"}
    trusting |= {**tracked, "recipe": "trusted", "study_name": "other", "results": str(tmp_path)}
    display = Quiet()
    run_pipeline(check_config(trusting), display, last="report")
    assert any(line.startswith("recipe: distilled, version 2") for line in display.said)
    other = tmp_path / "other"
    proxies = [(f / "distill" / "proxy.safetensors").read_bytes() for f in (first, other)]
    assert proxies[0] == proxies[1]
    trials = [json.loads((f / "search" / "search.json").read_text()) for f in (first, other)]
    assert [t["recipe"] for t in trials] == ["distilled", "distilled"]
    scores = [[(t["architecture_id"], t["score"]) for t in each["trials"]] for each in trials]
    assert scores[0] == scores[1]

    wider = {"name": "convnet", "widths": [4, 8, 16], "depths": [1, 2]}
    stranger = check_config({**trusting, "study_name": "stranger", "space": wider})
    with pytest.raises(StudyError, match="cannot be trusted here") as raised:
        run_pipeline(stranger, Quiet(), last="search")
    assert "widths [4, 8] (here [4, 8, 16])" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


# --- the search finds a fault with it ---------------------------------------------------------

GUARDED = {
    "n_trials": 6,
    "sampler": "random",
    "guard": {
        "every": 2,
        "num_best": 1,
        "num_random": 1,
        "action": "recalibrate",
        "train": SHORT,
    },
}
# Ten give an interval that ends anywhere.
TEN = {"num_architectures": 10, "recipes": [ZERO_COST], "when_none": "best"}


def falls(monkeypatch, num_times):
    """Make the guard's verdict `fell` for so many checks, whatever it sees."""
    left = [num_times]

    def verdict(found, threshold):
        left[0] -= 1
        return "fell" if left[0] >= 0 else "holds"

    monkeypatch.setattr(guard_module, "_verdict", verdict)


def test_a_ranking_that_fell_is_calibrated_again_on_more(tmp_path, monkeypatch):
    falls(monkeypatch, 1)
    said = run(tmp_path, last="search", calibrate=TEN, search=GUARDED)
    study = tmp_path / "tiny"
    before = study / "search_before_recalibration"
    checked = [
        json.loads(line)["architecture"]
        for line in (before / "guard.jsonl").read_text().splitlines()
    ]
    result = result_of(tmp_path)
    asked = genotypes(point["architecture"] for point in result["points"])
    assert set(genotypes(checked)) <= set(asked)
    assert result["num_asked"] == len(set(asked)) > 10
    # What was measured is kept, and only what is new was measured.
    for entries in logs(tmp_path).values():
        assert sorted(genotypes(entries)) == sorted(asked)
    assert len((before / "evaluations.jsonl").read_text().splitlines()) >= 2
    assert len(json.loads((study / "search" / "search.json").read_text())["trials"]) == 6
    assert sum("the recipe has to be calibrated again" in line for line in said) == 1
    assert sum(line.startswith("calibrate: ") for line in said) == 2
    # A finished study stays finished.
    assert "search: finished already" in run(tmp_path, last="search", calibrate=TEN, search=GUARDED)


@pytest.mark.parametrize("killed_in", [Calibrate, Search])
def test_a_kill_after_a_ranking_fell_loses_nothing(tmp_path, monkeypatch, killed_in):
    falls(monkeypatch, 1)
    run_it = killed_in.run

    def dying(self, study, folder):
        if study.layout.before_recalibration.exists():
            raise Interrupted
        run_it(self, study, folder)

    with monkeypatch.context() as killing:
        killing.setattr(killed_in, "run", dying)
        with pytest.raises(Interrupted):
            run(tmp_path, last="search", calibrate=TEN, search=GUARDED)
    before = logs(tmp_path)
    run(tmp_path, last="search", calibrate=TEN, search=GUARDED)
    study = tmp_path / "tiny"
    checked = (study / "search_before_recalibration" / "guard.jsonl").read_text().splitlines()
    result = result_of(tmp_path)
    asked = genotypes(point["architecture"] for point in result["points"])
    assert set(genotypes(json.loads(line)["architecture"] for line in checked)) <= set(asked)
    assert result["num_asked"] == len(asked) > 6
    for name, entries in logs(tmp_path).items():
        assert entries[: len(before[name])] == before[name]
        assert sorted(genotypes(entries)) == sorted(asked)
    assert len(json.loads((study / "search" / "search.json").read_text())["trials"]) == 6


@pytest.mark.exhaustive
def test_in_a_database_the_trials_of_two_recipes_are_two_studies(tmp_path, monkeypatch):
    falls(monkeypatch, 1)
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    run(tmp_path, last="search", calibrate=TEN, search={**GUARDED, "storage": storage})
    names = optuna.get_all_study_names(storage)
    assert len(names) == 2
    assert all(name.startswith("tiny-") for name in names)
    in_database = {
        frozenset(trial.user_attrs["architecture_id"] for trial in found.trials)
        for found in (optuna.load_study(study_name=name, storage=storage) for name in names)
    }
    logged = set()
    for folder in ("search_before_recalibration", "search"):
        lines = (tmp_path / "tiny" / folder / "evaluations.jsonl").read_text().splitlines()
        each = [Architecture.from_json(json.loads(line)["architecture"]).id for line in lines]
        logged.add(frozenset(each))
    assert in_database == logged


def test_a_ranking_that_falls_twice_is_given_up(tmp_path, monkeypatch):
    falls(monkeypatch, 1000)
    words = "although the recipe was calibrated again before; the ranking cannot be trusted here"
    for _ in range(2):  # and so it stays
        with pytest.raises(StudyError, match=words):
            run(tmp_path, last="search", calibrate=TEN, search=GUARDED)
