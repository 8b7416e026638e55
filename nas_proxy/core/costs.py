"""What work costs: seconds of one process, by what they were spent on, over runs that were killed.

The clock runs where work is started, not inside it, so that whoever does the work need not think
of it and cannot forget it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from nas_proxy.core.files import write_atomically
from nas_proxy.errors import StudyError

Item = TypeVar("Item")
Result = TypeVar("Result")

INTERRUPTED = "interrupted preparations"
"""What was spent on something that `obtain` was to obtain and that a kill or an error ended."""

_WAITING = ""  # stands for the time in which other processes work
_WRITTEN_EVERY = 5.0  # seconds: what a process that is killed without warning may lose


class CostMeter:
    """Counts the seconds of one piece of work, such as the making of a proxy data set.

    Blocks of `measure` and `obtain` may lie within one another: a second counts for the innermost
    one alone. A run that is interrupted has written what it has spent; one that is killed without
    warning has lost at most the last five seconds, and what worker processes had in hand.

    Args:
        file: Where the seconds are kept for the next run, and from where those of earlier runs are
            taken up; None keeps nothing.

    Raises:
        StudyError: If the file is damaged.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._seconds = _read(file)
        self._open: list[str] = []
        self._counted_until = 0.0
        self._lock = threading.RLock()
        self._writing_ends = threading.Event()

    @property
    def seconds(self) -> dict[str, float]:
        """All seconds so far, by what they were spent on."""
        with self._lock:
            self._count()
            return {what: spent for what, spent in self._seconds.items() if what != _WAITING}

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        """Count the seconds of the block as spent on `what`.

        Raises:
            OSError: If the file cannot be written.
        """
        self._begin(what)
        try:
            yield
        finally:
            self._end()

    @contextmanager
    def obtain(self) -> Iterator[dict[str, float]]:
        """A block that trains something once for many, or finds it trained by an earlier study.

        It states what that took, whenever it was, in the dictionary that it is given. The block's
        own seconds count only if it does not come to its end: then as `INTERRUPTED`.
        """
        before = self.seconds.get(INTERRUPTED)
        stated: dict[str, float] = {}
        self._begin(INTERRUPTED)
        try:
            yield stated
            with self._lock:
                self._count()
                del self._seconds[INTERRUPTED]
                self._seconds.update(stated)
                if before is not None:
                    self._seconds[INTERRUPTED] = before
        finally:
            self._end(counted=INTERRUPTED in self._seconds)

    def of_workers(self, results: Iterator[tuple[Result, float]]) -> Iterator[Result]:
        """Results of other processes, whose seconds count instead of those of waiting for them.

        Args:
            results: Each with the seconds that it took; see `Timed`.
        """
        while True:
            with self.measure(_WAITING):
                found = next(results, None)
            if found is None:
                return
            result, seconds = found
            with self._lock:
                if self._open:
                    self._seconds[self._open[-1]] += seconds
            yield result

    def forget(self) -> None:
        """Remove the file: the work is done, and says itself what it cost."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _begin(self, what: str) -> None:
        with self._lock:
            self._count()
            self._counted_until = time.perf_counter()
            self._seconds.setdefault(what, 0.0)
            self._open.append(what)
        if len(self._open) == 1 and self._file is not None:
            self._writing_ends = threading.Event()
            threading.Thread(target=self._keep_writing, daemon=True).start()

    def _end(self, *, counted: bool = True) -> None:
        with self._lock:
            if counted:
                self._count()
            self._counted_until = time.perf_counter()
            self._open.pop()
        if not self._open:
            self._writing_ends.set()
            self._write()

    def _count(self) -> None:
        if self._open:
            now = time.perf_counter()
            self._seconds[self._open[-1]] += now - self._counted_until
            self._counted_until = now

    def _keep_writing(self) -> None:
        ends = self._writing_ends
        while not ends.wait(_WRITTEN_EVERY):
            with suppress(OSError):  # the end of the block says so
                self._write()

    def _write(self) -> None:
        if self._file is not None:
            with self._lock:
                write_atomically(self._file, json.dumps(self.seconds))


@dataclass(frozen=True)
class Timed(Generic[Item, Result]):
    """A function that tells how long it took; can be sent to another process if `function` can."""

    function: Callable[[Item], Result]

    def __call__(self, item: Item) -> tuple[Result, float]:
        """The result and its seconds."""
        started = time.perf_counter()
        result = self.function(item)
        return result, time.perf_counter() - started


def _read(file: Path | None) -> dict[str, float]:
    if file is None or not file.is_file():
        return {}
    try:
        return {str(what): float(spent) for what, spent in json.loads(file.read_text()).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise StudyError(
            f"{file}, which holds what earlier runs have cost, is damaged ({error}); delete it to "
            "count from here on"
        ) from error
