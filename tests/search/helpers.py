"""A space of numbers, its evaluators, and executors that answer at once or in any order."""

import itertools
import random
import time
from collections import Counter
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import optuna
from optuna.storages import InMemoryStorage

from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.scores.combine import SingleSignal
from nas_proxy.search.settings import SearchSettings
from nas_proxy.search.study import run_search
from nas_proxy.search.task import SearchTask
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status
from tests.helpers.spaces import UnusedSpace

SAMPLERS = ["tpe", "random", "nsga2", "regularized_evolution"]
SEED = 3


@dataclass(frozen=True, kw_only=True)
class Grid(UnusedSpace):
    """Points of a square."""

    side: int = 10

    name = "grid"

    def suggest(self, trial):
        x = trial.suggest_int("x", 0, self.side - 1)
        return Architecture(self.name, [x, trial.suggest_int("y", 0, self.side - 1)])


def hill(architecture):
    x, y = architecture.genotype
    return -((x - 6) ** 2) - (y - 2) ** 2


@dataclass
class Evaluators:
    """The factory, the evaluator, and a count of what was evaluated."""

    value: object = hill
    reason: object = lambda architecture: ""
    counts: Counter = field(default_factory=Counter)
    fidelity: Fidelity = Fidelity("d", 1, 1, 8)

    def build(self):
        return self

    def evaluate(self, architecture, seed):
        assert seed == SEED
        self.counts[architecture] += 1
        reason = self.reason(architecture)
        if reason:
            return Evaluation(architecture, self.fidelity, seed, Status.FAILED, reason=reason)
        signals = {"val_accuracy": float(self.value(architecture))}
        return Evaluation(architecture, self.fidelity, seed, Status.COMPLETE, signals)


class Instant:
    """Has the answer when asked, like the serial executor."""

    def __init__(self, num_workers=1):
        self.num_workers = num_workers
        self.submitted = []

    def submit(self, factory, architecture, seed):
        self.submitted.append(architecture)
        future = Future()
        future.set_result(factory.build().evaluate(architecture, seed))
        return future


class Threads(Instant):
    """Answers in no particular order."""

    def __init__(self, pool, num_workers, delays):
        super().__init__(num_workers)
        self._pool, self._delays = pool, random.Random(delays)

    def submit(self, factory, architecture, seed):
        self.submitted.append(architecture)
        delay = self._delays.choice([0, 0, 0.002, 0.01])

        def work():
            time.sleep(delay)
            return factory.build().evaluate(architecture, seed)

        return self._pool.submit(work)


def make_task(evaluators=None, *, space=None, sizes=None, on_trial=None, progress=None, **settings):
    settings = {"n_trials": 12, "sampler": "random", "population_size": 4, **settings}
    more = {"on_trial": on_trial, "progress": progress}
    return SearchTask(
        space=space or Grid(),
        factory=evaluators or Evaluators(),
        score=SingleSignal("val_accuracy"),
        settings=SearchSettings(tournament_size=3, **settings),
        study_name="study",
        seed=SEED,
        sizes=sizes or (lambda architecture: {}),
        **{name: value for name, value in more.items() if value},
    )


def search(task, log, storage=None, executor=None):
    return run_search(task, executor or Instant(), log, storage or InMemoryStorage())


def architectures(outcome):
    return [evaluation.architecture for _, evaluation, _ in outcome.trials]


def optuna_trials(storage):
    return optuna.load_study(study_name="study", storage=storage).trials


def grid_sizes(architecture):
    x, y = architecture.genotype
    return {"num_params": 100.0 * (x + 1), "flops": 1000.0 * (y + 1)}


class Killed(BaseException):
    """The program ends here."""


@contextmanager
def killed_at(event_number, monkeypatch, executor, *, study=(), trial=()):
    """Die just before or just after the given one of the moments that change what is stored.

    `study` and `trial` name the methods of Optuna's that count, beside those of log and executor.
    """
    events = itertools.count(1)

    def instrument(owner, name):
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            if next(events) == event_number:
                raise Killed(f"before {name}")
            answer = original(*args, **kwargs)
            if next(events) == event_number:
                raise Killed(f"after {name}")
            return answer

        patch.setattr(owner, name, wrapped)

    with monkeypatch.context() as patch:
        for name in study:
            instrument(optuna.Study, name)
        for name in trial:
            instrument(optuna.Trial, name)
        instrument(EvaluationLog, "append")
        instrument(executor, "submit")
        yield
