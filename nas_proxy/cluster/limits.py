"""How long work may take before it counts as lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from statistics import median

_TIMES_MEDIAN, _LEAST = 10, 600.0  # of `auto`
_REMEMBERED = 1000  # of a kind; those before say nothing more


class Limits:
    """Limits by kinds of work.

    Args:
        timeout: Seconds for all work that has a kind; `auto`: ten times the median of what was
            finished of its kind, and at least ten minutes.
    """

    def __init__(self, timeout: float | str) -> None:
        self._timeout = timeout
        self._seconds: dict[Hashable, deque[float]] = {}

    def learn(self, kind: Hashable, seconds: float) -> None:
        """Take note of how long finished work took."""
        self._seconds.setdefault(kind, deque(maxlen=_REMEMBERED)).append(seconds)

    def of(self, kind: Hashable) -> float | None:
        """Seconds for work of a kind; None: no limit, such as where none is finished yet."""
        if kind is None:
            return None
        if not isinstance(self._timeout, str):
            return self._timeout
        known = self._seconds.get(kind)
        return max(_LEAST, _TIMES_MEDIAN * median(known)) if known else None
