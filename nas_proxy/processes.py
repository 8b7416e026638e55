"""Worker processes: how they start, what they are sent, and how they end.

`WorkerPool` is the one pool. `map_in_processes` works on items with it, in order, and the executor
`processes` evaluates architectures with it.

Importing torch takes seconds and a hundred megabytes. So one server process imports what workers
need, and does nothing else; each worker is forked from it, within milliseconds, and shares with
the others what was imported. Where a system cannot do that, each worker imports for itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import torch

from nas_proxy.core import main_module
from nas_proxy.core.packing import pack, unpack
from nas_proxy.core.pools import OpenPool
from nas_proxy.errors import NasProxyError, PluginError, StudyError, first_line
from nas_proxy.registry import LoadedPlugins
from nas_proxy.types import Progress, no_progress

Item = TypeVar("Item")
ItemOut = TypeVar("ItemOut", covariant=True)
Result = TypeVar("Result")


class Items(Protocol[ItemOut]):
    """Things to work on, such as a list."""

    def __len__(self) -> int:
        """How many there are."""

    def __iter__(self) -> Iterator[ItemOut]:
        """One after the other."""


@dataclass(frozen=True)
class MadeItems(Generic[Item]):
    """Items that are made when they are asked for, so that few are in memory at a time.

    Attributes:
        make: From a number to its item.
        numbers: Of the items, in order.
    """

    make: Callable[[int], Item]
    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Item]:
        return map(self.make, self.numbers)


def map_in_processes(
    function: Callable[[Item], Result],
    items: Items[Item],
    num_workers: int,
    progress: Progress = no_progress,
    open_pool: OpenPool | None = None,
) -> Iterator[Result]:
    """`function` of each item, in the order of the items, each as soon as it is there.

    One worker is this process. Several are started for it, and end with the iterator.

    Args:
        function: Its result depends on the item alone. With several workers it is sent to each of
            them, once; see `nas_proxy.core.packing`.
        items: With several workers at most two for each of them are asked for in advance.
        num_workers: Processes.
        progress: Told after each item.
        open_pool: Opens several; None: on this machine.

    Raises:
        StudyError: If the worker dies that has the item whose turn it is.
        Exception: Whatever `function` raises.
    """
    num_workers = min(num_workers, len(items))
    if num_workers <= 1:
        results: Iterator[Result] = map(function, items)
    else:
        results = _map_in_pool(function, items, num_workers, open_pool or WorkerPool)
    for done, result in enumerate(results, start=1):
        progress(done, len(items))
        yield result


def _map_in_pool(
    function: Callable[[Item], Result],
    items: Items[Item],
    num_workers: int,
    open_pool: OpenPool,
) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque()
    try:
        with open_pool(function, num_workers) as pool:
            for item in items:
                waiting.append(pool.submit(item))
                if len(waiting) == 2 * num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except WorkerLostError as error:
        raise StudyError(
            f"one of {num_workers} worker processes died (exit code {error.exit_code}), most "
            "likely because the memory ran out; lower distill.num_workers or free memory, and "
            "start again"
        ) from error


class WorkerLostError(NasProxyError):
    """A worker process ended before its item was done; the message says how.

    Attributes:
        exit_code: What it ended with; negative is the number of the signal that killed it.
    """

    def __init__(self, exit_code: int) -> None:
        end = "killed from outside: probably the machine ran out of memory"
        message = f"the worker process died (exit code {exit_code})"
        super().__init__(f"{message}, {end}" if exit_code == -9 else message)  # 9 is SIGKILL
        self.exit_code = exit_code


class WorkerPool(Generic[Item, Result]):
    """Processes that apply one function to items, each with one torch thread.

    They start with the first item and stop with the block, whatever they are doing; they also end
    when this process does, at once and however it ends. Ctrl-C is for this process alone. Their
    environment variables are those of this process when the pool was made.

    Args:
        function: Sent to each worker once; the plug-ins of this process are loaded before it is
            unpacked. What the script or notebook defines travels with its code, for workers do
            not run it again: it needs no guard.
        num_workers: Processes.

    Raises:
        StudyError: If the function cannot be sent, such as one that holds a lock.
    """

    def __init__(self, function: Callable[[Item], Result], num_workers: int) -> None:
        from pebble import ProcessPool  # late: what distils without workers needs none of it

        self._pool = ProcessPool(
            max_workers=num_workers,
            context=_worker_context(),
            initializer=_start_worker,
            initargs=(LoadedPlugins.here(), pack(function), dict(os.environ)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.stop()
        self._pool.join()

    def submit(
        self, item: Item, if_lost: Callable[[WorkerLostError], Result] | None = None
    ) -> Future[Result]:
        """Queue an item; it is sent when a worker is free to take it.

        Args:
            item: What the function is given.
            if_lost: Gives the result if the worker dies.

        Returns:
            The result, or what the function raised. If the worker dies, that costs this item alone:
            a new one takes its place, and without `if_lost` a `WorkerLostError` is raised here.
            Cancelling ends the work on the item too.

        Raises:
            StudyError: If the item cannot be sent, such as one that holds a lock.
        """
        packed = pack(item)
        with interrupts_held():  # the first call starts the workers
            scheduled = self._pool.schedule(_work, args=[packed])
        outcome: Future[Result] = Future()
        scheduled.add_done_callback(lambda done: _settle(outcome, done, if_lost))
        # Weak: in a circle a large result would stay until the garbage is collected.
        running = weakref.ref(scheduled)
        outcome.add_done_callback(lambda done: _cancel(running()) if done.cancelled() else None)
        return outcome


def _cancel(scheduled: Future[bytes] | None) -> None:
    if scheduled is not None:
        scheduled.cancel()  # pebble's ends the worker too


def _settle(
    outcome: Future[Any],
    finished: Future[bytes],
    if_lost: Callable[[WorkerLostError], Any] | None,
) -> None:
    """Hand pebble's result on, unpacked."""
    from pebble import ProcessExpired

    if not outcome.set_running_or_notify_cancel():
        return
    try:
        outcome.set_result(unpack(finished.result()))
    except ProcessExpired as error:
        lost = WorkerLostError(error.exitcode)
        if if_lost is None:
            outcome.set_exception(lost)
        else:
            outcome.set_result(if_lost(lost))
    except BrokenProcessPool as error:
        outcome.set_exception(_broken(error))
    except BaseException as error:  # noqa: BLE001 - handed on to whoever waits
        outcome.set_exception(error)


