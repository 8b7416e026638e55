"""A display for studies that tests run, which shows nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nas_proxy.types import Progress, no_progress


class Quiet:
    """A display that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        yield no_progress
