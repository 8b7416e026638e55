"""A search that was killed ends with the trials of one that was not."""

import itertools
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.search.settings import Constraints
from nas_proxy.types import Architecture
from tests.helpers.spaces import UnusedSpace
from tests.search.helpers import (
    Evaluators,
    Instant,
    Killed,
    Threads,
    make_task,
    optuna_trials,
    search,
)

TELLING = "set_trial_state_values"
WRITES = (
    TELLING,
    "create_new_trial",
    "set_trial_param",
    "set_trial_user_attr",
    "set_trial_system_attr",
)
COSTS = {"objectives": ("score", "num_params")}
SEARCHES = {
    "random": {"sampler": "random"},
    "tpe": {"sampler": "tpe", "n_trials": 16},
    "regularized_evolution": {"sampler": "regularized_evolution"},
    "tpe, two objectives": {"sampler": "tpe", "n_trials": 14, **COSTS},
    "nsga2, two objectives": {"sampler": "nsga2", **COSTS},
    "limits": {"sampler": "random", "constraints": Constraints(num_params=250.0)},
}
by_search = pytest.mark.parametrize("kind", list(SEARCHES))


@dataclass(frozen=True, kw_only=True)
class Branching(UnusedSpace):
    """One choice is there for some values of another; few networks, so that some come twice."""

    name = "branching"

    def suggest(self, trial):
        genotype = [trial.suggest_int("x", 0, 4), trial.suggest_categorical("kind", ["a", "b"])]
        if genotype[1] == "b":
            genotype.append(trial.suggest_int("depth", 1, 3))
        genotype.append(trial.suggest_int("y", 0, 3))
        return Architecture(self.name, genotype)


def sizes(architecture):
    return {"num_params": 100.0 * (architecture.genotype[0] + 1)}


def value(architecture):
    return sum(number for number in architecture.genotype if isinstance(number, int))


def task_of(kind):
    # The fourth of each row fails: a failure is a result too.
    evaluators = Evaluators(
        value=value, reason=lambda a: "bad" if a.genotype[0] == a.genotype[-1] == 3 else ""
    )
    return make_task(evaluators, space=Branching(), sizes=sizes, **SEARCHES[kind])


def stored(storage):
    """All that Optuna keeps of every trial, but how often it was in flight at a kill."""
    return [
        (
            trial.number,
            trial.state,
            trial.params,
            trial.values,
            {k: v for k, v in trial.user_attrs.items() if k != "attempts"},
        )
        for trial in optuna_trials(storage)
    ]


def found(outcome):
    return [(n, e.architecture, score) for n, e, score in outcome.trials], outcome.num_duplicates


def undisturbed(kind, tmp_path, executor):
    storage = InMemoryStorage()
    outcome = search(task_of(kind), EvaluationLog(tmp_path / "whole.jsonl"), storage, executor)
    return found(outcome), stored(storage)


@contextmanager
def killed_before(number, *names):
    """Die before the given one of the writes of these names."""
    writes = itertools.count(1)

    def instrument(name):
        original = getattr(InMemoryStorage, name)

        def wrapped(*args, **kwargs):
            if next(writes) == number:
                raise Killed
            return original(*args, **kwargs)

        patch.setattr(InMemoryStorage, name, wrapped)

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            instrument(name)
        yield


@by_search
@pytest.mark.parametrize("num_workers", [1, 2])
def test_killed_after_any_number_of_told_trials(kind, num_workers, tmp_path):
    expected = undisturbed(kind, tmp_path, Instant(num_workers))
    for num_told in (0, 4, 9):
        path, storage = tmp_path / f"{num_told}.jsonl", InMemoryStorage()
        with killed_before(num_told + 1, TELLING), pytest.raises(Killed):
            search(task_of(kind), EvaluationLog(path), storage, Instant(num_workers))
        told = [t for t in optuna_trials(storage) if t.state.is_finished()]
        assert len(told) == num_told
        outcome = search(task_of(kind), EvaluationLog(path), storage, Instant(num_workers))
        assert (found(outcome), stored(storage)) == expected


@pytest.mark.exhaustive
@by_search
@pytest.mark.parametrize("every", [47, 1])
def test_killed_before_any_write(kind, every, tmp_path):
    """Also between two parameters of a proposal, and again while it takes up its work."""
    expected = undisturbed(kind, tmp_path, Instant(2))
    for event in itertools.count(2, every):
        path, storage = tmp_path / f"{event}.jsonl", InMemoryStorage()
        kills = 0
        for moment in (event, 2):
            with killed_before(moment, *WRITES):
                try:
                    search(task_of(kind), EvaluationLog(path), storage, Instant(2))
                except Killed:
                    kills += 1
        if not kills:
            break
        outcome = search(task_of(kind), EvaluationLog(path), storage, Instant(2))
        assert (found(outcome), stored(storage)) == expected, event
    assert event > 60


@by_search
def test_in_whichever_order_results_arrive(kind, tmp_path, pool):
    expected = undisturbed(kind, tmp_path, Instant(2))
    path, storage = tmp_path / "threads.jsonl", InMemoryStorage()
    with killed_before(5, TELLING), pytest.raises(Killed):
        search(task_of(kind), EvaluationLog(path), storage, Threads(pool, 2, 1))
    pool.submit(int).result()
    outcome = search(task_of(kind), EvaluationLog(path), storage, Threads(pool, 2, 2))
    assert (found(outcome), stored(storage)) == expected
    assert not [t for t in optuna_trials(storage) if t.state is TrialState.RUNNING]