def _broken(error: BaseException) -> StudyError:
    """Workers die that were given nothing yet, so that another attempt is no use."""
    broken = StudyError(
        "the worker processes die before they begin, most likely because the memory ran out: use "
        "fewer of them (search.num_workers, distill.num_workers) or free memory"
    )
    broken.__cause__ = error
    return broken


# What the server imports. Names of modules above this one are added by them.
_served = ["torch", "torch._dynamo"]  # torch's optimisers import the second, which takes as long


def serve_imports(*modules: str) -> None:
    """Name modules that workers need, so that their server imports them once for all."""
    _served.extend(module for module in modules if module not in _served)


def _worker_context() -> BaseContext:
    """How workers start; the server that they are forked from is started by the first call.

    It lives as long as this process, and ends when that is killed.
    """
    # Told to ignore the environment, Python could not be told where to import from.
    if "forkserver" not in multiprocessing.get_all_start_methods() or sys.flags.ignore_environment:
        return main_module.SpawnContext()
    from multiprocessing import forkserver  # not everywhere

    forkserver.set_forkserver_preload([*_served, "nas_proxy.core.frozen_memory"])
    # It has to import what this process would, and nothing from the folder that it stands in. A
    # fork copies one thread alone, and numpy's own pool would be another.
    own = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONSAFEPATH": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    with interrupts_held(), _environment(own):
        forkserver.ensure_running()
    return main_module.ForkServerContext()


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Processes that are started inside never see Ctrl-C: their parent does, and stops them.

    Without signal masks, as on Windows, they see it until they have started.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # when it starts, it unblocks what is blocked here
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# What follows runs in a worker process.
_given: tuple[LoadedPlugins, bytes] = (LoadedPlugins(), b"")


def _start_worker(plugins: LoadedPlugins, function: bytes, environment: dict[str, str]) -> None:
    """Get ready; what can fail is left to the first item, whose sender is told."""
    global _given
    os.environ.clear()  # the server's is of the time when it was started
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _given = plugins, function


def _work(item: bytes) -> bytes:
    try:
        return pack(_function()(unpack(item)), for_driver=True)
    except Exception as error:
        if type(error).__module__ != main_module.MAIN:
            raise
        # Its class is nowhere to be found by name, which is how a pool sends what is raised.
        raise PluginError(
            f"what a script or notebook defines fails in a worker process: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error


@lru_cache(maxsize=1)
def _function() -> Callable[[Any], Any]:
    plugins, function = _given
    plugins.load()  # before anything is unpacked: what is of a plug-in is found by its module
    found: Callable[[Any], Any] = unpack(function)
    return found


def _end_with_parent() -> None:
    """A worker would otherwise finish its item for nobody after its parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
