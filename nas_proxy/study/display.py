"""What a person sees of a study at work."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from nas_proxy.types import Progress


class Display(Protocol):
    """Shows a person what happens."""

    def say(self, message: str) -> None:
        """One line."""

    def progress(self, title: str) -> AbstractContextManager[Progress]:
        """A bar with the time left, for the length of a block."""
