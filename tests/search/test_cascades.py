"""Searches whose candidates end early: what they cost, and what Optuna is told."""

from dataclasses import dataclass, field, replace

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nas_proxy.evaluate.cascade import CascadeEvaluator
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.scores.cascade import CascadeScore, CascadeSettings
from nas_proxy.scores.combine import ScoreSettings
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status
from tests.search.helpers import (
    SAMPLERS,
    Grid,
    Instant,
    Threads,
    architectures,
    grid_sizes,
    hill,
    make_task,
    optuna_trials,
    search,
)

FIDELITY = Fidelity("d", 1, 1, 8)
SETTINGS = CascadeSettings(
    (ScoreSettings(signals=("num_params",)), ScoreSettings(signals=("val_accuracy",))),
    (None, 0.3),
    0.9,
)


@dataclass
class Stage:
    """Sees an architecture's height, the first one roughly."""

    signal: str
    asked: list = field(default_factory=list)
    fails: object = lambda architecture: False

    def evaluate(self, architecture, seed):
        self.asked.append(architecture)
        if self.fails(architecture):
            return Evaluation(architecture, FIDELITY, seed, Status.FAILED, reason="diverged")
        height = hill(architecture)
        rough = height // 10 if self.signal == "num_params" else height
        seconds = {self.signal if self.signal == "num_params" else "training": 1.0}
        signals = {self.signal: float(rough)}
        return Evaluation(
            architecture, FIDELITY, seed, Status.COMPLETE, signals, signal_seconds=seconds,
            seconds=1.0, core_seconds=1.0,
        )  # fmt: skip


def known():
    """The whole grid, through both stages."""
    stages = (Stage("num_params"), Stage("val_accuracy"))
    everything = CascadeEvaluator(stages, FIDELITY, None)
    grid = [Architecture("grid", [x, y]) for x in range(10) for y in range(10)]
    return [everything.evaluate(a, 3) for a in grid], {a: float(hill(a)) for a in grid}


SCORE = CascadeScore(SETTINGS, *known(), None)


@dataclass
class Staged:
    """The factory, with its stages at hand."""

    stages: tuple = field(default_factory=lambda: (Stage("num_params"), Stage("val_accuracy")))
    fidelity: Fidelity = FIDELITY

    def build(self):
        return CascadeEvaluator(self.stages, self.fidelity, SCORE)


def task(staged=None, **settings):
    return replace(make_task(staged or Staged(), **settings), score=SCORE)


def scored(outcome):
    return [(e.architecture, score, e.num_stages) for _, e, score in outcome.trials]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_does_not_go_on_costs_its_first_stage_alone(log, sampler):
    staged, storage = Staged(), InMemoryStorage()
    space = _Mutating()
    outcome = search(task(staged, space=space, sampler=sampler, n_trials=30), log, storage)
    first, second = (stage.asked for stage in staged.stages)
    assert len(first) == 30
    assert 0 < len(second) < 30
    for evaluation in (e for _, e, _ in outcome.trials):
        goes_on = evaluation.signals["num_params"] >= SCORE.cuts[1].score
        assert evaluation.num_stages == 1 + goes_on
        assert (evaluation.architecture in second) == goes_on
    by_stage = {n: [s for _, s, m in scored(outcome) if m == n] for n in (1, 2)}
    assert max(by_stage[1]) < min(by_stage[2])
    told = [t for t in optuna_trials(storage) if t.state == TrialState.COMPLETE]
    stages = {e.architecture.id: e.num_stages for _, e, _ in outcome.trials}
    for trial in told:
        if "stage_reached" in trial.user_attrs:  # not of one that was known already
            assert trial.user_attrs["stage_reached"] == stages[trial.user_attrs["architecture_id"]]
    assert sum("stage_reached" in t.user_attrs for t in told) == 30


@dataclass(frozen=True, kw_only=True)
class _Mutating(Grid):
    def mutate(self, architecture, generator):
        x, y = architecture.genotype
        return Architecture(self.name, [(x + 1) % self.side, y])


def test_a_failure_in_the_second_stage_is_one(log):
    staged = Staged()
    staged.stages[1].fails = lambda a: a.genotype[0] == 6
    outcome = search(task(staged, n_trials=60), log)
    failed = [(e, s) for _, e, s in outcome.trials if not e.complete]
    assert failed
    assert all(s is None and e.reason == "in stage 2: diverged" for e, s in failed)


@pytest.mark.parametrize("num_workers", [1, 4])
def test_with_several_objectives_and_constraints(log, pool, num_workers):
    objectives = ("score", "num_params")
    settings = {"objectives": objectives, "constraints": {"flops": 6000}, "n_trials": 25}
    executor = Instant() if num_workers == 1 else Threads(pool, num_workers, 1)
    from nas_proxy.search.settings import Constraints

    settings["constraints"] = Constraints(flops=6000)
    storage = InMemoryStorage()
    outcome = search(task(sizes=grid_sizes, **settings), log, storage, executor)
    assert {n for _, _, n in scored(outcome)} == {1, 2}
    assert all(a.genotype[1] < 6 for a in architectures(outcome))
    values = {t.user_attrs["architecture_id"]: t.values for t in optuna_trials(storage) if t.values}
    for architecture, score, _ in scored(outcome):
        assert values[architecture.id] == [score, grid_sizes(architecture)["num_params"]]


def test_a_search_that_goes_on_repeats_no_stage(tmp_path):
    storage = InMemoryStorage()
    whole = search(task(n_trials=20), EvaluationLog(tmp_path / "whole.jsonl"))
    search(task(n_trials=9), EvaluationLog(tmp_path / "log.jsonl"), storage)
    staged = Staged()
    found = search(task(staged, n_trials=20), EvaluationLog(tmp_path / "log.jsonl"), storage)
    assert len(staged.stages[0].asked) == 11
    assert len(found.trials) == len(whole.trials) == 20
    for architecture, score, reached in scored(found):
        assert score == SCORE.of(SCORE_OF[architecture])
        assert reached == SCORE.place(SCORE_OF[architecture]).num_stages


SCORE_OF = {e.architecture: e for e in known()[0]}
