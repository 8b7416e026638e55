"""Where evaluations run: in this process, in several workers, or where a third executor is.

Callers know the protocol `Executor` alone and open one by its name, under which it is registered.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import count, islice
from time import perf_counter, time
from typing import Any, Protocol, runtime_checkable

from nas_proxy.cluster.settings import RaySettings
from nas_proxy.core.pools import OpenPool
from nas_proxy.data.sources import DataSettings
from nas_proxy.errors import ConfigError, PluginError, did_you_mean
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.processes import WorkerLostError, WorkerPool, serve_imports
from nas_proxy.types import (
    Architecture,
    Evaluation,
    Fidelity,
    Progress,
    Splits,
    Status,
    no_progress,
)


class Evaluator(Protocol):
    """Measures architectures; can be rebuilt in a worker process."""

    @property
    def fidelity(self) -> Fidelity:
        """What one evaluation costs."""

    def evaluate(self, architecture: Architecture, seed: int) -> Evaluation:
        """Measure one architecture; a failure is a `FAILED` evaluation, not an exception."""


class EvaluatorFactory(Protocol):
    """A picklable description of an evaluator, from which each worker builds its own."""

    @property
    def fidelity(self) -> Fidelity:
        """What one evaluation costs."""

    def build(self) -> Evaluator:
        """Load what the evaluator needs and construct it."""


@runtime_checkable
class PartFactory(EvaluatorFactory, Protocol):
    """Describes a part of what another evaluator does, with what that one has loaded.

    An executor may ignore that and call `build`; one that does not loads the images once.
    """

    @property
    def whole(self) -> EvaluatorFactory:
        """Describes the other one."""

    def part_of(self, evaluator: Evaluator) -> Evaluator:
        """What `build` gives, from what `whole` has built."""


Job = tuple[EvaluatorFactory, Architecture, int]


class Executor(Protocol):
    """Evaluates architectures, several at a time. This is all that its callers know of it.

    For whoever implements another one:

    - Only the driver, the process that runs the study, writes its files and its tracking. A worker
      is sent a factory, an architecture and a seed, and answers with an `Evaluation`; all four can
      be pickled, once the worker has loaded the driver's `LoadedPlugins`. The state of trainings
      that continue lies in a folder that the factory names, which all workers have to see.
    - A process evaluates one architecture at a time, for training seeds torch's global generators
      meanwhile; others may evaluate at the same time. One torch thread each keeps the figures equal
      to those of the other executors. `factory.build()` loads the images: a worker keeps the
      evaluator while the factories that it is sent are equal, or are parts of equal ones
      (`PartFactory`).
    - Results may come in any order, and no evaluation may depend on what its worker did before:
      callers bring them into order, and the same job gives the same figures everywhere.
    - An architecture that cannot be evaluated is an answer, which the evaluator gives itself. A
      worker that is lost, be it killed or out of memory, costs its own evaluation alone: the
      answer is `lost_evaluation`, and it is not tried again, for it may be the architecture that
      kills its workers. Only where its whole machine was lost is it begun again elsewhere, and not
      without end. Whatever else is raised, such as by `build`, goes to the future and ends the
      study.
    - When the block that opened the executor ends, whatever it still does ends too.

    Attributes:
        num_workers: How many architectures are evaluated at the same time. With 1, `submit` may
            wait for the evaluation, and the next one is asked for when the last is known. With
            more, callers keep twice as many waiting, and choose without knowing their results.
    """

    num_workers: int

    def submit(
        self, factory: EvaluatorFactory, architecture: Architecture, seed: int
    ) -> Future[Evaluation]:
        """Start an evaluation, or queue it."""


@runtime_checkable
class ElsewhereExecutor(Executor, Protocol):
    """One whose workers are on other machines, and can be lent."""

    @property
    def words(self) -> str:
        """Where it works at the moment, for whoever watches."""

    @property
    def open_pool(self) -> OpenPool:
        """Opens a pool of its workers for something else, such as distilling."""

    def start(self) -> object:
        """Find the workers now, so that what stands in the way is said before any work.

        Raises:
            UserError: If there are none, or they do not fit the study.
        """


def place_words(executor: Executor) -> str:
    """Where an executor works, such as `2 nodes, 8 slots`; empty where that is plain."""
    return executor.words if isinstance(executor, ElsewhereExecutor) else ""


def start_workers(executor: Executor) -> None:
    """Let an executor find its workers, if they are elsewhere; errors as of its `start`."""
    if isinstance(executor, ElsewhereExecutor):
        executor.start()


def pool_of(executor: Executor) -> OpenPool | None:
    """What opens a pool of an executor's workers; None: processes of this machine will do."""
    return executor.open_pool if isinstance(executor, ElsewhereExecutor) else None


