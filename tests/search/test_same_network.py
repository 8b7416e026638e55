"""Architectures of one canonical form are one network, which is evaluated once."""

from collections import Counter
from dataclasses import dataclass

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.search.storage import open_storage
from nas_proxy.types import Architecture, Status
from tests.search.helpers import (
    SAMPLERS,
    Evaluators,
    Grid,
    Instant,
    Killed,
    Threads,
    killed_at,
    make_task,
    optuna_trials,
    search,
)
from tests.search.test_pruned import MOMENTS as PRUNED_MOMENTS
from tests.search.test_pruned import Divided

MOMENTS = dict(study=("ask", "tell", "enqueue_trial"), trial=("set_user_attr",))


@dataclass(frozen=True, kw_only=True)
class Paired(Grid):
    """Two neighbours in y are one network."""

    side: int = 6

    def canonical_form(self, architecture):
        x, y = architecture.genotype
        return f"{x} {y // 2}"

    def mutate(self, architecture, generator):
        x, y = architecture.genotype
        return Architecture(self.name, [(x + 1) % self.side, y])


def form(evaluation):
    return Paired().canonical_form(evaluation.architecture)


def found(outcome):
    return [(n, e, score) for n, e, score in outcome.trials]


def check_taken(outcome, num_evaluated):
    """Every network was evaluated once; whoever is the same says so and says the same."""
    own = {e.architecture.id: e for _, e, _ in outcome.trials if not e.same_as}
    taken = [(e, score) for _, e, score in outcome.trials if e.same_as]
    assert taken
    assert len(own) == num_evaluated == len({form(e) for e in own.values()})
    for evaluation, _ in taken:
        other = own[evaluation.same_as]
        assert form(evaluation) == form(other)
        assert evaluation.architecture != other.architecture
        assert (evaluation.signals, evaluation.status) == (other.signals, other.status)
        assert evaluation.seconds == evaluation.core_seconds == 0


@pytest.mark.parametrize(
    "sampler", ["random", *(pytest.param(s, marks=pytest.mark.exhaustive) for s in SAMPLERS[2:])]
)
def test_a_network_is_evaluated_once_whoever_finishes_first(sampler, tmp_path, pool):
    def once(number, executor):
        evaluators = Evaluators(reason=lambda a: "odd" if a.genotype[0] == 3 else "")
        task = make_task(evaluators, space=Paired(), sampler=sampler, n_trials=20)
        log = EvaluationLog(tmp_path / f"{number}.jsonl")
        outcome = search(task, log, InMemoryStorage(), executor)
        assert len(outcome.trials) == 20
        assert set(evaluators.counts.values()) == {1}
        check_taken(outcome, len(evaluators.counts))
        assert {e.architecture: e for e in log} == {e.architecture: e for _, e, _ in outcome.trials}
        return found(outcome)

    expected = once(0, Instant(2))
    assert once(1, Threads(pool, 2, 1)) == expected
    assert once(2, Threads(pool, 2, 2)) == expected


def test_it_stands_in_optuna(log):
    storage = InMemoryStorage()
    outcome = search(make_task(space=Paired(), n_trials=20), log, storage)
    trials = optuna_trials(storage)
    for number, evaluation, score in outcome.trials:
        assert trials[number].user_attrs.get("same_network_as", "") == evaluation.same_as
        assert trials[number].value == score


def test_a_space_without_forms_trains_all(log):
    evaluators = Evaluators()
    outcome = search(make_task(evaluators, space=Grid(side=6), n_trials=20), log)
    assert len(evaluators.counts) == 20
    assert not any(e.same_as for _, e, _ in outcome.trials)


