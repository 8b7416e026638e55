"""The guard: candidates of a search that are trained on full data while it runs."""

import json
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from optuna.storages import InMemoryStorage
from scipy.stats import spearmanr

from nas_proxy.errors import ConfigError
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.search.guard import Guard, RecalibrationNeeded
from nas_proxy.search.settings import GuardSettings
from nas_proxy.study.config import check_config
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Fidelity
from tests.search.helpers import SEED, Evaluators, Instant, Threads, hill, make_task, search

FULL = Fidelity("full data", 100, 1, 8)


class Killed(BaseException):
    """The program ends here."""


@dataclass
class FullData(Evaluators):
    """Trains on full data: the same hill, unless another `value` is given; counts what it did."""

    fidelity: Fidelity = FULL
    dies_at: int = 0

    def evaluate(self, architecture, seed):
        if self.dies_at and sum(self.counts.values()) + 1 == self.dies_at:
            raise Killed
        return replace(super().evaluate(architecture, seed), seconds=3.0, core_seconds=2.0)


def upside_down(architecture):
    return -hill(architecture)


def guarded(folder, full=None, *, executor=None, storage=None, n_trials=40, seed=SEED, **settings):
    """A search with a guard; its outcome, the guard's checks, and whether each was new."""
    executor = executor or Instant()
    settings = GuardSettings(
        **{
            "every": 10,
            "num_best": 4,
            "num_random": 4,
            "train": TrainSettings(num_steps=1),
            "threshold": 0.8,
            **settings,
        }
    )
    told = []
    guard = Guard(
        settings,
        full or FullData(),
        executor,
        EvaluationLog(folder / "guard.jsonl"),
        folder / "guard.json",
        seed=seed,
        on_check=lambda check, is_new: told.append((check, is_new)),
    )
    task = replace(make_task(n_trials=n_trials), guard=guard)
    outcome = search(task, EvaluationLog(folder / "evaluations.jsonl"), storage, executor)
    return outcome, told


def test_quiet_where_the_ranking_holds(tmp_path):
    full = FullData()
    outcome, told = guarded(tmp_path, full, action="stop")
    checks = [check for check, _ in told]
    assert (len(outcome.trials), outcome.stopped) == (40, "")
    assert [check.num_trials for check in checks] == [10, 20, 30, 40]
    assert [check.verdict for check in checks] == ["open", "holds", "holds", "holds"]
    assert [check.basis for check in checks] == ["everyone", "everyone", "random", "random"]
    assert [check.n_random for check in checks] == [4, 8, 12, 16]
    assert checks[-1].random.value == checks[-1].everyone.value == pytest.approx(1)
    # What was paid for is on the ledger: once for each architecture.
    log = EvaluationLog(tmp_path / "guard.jsonl")
    assert set(full.counts.values()) == {1}
    assert {e.architecture for e in log} == set(full.counts)
    stored = json.loads((tmp_path / "guard.json").read_text())
    assert stored["seconds"] == 3.0 * len(full.counts)
    assert {e.architecture.id for e in log} == {p["architecture_id"] for p in stored["points"]}


def test_who_is_picked(tmp_path):
    outcome, _ = guarded(tmp_path, num_best=3, num_random=4)
    points = json.loads((tmp_path / "guard.json").read_text())["points"]
    scores = {number: score for number, _, score in outcome.trials}
    assert all(point["score"] == scores[point["trial"]] for point in points)
    random = Counter(
        position // 10
        for position, (number, _, _) in enumerate(outcome.trials)
        for point in points
        if point["trial"] == number and point["picked_as"] == "random"
    )
    assert random == {0: 4, 1: 4, 2: 4, 3: 4}  # as many of each ten: all are as likely
    best = {point["trial"] for point in points if point["picked_as"] == "best"}
    for until in (10, 20, 30, 40):
        so_far = sorted(outcome.trials[:until], key=lambda trial: -trial[2])
        assert {number for number, _, _ in so_far[:3]} <= best


def test_the_estimate_is_spearmans_rho_of_the_candidates(tmp_path):
    _, told = guarded(tmp_path, FullData(value=lambda a: hill(a) % 7), threshold=-1, num_random=3)
    points = json.loads((tmp_path / "guard.json").read_text())["points"]
    unique = {p["trial"]: p for p in points}.values()
    random = [p for p in points if p["picked_as"] == "random"]
    last = told[-1][0]
    for found, n, chosen in (
        (last.everyone, last.n, unique),
        (last.random, last.n_random, random),
    ):
        x, y = zip(*((p["score"], p["val_accuracy"]) for p in chosen), strict=True)
        assert n == len(x)
        assert found.value == pytest.approx(spearmanr(x, y).statistic)
        assert found.low < found.value < found.high


