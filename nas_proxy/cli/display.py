"""What a person sees of long work: bars in a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

if TYPE_CHECKING:  # torch takes seconds to import, and `--help` should not
    from nas_proxy.types import Progress

_LINE_SECONDS = 15.0  # between lines of progress where there is no terminal


class ConsoleDisplay:
    """Shows progress on standard error: bars in a terminal, now and then a line elsewhere.

    Args:
        console: Where to.
        quiet: Show nothing.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet

    def say(self, message: str) -> None:
        """Print one line."""
        if self._quiet:
            return
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """A bar, or a line every 15 seconds; nothing for work that is over at once."""
        if self._quiet:
            yield lambda done, total, note="": None
            return
        if not self._console.is_terminal:
            yield _ProgressLines(self, title)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with RichProgress(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(title, total=None, note="")

            def show(done: int, total: int, note: str = "") -> None:
                bars.update(task, completed=done, total=total, note=note)

            yield show


class _ProgressLines:
    """Progress for a log file."""

    def __init__(self, display: ConsoleDisplay, title: str) -> None:
        self._display = display
        self._title = title
        self._started = self._shown = time.monotonic()
        self._first_done: int | None = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if self._first_done is None:
            self._first_done, self._started = done, now
        if now - self._shown < _LINE_SECONDS:
            return
        self._shown = now
        left = ""
        if done > self._first_done:
            seconds = (now - self._started) / (done - self._first_done) * (total - done)
            left = f", about {seconds:.0f} s left"
        self._display.say(f"{self._title}: {done} of {total}{left}{'; ' + note if note else ''}")