@pytest.mark.parametrize("event", range(20, 220, 90))
def test_killed_anywhere_nothing_is_evaluated_twice(event, monkeypatch, tmp_path, pool):
    storage, path, evaluators = InMemoryStorage(), tmp_path / "log.jsonl", Evaluators()
    task = make_task(evaluators, space=Paired(), n_trials=20)
    first = Threads(pool, 2, event)
    with killed_at(event, monkeypatch, first, **MOMENTS), pytest.raises(Killed):
        search(task, EvaluationLog(path), storage, first)
    pool.submit(int).result()
    finished = {form(e) for e in EvaluationLog(path)}
    second = Instant()
    outcome = search(task, EvaluationLog(path), storage, second)
    assert finished.isdisjoint({Paired().canonical_form(a) for a in second.submitted})
    assert len(outcome.trials) == 20
    check_taken(outcome, len({form(e) for _, e, _ in outcome.trials}))
    assert not any(t.state is TrialState.RUNNING for t in optuna_trials(storage))
    again = search(task, EvaluationLog(path), storage, Instant())
    assert found(again) == sorted(found(outcome), key=lambda trial: trial[0])


def pruned_search(divided, log, storage, executor=None, **settings):
    settings = {"space": Paired(), "n_trials": 20, **settings}
    return search(divided.task("median", **settings), log, storage, executor)


def test_with_a_pruner_it_ends_as_the_other_did(tmp_path, pool):
    divided, storage = Divided(), InMemoryStorage()
    outcome = pruned_search(divided, EvaluationLog(tmp_path / "0.jsonl"), storage)
    check_taken(outcome, len(divided.steps))
    ends = Counter(e.status for _, e, _ in outcome.trials if e.same_as)
    assert ends[Status.PARTIAL]
    assert ends[Status.COMPLETE]
    trials = optuna_trials(storage)
    for number, evaluation, _ in outcome.trials:
        if evaluation.status is Status.PARTIAL:
            assert trials[number].state is TrialState.PRUNED
            assert trials[number].user_attrs["rung_reached"] == evaluation.rung
        if not evaluation.same_as:
            assert divided.steps[evaluation.architecture] == (evaluation.rung or 100)
    log = EvaluationLog(tmp_path / "1.jsonl")
    assert found(pruned_search(Divided(), log, InMemoryStorage(), Threads(pool, 2, 1))) == found(
        outcome
    )


@pytest.mark.parametrize(
    "event", [210, *(pytest.param(e, marks=pytest.mark.exhaustive) for e in range(30, 400, 90))]
)
def test_with_a_pruner_killed_anywhere_it_ends_as_it_would_have(event, monkeypatch, tmp_path):
    expected = pruned_search(Divided(), EvaluationLog(tmp_path / "whole"), InMemoryStorage())
    path, storage, first = tmp_path / "killed", InMemoryStorage(), Instant(2)
    with killed_at(event, monkeypatch, first, **PRUNED_MOMENTS), pytest.raises(Killed):
        pruned_search(Divided(), EvaluationLog(path), storage, first)
    resumed = pruned_search(Divided(), EvaluationLog(path), storage, Instant(2))
    assert found(resumed) == found(expected)


def test_without_the_journal_nothing_is_trained_again(tmp_path):
    path, divided = tmp_path / "log.jsonl", Divided()
    first = found(pruned_search(divided, EvaluationLog(path), InMemoryStorage()))
    trained = dict(divided.steps)
    assert found(pruned_search(divided, EvaluationLog(path), InMemoryStorage())) == first
    assert divided.steps == trained


def test_what_an_earlier_version_trained_twice_stays(tmp_path):
    """A log from before forms counted has two of one network: each keeps its own."""
    path, evaluators = tmp_path / "log.jsonl", Evaluators()
    storage = open_storage("journal", tmp_path)
    search(make_task(evaluators, n_trials=12, space=Grid(side=6)), EvaluationLog(path), storage)
    storage = open_storage("journal", tmp_path)
    task = make_task(evaluators, n_trials=20, space=Paired())
    outcome = search(task, EvaluationLog(path), storage)
    assert not any(e.same_as for _, e, _ in outcome.trials[:12])
    later = [e for _, e, _ in outcome.trials[12:]]
    forms = {form(e) for _, e, _ in outcome.trials[:12]}
    assert all(e.same_as for e in later if form(e) in forms)
