"""Where evaluations run: in this process, or in several spawned ones."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from itertools import islice
from typing import Literal, Protocol

from pebble import ProcessExpired, ProcessPool

from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.interfaces import Evaluator, EvaluatorFactory
from nas_proxy.processes import interrupts_held, pack, prepare_worker, unpack
from nas_proxy.registry import plugin_files
from nas_proxy.types import Architecture, Evaluation, Progress, Status, no_progress

ExecutorName = Literal["serial", "processes"]


class Executor(Protocol):
    """Evaluates architectures, several at a time.

    Attributes:
        num_workers: How many.
    """

    num_workers: int

    def submit(
        self, factory: EvaluatorFactory, architecture: Architecture, seed: int
    ) -> Future[Evaluation]:
        """Start an evaluation, or queue it."""


@contextmanager
def open_executor(name: ExecutorName, num_workers: int) -> Iterator[Executor]:
    """An executor that stops with the block.

    Args:
        name: `serial` evaluates in this process when `submit` is called. `processes` spawns
            workers, each with one torch thread; one that dies costs its own evaluation alone.
        num_workers: Processes to spawn.
    """
    if name == "serial":
        yield _SerialExecutor()
        return
    pool = ProcessPool(
        max_workers=num_workers,
        context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(plugin_files(), os.getpid()),
    )
    try:
        yield _ProcessExecutor(pool, num_workers)
        pool.close()
    finally:
        pool.stop()
        pool.join()


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
            progress(num_done, num_total)
    found = [log.get(*job) for job in jobs]
    return [evaluation for evaluation in found if evaluation is not None]


class _SerialExecutor:
    num_workers = 1

    def __init__(self) -> None:
        self._evaluators = _EvaluatorCache()

    def submit(
        self, factory: EvaluatorFactory, architecture: Architecture, seed: int
    ) -> Future[Evaluation]:
        future: Future[Evaluation] = Future()
        future.set_result(self._evaluators.get(factory).evaluate(architecture, seed))
        return future


class _ProcessExecutor:
    def __init__(self, pool: ProcessPool, num_workers: int) -> None:
        self.num_workers = num_workers
        self._pool = pool

    def submit(
        self, factory: EvaluatorFactory, architecture: Architecture, seed: int
    ) -> Future[Evaluation]:
        outcome: Future[Evaluation] = Future()
        # Packed: a worker dies of a task that it cannot read, and its future never ends.
        task = pack((factory, architecture, seed))
        with interrupts_held():  # the first call spawns the workers
            scheduled = self._pool.schedule(_evaluate, args=[task])

        def settle(finished: Future[Evaluation]) -> None:
            try:
                outcome.set_result(finished.result())
            except ProcessExpired as error:
                outcome.set_result(_lost(factory, architecture, seed, error.exitcode))
            except BaseException as error:  # noqa: BLE001 - handed on to whoever waits
                outcome.set_exception(error)

        scheduled.add_done_callback(settle)
        return outcome


def _lost(
    factory: EvaluatorFactory, architecture: Architecture, seed: int, exit_code: int
) -> Evaluation:
    reason = f"the worker process died (exit code {exit_code})"
    if exit_code == -9:
        reason += ", killed from outside: probably the machine ran out of memory"
    return Evaluation(architecture, factory.fidelity, seed, Status.FAILED, reason=reason)


class _EvaluatorCache:
    """The evaluator of the factory that was used last: phases of a study follow one another."""

    def __init__(self) -> None:
        self._factory: EvaluatorFactory | None = None
        self._evaluator: Evaluator | None = None

    def get(self, factory: EvaluatorFactory) -> Evaluator:
        if self._evaluator is None or factory != self._factory:
            self._evaluator = None  # two data sets at once might not fit
            self._factory, self._evaluator = factory, factory.build()
        return self._evaluator


# What follows runs in a worker process.
_worker_evaluators = _EvaluatorCache()


def _start_worker(files: tuple[str, ...], parent: int) -> None:
    threading.Thread(target=_exit_without_parent, args=(parent,), daemon=True).start()
    prepare_worker(files)


def _evaluate(task: bytes) -> Evaluation:
    factory, architecture, seed = unpack(task)
    return _worker_evaluators.get(factory).evaluate(architecture, seed)


def _exit_without_parent(parent: int) -> None:
    """A worker whose parent was killed would otherwise finish its evaluation for nobody."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
