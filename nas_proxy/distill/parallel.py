"""Work on classes or batches side by side: a function of items, in spawned processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any, Generic, Protocol, TypeVar

from nas_proxy.errors import StudyError
from nas_proxy.processes import interrupts_held, pack, prepare_worker, unpack
from nas_proxy.registry import plugin_files
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
) -> Iterator[Result]:
    """`function` of each item, in the order of the items, each as soon as it is there.

    One worker is this process. Several are spawned for it, each with one torch thread; they end
    with the iterator, and when this process ends. What they are sent is packed: `function` once
    for each of them, and an item when a place for it is free.

    Args:
        function: Its result depends on the item alone. With several workers it must be of a
            module's top level, or an object of such a class.
        items: With several workers at most two for each of them are asked for in advance.
        num_workers: Processes.
        progress: Told after each item.

    Raises:
        StudyError: If a worker dies.
        Exception: Whatever `function` raises.
    """
    num_workers = min(num_workers, len(items))
    if num_workers <= 1:
        results: Iterator[Result] = map(function, items)
    else:
        results = _in_spawned_processes(function, items, num_workers)
    for done, result in enumerate(results, start=1):
        progress(done, len(items))
        yield result


def _in_spawned_processes(
    function: Callable[[Item], Result], items: Items[Item], num_workers: int
) -> Iterator[Result]:
    context = multiprocessing.get_context("spawn")
    leash, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        num_workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(pack(function), plugin_files(), leash),
    )
    waiting: deque[Any] = deque()
    try:
        for item in items:
            task = pack(item)
            with interrupts_held():  # a call that finds no idle worker spawns one
                waiting.append(pool.submit(_work, task))
            if len(waiting) == 2 * num_workers:
                yield unpack(waiting.popleft().result())
        while waiting:
            yield unpack(waiting.popleft().result())
    except BrokenProcessPool as error:
        raise StudyError(
            f"one of {num_workers} worker processes died, most likely because the memory ran out; "
            "lower distill.num_workers or free memory, and start again"
        ) from error
    finally:
        if waiting:  # nobody wants what they are working on any more
            held.close()
        pool.shutdown(cancel_futures=True)
        held.close()
        leash.close()


# What follows runs in a worker process.
_function = b""


def _start_worker(function: bytes, files: tuple[str, ...], leash: Connection) -> None:
    global _function
    threading.Thread(target=_exit_when_let_go, args=(leash,), daemon=True).start()
    prepare_worker(files)
    _function = function


def _work(item: bytes) -> bytes:
    return pack(_unpacked(_function)(unpack(item)))


@lru_cache(maxsize=1)
def _unpacked(function: bytes) -> Callable[[Any], Any]:
    found: Callable[[Any], Any] = unpack(function)
    return found


def _exit_when_let_go(leash: Connection) -> None:
    """Without this a worker would finish its item, for a parent that stopped or was killed."""
    with suppress(EOFError, OSError):
        leash.recv()  # nothing is ever sent: the other end is closed, by the parent or its death
    os._exit(1)