@pytest.mark.parametrize("num_workers", [1, 2])
def test_stops_beyond_doubt_with_what_it_has(num_workers, tmp_path, pool):
    executor = Instant() if num_workers == 1 else Threads(pool, num_workers, 0)
    full = FullData(value=upside_down)
    outcome, told = guarded(tmp_path, full, executor=executor, action="stop")
    check = told[-1][0]
    assert (check.verdict, check.num_trials, len(told)) == ("fell", 20, 2)
    assert check.found.high < 0.8
    # What was in flight is paid for, so it counts.
    assert len(outcome.trials) == (20 if num_workers == 1 else 23)
    assert len(EvaluationLog(tmp_path / "evaluations.jsonl")) == len(outcome.trials)
    assert outcome.stopped == check.sentence
    assert "it fell below the threshold .80 beyond doubt" in outcome.stopped


@pytest.mark.parametrize("action", ["warn", "recalibrate"])
def test_what_follows_is_configured(action, tmp_path):
    full = FullData(value=upside_down)
    if action == "warn":
        outcome, told = guarded(tmp_path, full, action=action)
        assert (len(outcome.trials), outcome.stopped) == (40, "")
        assert [check.verdict for check, _ in told] == ["open", "fell", "fell", "fell"]
        return
    with pytest.raises(
        RecalibrationNeeded, match=r"guard, 20 trials: .* calibrated again"
    ) as found:
        guarded(tmp_path, full, action=action)
    assert found.value.check.verdict == "fell"
    assert len(EvaluationLog(tmp_path / "guard.jsonl")) > 0
    assert len(json.loads((tmp_path / "guard.json").read_text())["checks"]) == 2


def test_below_but_not_beyond_doubt_is_only_said(tmp_path):
    # The squares of one colour are worth more than their score says.
    full = FullData(value=lambda a: hill(a) + 30 * (sum(a.genotype) % 2))
    outcome, told = guarded(tmp_path, full, action="stop", n_trials=20, threshold=0.85)
    check = told[-1][0]
    assert check.found.value < 0.85 < check.found.high
    assert (check.verdict, outcome.stopped) == ("below", "")
    assert "below the threshold .85, but not beyond doubt" in check.sentence


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("dies_at", [1, 4, 6, 9])
def test_killed_in_a_check_and_continued(dies_at, num_workers, tmp_path, pool, wait_for_all):
    def run(folder, full, storage):
        executor = Instant() if num_workers == 1 else Threads(pool, num_workers, 0)
        return guarded(folder, full, executor=executor, storage=storage)

    expected, told = run(tmp_path / "whole", FullData(), InMemoryStorage())
    full, storage = FullData(dies_at=dies_at), InMemoryStorage()
    with pytest.raises(Killed):
        run(tmp_path / "killed", full, storage)
    wait_for_all()
    in_flight = set(full.counts) - {
        e.architecture for e in EvaluationLog(tmp_path / "killed" / "guard.jsonl")
    }
    outcome, continued = run(tmp_path / "killed", replace(full, dies_at=0), storage)
    # As without the kill, and nothing that was finished is done again.
    assert [t[1].architecture for t in outcome.trials][:10] == [
        t[1].architecture for t in expected.trials
    ][:10]
    assert continued[0][0] == told[0][0]
    assert all(full.counts[a] == 1 for a in set(full.counts) - in_flight)
    # Looking once more costs nothing and says the same.
    counts = Counter(full.counts)
    again, checks = run(tmp_path / "killed", full, storage)
    assert full.counts == counts
    assert [(check, False) for check, _ in continued] == checks
    assert again.trials == outcome.trials


def test_a_search_that_was_stopped_stays_stopped(tmp_path):
    storage = InMemoryStorage()
    for n_trials in (40, 60):
        full = FullData(value=upside_down)
        outcome, _ = guarded(tmp_path, full, storage=storage, action="stop", n_trials=n_trials)
        assert (len(outcome.trials), bool(outcome.stopped)) == (20, True)


def test_failures_and_constants_give_no_verdict(tmp_path):
    fails = FullData(reason=lambda a: "too large" if sum(a.genotype) % 2 else "")
    _, told = guarded(tmp_path / "fails", fails, n_trials=30)
    check = told[-1][0]
    points = json.loads((tmp_path / "fails" / "guard.json").read_text())["points"]
    assert check.num_failed == len({p["trial"] for p in points if p["reason"] == "too large"}) > 0
    assert check.n == len({p["trial"] for p in points if p["val_accuracy"] is not None})

    constant = FullData(value=lambda a: 0.5)
    outcome, told = guarded(tmp_path / "constant", constant, n_trials=20, action="stop")
    assert told[-1][0].verdict == "open"
    assert "no correlation yet over" in told[-1][0].sentence
    assert outcome.stopped == ""


def test_a_guard_must_know_how_to_train():
    config = {
        "study_name": "s",
        "distill": {"name": "random_subset"},
        "space": {"name": "convnet"},
        "train": {"num_steps": 1},
    }
    assert check_config(config).search.guard.every is None
    with pytest.raises(ConfigError, match=r"search.guard: every is set but train is not"):
        check_config(config | {"search": {"guard": {"every": 5}}})
    guard = {"every": 5, "train": {"num_steps": 3}, "threshold": 2}
    with pytest.raises(ConfigError, match=r"search.guard.threshold: "):
        check_config(config | {"search": {"guard": guard}})
