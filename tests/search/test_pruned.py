"""Searches in which Optuna's pruners end candidates: who, in which order, and after a kill."""

import itertools
from collections import Counter
from dataclasses import dataclass, field, replace

import optuna
import pytest
from optuna.pruners import (
    HyperbandPruner,
    MedianPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nas_proxy.errors import StudyError
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.evaluate.rungs import continued
from nas_proxy.scores.combine import SingleSignal
from nas_proxy.search.pruner_settings import PrunerSettings
from nas_proxy.search.settings import Constraints
from nas_proxy.search.storage import open_storage
from nas_proxy.search.task import Pruning, Rung
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status
from tests.search.helpers import (
    SAMPLERS,
    SEED,
    Grid,
    Instant,
    Killed,
    Threads,
    grid_sizes,
    hill,
    killed_at,
    make_task,
    optuna_trials,
    search,
)

MOMENTS = dict(study=("ask", "tell"), trial=("set_user_attr", "report", "should_prune"))

FIDELITY = Fidelity("d", 100, 1, 8)
STEPS = (25, 50, 75)
PRUNERS = {
    "median": (PrunerSettings(name="median", n_startup_trials=2), MedianPruner(2)),
    "percentile": (
        PrunerSettings(name="percentile", percentile=30.0, n_startup_trials=1, n_warmup_steps=40),
        PercentilePruner(30.0, 1, 40),
    ),
    "successive_halving": (
        PrunerSettings(name="successive_halving", reduction_factor=2),
        SuccessiveHalvingPruner(min_resource=25, reduction_factor=2),
    ),
    "hyperband": (
        PrunerSettings(name="hyperband", reduction_factor=2, min_resource=20),
        HyperbandPruner(min_resource=20, max_resource=100, reduction_factor=2),
    ),
}
by_name = pytest.mark.parametrize("name", list(PRUNERS))


def height_at(architecture, step):
    """Rough at first: what an architecture is worth shows little by little."""
    x, y = architecture.genotype
    return hill(architecture) * step / 100 + ((7 * x + 3 * y) % 5) * (100 - step) / 50


@dataclass
class Part:
    """Trains up to a rung, and counts its steps."""

    start: int
    end: int
    steps: Counter
    fails: object
    fidelity: Fidelity = FIDELITY

    def build(self):
        return self

    def evaluate(self, architecture, seed):
        assert seed == SEED
        self.steps[architecture] += self.end - self.start
        made = Evaluation(architecture, FIDELITY, seed, Status.COMPLETE, seconds=1.0)
        if self.fails(architecture) and self.end >= 50:
            return replace(made, status=Status.FAILED, reason="diverged")
        reached = [step for step in STEPS if step <= self.end]
        signals = {f"val_accuracy@{step}": height_at(architecture, step) for step in reached}
        if self.end < 100:
            return replace(made, status=Status.PARTIAL, rung=self.end, signals=signals)
        return replace(made, signals={**signals, "val_accuracy": height_at(architecture, 100)})


@dataclass
class Divided:
    """The jobs of a candidate, and what they trained and forgot."""

    steps: Counter = field(default_factory=Counter)
    discarded: list = field(default_factory=list)
    fails: object = lambda architecture: False

    def task(self, name="median", **settings):
        pruner = PRUNERS[name][0] if isinstance(name, str) else name
        ends = (0, *STEPS, 100)
        *rungs, last = [
            Part(start, end, self.steps, self.fails) for start, end in itertools.pairwise(ends)
        ]
        made = [Rung(part.end, part, SingleSignal(f"val_accuracy@{part.end}")) for part in rungs]
        pruning = Pruning(tuple(made), continued, self.discarded.append)
        asked = {"n_trials": 24, **settings, "pruner": pruner}
        return replace(make_task(last, **asked), pruning=pruning)


@dataclass(frozen=True, kw_only=True)
class Mutating(Grid):
    def mutate(self, architecture, generator):
        x, y = architecture.genotype
        return Architecture(self.name, [(x + 1) % self.side, y])


def found(outcome):
    return [(n, e.architecture, e.status, e.rung, score) for n, e, score in outcome.trials]


def entered(storage):
    return [t for t in optuna_trials(storage) if "turns" in t.user_attrs]


# Each kind once; every pair of them with the exhaustive tests.
PAIRS = [
    pytest.param(name, sampler, marks=() if at == other else pytest.mark.exhaustive)
    for at, name in enumerate(PRUNERS)
    for other, sampler in enumerate(SAMPLERS)
]


@pytest.mark.parametrize(("name", "sampler"), PAIRS)
def test_the_same_search_whoever_evaluates(name, sampler, tmp_path, pool):
    def once(number, executor):
        log = EvaluationLog(tmp_path / f"{number}.jsonl")
        task = Divided().task(name, sampler=sampler, space=Mutating(), n_trials=14)
        return found(search(task, log, InMemoryStorage(), executor))

    expected = once(0, Instant())
    assert {status for _, _, status, _, _ in expected} == {Status.COMPLETE, Status.PARTIAL}
    assert once(1, Threads(pool, 2, 1)) == expected


@by_name
def test_verdicts_are_those_of_optuna(name, log):
    """A plain study with the same pruner, told what the storage holds, in its order."""
    storage = InMemoryStorage()
    outcome = search(Divided().task(name, n_trials=20), log, storage)
    plain = optuna.create_study(study_name="study", direction="maximize", pruner=PRUNERS[name][1])
    trials = entered(storage)
    copies = [plain.ask() for _ in optuna_trials(storage)]
    turns = sorted(
        (turn, job, trial.number, trial)
        for trial in trials
        for job, turn in enumerate(trial.user_attrs["turns"])
    )
    assert [turn for turn, *_ in turns] == list(range(len(turns)))
    for _, job, number, trial in turns:
        is_last = job == len(trial.user_attrs["turns"]) - 1
        if job == len(STEPS):
            assert trial.state is TrialState.COMPLETE
            plain.tell(number, trial.value)
            continue
        copies[number].report(trial.intermediate_values[STEPS[job]], STEPS[job])
        assert copies[number].should_prune() == is_last
        if is_last:
            assert trial.state is TrialState.PRUNED
            plain.tell(number, state=TrialState.PRUNED)
    assert sum(t.state is TrialState.PRUNED for t in trials) == sum(
        e.status is Status.PARTIAL for _, e, _ in outcome.trials
    )


@by_name
def test_what_is_pruned_costs_what_it_trained(name, log):
    divided, storage = Divided(), InMemoryStorage()
    outcome = search(divided.task(name), log, storage)
    pruned = [(n, e) for n, e, _ in outcome.trials if e.status is Status.PARTIAL]
    assert len(outcome.trials) == 24
    assert pruned
    for _, e, score in outcome.trials:
        assert divided.steps[e.architecture] == (e.rung or 100)
        assert e.seconds == {25: 1, 50: 2, 75: 3, 0: 4}[e.rung]
        assert (score is None) == (e.status is Status.PARTIAL)
        assert log.get(e.architecture, SEED) == e
    assert sorted(divided.discarded, key=str) == sorted(divided.steps, key=str)
    by_number = {t.number: t for t in optuna_trials(storage)}
    for number, evaluation in pruned:
        trial = by_number[number]
        assert trial.state is TrialState.PRUNED
        assert trial.user_attrs["rung_reached"] == evaluation.rung == trial.last_step
        assert "reason" not in trial.user_attrs
        values = {s: height_at(evaluation.architecture, s) for s in STEPS if s <= evaluation.rung}
        assert trial.intermediate_values == values


def test_what_is_ruled_out_is_pruned_for_a_reason_and_counted_apart(log):
    storage = InMemoryStorage()
    constraints = Constraints(flops=6000)
    task = Divided().task(sizes=grid_sizes, constraints=constraints)
    outcome = search(task, log, storage)
    ruled_out = [t for t in optuna_trials(storage) if "reason" in t.user_attrs]
    assert {t.state for t in ruled_out} == {TrialState.PRUNED}
    assert len(ruled_out) == outcome.num_infeasible > 0
    assert not any("rung_reached" in t.user_attrs for t in ruled_out)
    assert not any("exceeds" in t.user_attrs.get("reason", "") for t in entered(storage))


def test_a_failure_at_a_later_rung_is_one(log):
    divided = Divided(fails=lambda a: a.genotype[0] % 3 == 0)
    storage = InMemoryStorage()
    outcome = search(divided.task(), log, storage)
    failed = [(n, e) for n, e, _ in outcome.trials if e.status is Status.FAILED]
    assert failed
    for number, evaluation in failed:
        assert evaluation.reason == "diverged"
        assert evaluation.seconds == 2.0
        assert optuna_trials(storage)[number].state is TrialState.FAIL


def test_when_nothing_is_left_it_is_said(log):
    pruner = PrunerSettings(name="successive_halving", bootstrap_count=99)
    with pytest.raises(StudyError, match="none of 24 architectures .* the pruner ended 24, 0"):
        search(Divided().task(pruner), log)


# --- after a kill -----------------------------------------------------------------------------


def events(numbers):
    """Some of them; the others with the exhaustive tests."""
    return [
        pytest.param(n, marks=() if at % 24 == 0 else pytest.mark.exhaustive)
        for at, n in enumerate(numbers)
    ]


@pytest.mark.parametrize("event", events(range(4, 300, 3)))
@pytest.mark.parametrize(
    ("name", "sampler"), [("hyperband", "tpe"), ("median", "regularized_evolution")]
)
def test_killed_anywhere_it_ends_as_it_would_have(event, name, sampler, monkeypatch, tmp_path):
    def task(divided):
        return divided.task(name, sampler=sampler, space=Mutating(side=5), n_trials=10)

    whole = InMemoryStorage()
    expected = search(task(Divided()), EvaluationLog(tmp_path / "whole.jsonl"), whole)
    path, storage, divided = tmp_path / "killed.jsonl", InMemoryStorage(), Divided()
    first = Instant(2)
    with killed_at(event, monkeypatch, first, **MOMENTS), pytest.raises(Killed):
        search(task(divided), EvaluationLog(path), storage, first)
    # Killed anew at once: what was asked again counts as little.
    second = Instant(2)
    with killed_at(2, monkeypatch, second, **MOMENTS), pytest.raises(Killed):
        search(task(divided), EvaluationLog(path), storage, second)
    resumed = search(task(divided), EvaluationLog(path), storage)
    assert found(resumed) == found(expected)
    assert resumed.num_duplicates == expected.num_duplicates
    assert stored(storage) == stored(whole)
    # Two kills lose at most the job that each of them met.
    lost = sum(divided.steps.values()) - sum(e.rung or 100 for _, e, _ in expected.trials)
    assert 0 <= lost <= 50
    again = search(task(divided), EvaluationLog(path), storage)
    assert found(again) == found(expected)


def test_killed_within_a_proposal_it_goes_on(monkeypatch, tmp_path):
    path, storage = tmp_path / "log.jsonl", InMemoryStorage()
    calls, set_param = itertools.count(1), InMemoryStorage.set_trial_param

    def dying(*args):
        if next(calls) == 8:
            raise Killed
        set_param(*args)

    with monkeypatch.context() as patch:
        patch.setattr(InMemoryStorage, "set_trial_param", dying)
        with pytest.raises(Killed):
            search(Divided().task(n_trials=8), EvaluationLog(path), storage)
    outcome = search(Divided().task(n_trials=8), EvaluationLog(path), storage)
    assert len({e.architecture for _, e, _ in outcome.trials}) == 8
    assert not any(t.state is TrialState.RUNNING for t in optuna_trials(storage))


def stored(storage):
    return [
        (t.number, t.state, t.params, t.values, t.intermediate_values, t.user_attrs.get("turns"))
        for t in optuna_trials(storage)
    ]


def test_a_larger_n_trials_goes_on_and_changes_no_verdict(tmp_path):
    path, divided = tmp_path / "log.jsonl", Divided()
    outcomes = []
    for n_trials in (8, 20, 20):
        storage = open_storage("journal", tmp_path)
        task = divided.task("hyperband", n_trials=n_trials)
        outcomes.append(found(search(task, EvaluationLog(path), storage)))
    assert [len(each) for each in outcomes] == [8, 20, 20]
    assert outcomes[1][:8] == outcomes[0]
    assert outcomes[2] == outcomes[1]
    assert max(divided.steps.values()) == 100


def test_without_the_journal_nothing_is_trained_again(tmp_path):
    path, divided = tmp_path / "log.jsonl", Divided()
    first = found(search(divided.task(), EvaluationLog(path), InMemoryStorage()))
    trained = dict(divided.steps)
    assert found(search(divided.task(), EvaluationLog(path), InMemoryStorage())) == first
    assert divided.steps == trained