@dataclass(frozen=True)
class Workplace:
    """What workers on other machines need to know of a study before they are given work.

    Attributes:
        ray: Of `executor: ray`.
        data: The images as workers find them; None: they need none.
        splits: The same as the driver has them.
        say: Told what a person should know.
    """

    ray: RaySettings = field(default_factory=RaySettings)
    data: DataSettings | None = None
    splits: Splits | None = None
    say: Callable[[str], None] = lambda words: None


@dataclass(frozen=True)
class ExecutorKind:
    """What is known of an executor before it is opened.

    Attributes:
        open: From the number of workers, and what they need to know, to the executor, which stops
            with the block.
        beside_driver: Whether its workers share the driver's machine, and so disturb what the
            driver times there meanwhile.
    """

    open: Callable[[int, Workplace], AbstractContextManager[Executor]]
    beside_driver: bool


_KINDS: dict[str, ExecutorKind] = {}


def register_executor(name: str, kind: ExecutorKind) -> None:
    """Make an executor known as `name`, which is what `search.executor` says.

    Raises:
        PluginError: If another has the name already.
    """
    if _KINDS.setdefault(name, kind) != kind:
        raise PluginError(f"two executors are called {name!r}; rename one of them")


def executor_kind(name: str) -> ExecutorKind:
    """The executor that a configuration names.

    Raises:
        ConfigError: If there is none of this name; the message names the nearest.
    """
    if name not in _KINDS:
        raise ConfigError(f"unknown executor {name!r}; {did_you_mean(name, _KINDS)}")
    return _KINDS[name]


def open_executor(
    name: str, num_workers: int, workplace: Workplace | None = None
) -> AbstractContextManager[Executor]:
    """An executor that stops with the block.

    Args:
        name: `serial` evaluates in this process when `submit` is called. `processes` starts
            workers, each with one torch thread; one that dies costs its own evaluation alone.
            `ray` has slots on the nodes of a cluster. Others are known once they are registered.
        num_workers: Evaluations at the same time, such as processes to start; `serial` has one.
        workplace: What workers on other machines need to know; None: nothing.

    Raises:
        ConfigError: If there is no executor of this name.
    """
    return executor_kind(name).open(num_workers, workplace or Workplace())


def lost_evaluation(
    factory: EvaluatorFactory,
    architecture: Architecture,
    seed: int,
    reason: str,
    *,
    seconds: float = 0.0,
) -> Evaluation:
    """The answer for an evaluation whose worker was lost.

    Args:
        factory: What the worker was sent, as what follows.
        architecture: Which one.
        seed: Of the evaluation.
        reason: How the worker was lost.
        seconds: How long it had worked; what its cores did is not known, and taken to be as much.
    """
    failed = Evaluation(architecture, factory.fidelity, seed, Status.FAILED, reason=reason)
    begun = time() - seconds
    return replace(failed, seconds=seconds, core_seconds=seconds, started_unix_seconds=begun)


def evaluate_all(
    executor: Executor,
    factory: EvaluatorFactory,
    architectures: Sequence[Architecture],
    seed: int,
    log: EvaluationLog,
    progress: Progress = no_progress,
) -> list[Evaluation]:
    """Evaluate each architecture once with one seed; otherwise as `evaluate_jobs`.

    Returns:
        One evaluation per architecture, in their order.
    """
    jobs = [(architecture, seed) for architecture in architectures]
    return evaluate_jobs(executor, factory, jobs, log, progress)


def evaluate_jobs(
    executor: Executor,
    factory: EvaluatorFactory,
    jobs: Sequence[tuple[Architecture, int]],
    log: EvaluationLog,
    progress: Progress = no_progress,
) -> list[Evaluation]:
    """Evaluate what `log` does not hold yet, and keep each result there as it arrives.

    Args:
        executor: Where the evaluations run.
        factory: How.
        jobs: Architectures, each with a seed; what comes twice is evaluated once.
        log: Where the results are kept.
        progress: Told after each.

    Returns:
        One evaluation per job, in their order.
    """
    waiting: list[Future[Evaluation]] = []
    missing = [job for job in dict.fromkeys(jobs) if log.get(*job) is None]
    num_total, num_done = len(set(jobs)), len(set(jobs)) - len(missing)
    progress(num_done, num_total)
    queue = iter(missing)
    # Where submitting is evaluating, one at a time: the next must not hold up what is finished.
    window = 1 if executor.num_workers == 1 else 2 * executor.num_workers
    while num_done < num_total:
        for architecture, seed in islice(queue, window - len(waiting)):
            waiting.append(executor.submit(factory, architecture, seed))
        finished = wait(waiting, return_when=FIRST_COMPLETED).done
        for future in [future for future in waiting if future in finished]:
            waiting.remove(future)
            log.append(future.result())
            num_done += 1
            where = place_words(executor)
            progress(num_done, num_total, *filter(None, [where]))
    found = [log.get(*job) for job in jobs]
    return [evaluation for evaluation in found if evaluation is not None]


