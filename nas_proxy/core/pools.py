"""What several workers that share a task are, wherever they run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

Item = TypeVar("Item", contravariant=True)
Result = TypeVar("Result")


class Pool(Protocol[Item, Result]):
    """Workers that apply one function to items, for the length of a block."""

    def __enter__(self) -> Self:
        """Start."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, whatever is being done."""

    def submit(self, item: Item) -> Future[Result]:
        """Queue an item; its result, or what the function raised."""


OpenPool = Callable[[Callable[[Any], Any], int], Pool[Any, Any]]
"""From a function and a number of workers to a pool."""