class EvaluatorCache:
    """The evaluator of the factory that was used last: phases of a study follow one another."""

    def __init__(self) -> None:
        self._factory: EvaluatorFactory | None = None
        self._evaluator: Evaluator | None = None

    def evaluate(
        self, factory: EvaluatorFactory, architecture: Architecture, seed: int
    ) -> Evaluation:
        """Evaluate; what the evaluator needs is loaded if the one before was another."""
        if not isinstance(factory, PartFactory):
            evaluator, build_seconds = self._built(factory)
        else:
            evaluator, build_seconds = self._built(factory.whole)
            evaluator = factory.part_of(evaluator)
        begun = time()
        evaluation = evaluator.evaluate(architecture, seed)
        return replace(evaluation, build_seconds=build_seconds, started_unix_seconds=begun)

    def _built(self, factory: EvaluatorFactory) -> tuple[Evaluator, float]:
        """The evaluator, and the seconds that building it took; 0 if it was there."""
        if self._evaluator is not None and factory == self._factory:
            return self._evaluator, 0.0
        started = perf_counter()
        self._evaluator = None  # two data sets at once might not fit
        self._factory, self._evaluator = factory, factory.build()
        return self._evaluator, perf_counter() - started


class _SerialExecutor:
    num_workers = 1

    def __init__(self) -> None:
        self._evaluators = EvaluatorCache()

    def submit(
        self, factory: EvaluatorFactory, architecture: Architecture, seed: int
    ) -> Future[Evaluation]:
        future: Future[Evaluation] = Future()
        future.set_result(self._evaluators.evaluate(factory, architecture, seed))
        return future


@contextmanager
def _open_serial(num_workers: int, workplace: Workplace) -> Iterator[Executor]:
    yield _SerialExecutor()


class _WorkerClock:
    """How long workers that take jobs in their order have had each: what is lost says it not."""

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._numbers = count()
        self._started: dict[int, float] = {}
        self._queued: deque[int] = deque()
        self._lock = threading.Lock()

    def queue(self) -> int:
        """The number of a job that is handed over now."""
        with self._lock:
            number = next(self._numbers)
            self._queued.append(number)
            self._start()
            return number

    def seconds(self, number: int) -> float:
        """Since a job was begun."""
        with self._lock:
            now = perf_counter()
            return now - self._started.get(number, now)

    def end(self, number: int) -> None:
        """A job has an answer, and its worker takes the next."""
        with self._lock:
            if self._started.pop(number, None) is None:
                self._queued.remove(number)
            self._start()

    def _start(self) -> None:
        while self._queued and len(self._started) < self._num_workers:
            self._started[self._queued.popleft()] = perf_counter()


class _ProcessExecutor:
    def __init__(self, pool: WorkerPool[Job, Evaluation], num_workers: int) -> None:
        self.num_workers = num_workers
        self._pool = pool
        self._clock = _WorkerClock(num_workers)

    def submit(
        self, factory: EvaluatorFactory, architecture: Architecture, seed: int
    ) -> Future[Evaluation]:
        job, number = (factory, architecture, seed), self._clock.queue()

        def lost(error: WorkerLostError) -> Evaluation:
            return lost_evaluation(*job, str(error), seconds=self._clock.seconds(number))

        future = self._pool.submit(job, if_lost=lost)
        future.add_done_callback(lambda _: self._clock.end(number))
        return future


@contextmanager
def _open_processes(num_workers: int, workplace: Workplace) -> Iterator[Executor]:
    with WorkerPool(_evaluate, num_workers) as pool:
        yield _ProcessExecutor(pool, num_workers)


def _open_ray(num_workers: int, workplace: Workplace) -> AbstractContextManager[Executor]:
    # By its name: it is above this module, and nobody else needs it.
    above: Any = import_module("nas_proxy.evaluate.on_cluster")
    found: AbstractContextManager[Executor] = above.open_on_cluster(num_workers, workplace)
    return found


register_executor("serial", ExecutorKind(_open_serial, beside_driver=False))
register_executor("processes", ExecutorKind(_open_processes, beside_driver=True))
register_executor("ray", ExecutorKind(_open_ray, beside_driver=False))

# What follows runs in a worker process.
serve_imports("nas_proxy.evaluate.factory")
_worker_evaluators = EvaluatorCache()


def _evaluate(job: Job) -> Evaluation:
    return _worker_evaluators.evaluate(*job)
