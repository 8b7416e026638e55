"""Many numbers in little space."""

from __future__ import annotations

import base64
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from typing import overload


class PackedFloats(Sequence[float]):
    """Numbers that take eight bytes each, where a tuple of them takes forty; equal to that tuple.

    Args:
        values: The numbers.

    >>> PackedFloats([1.5, 2.0]) == (1.5, 2.0)
    True
    """

    __slots__ = ("_values",)

    def __init__(self, values: Iterable[float] = ()) -> None:
        self._values = array("d", values)

    @overload
    def __getitem__(self, index: int) -> float: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[float, ...]: ...

    def __getitem__(self, index: int | slice) -> float | tuple[float, ...]:
        """One number; of a slice a tuple."""
        found = self._values[index]
        return tuple(found) if isinstance(found, array) else found

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedFloats):
            return self._values == other._values
        return tuple(self._values) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._values))

    def __repr__(self) -> str:
        return repr(tuple(self._values))

    def to_text(self) -> str:
        """All of them to the last bit: base64 of zlib of little-endian doubles."""
        return base64.b64encode(zlib.compress(_little(self._values).tobytes(), 1)).decode()

    @classmethod
    def from_text(cls, text: str) -> PackedFloats:
        """The inverse of `to_text`.

        Raises:
            ValueError: If it is no such text.
        """
        try:
            packed = array("d", zlib.decompress(base64.b64decode(text, validate=True)))
        except zlib.error as error:
            raise ValueError(f"packed numbers are damaged: {error}") from error
        return cls(_little(packed))


def _little(values: array[float]) -> array[float]:
    """The same in the byte order that files have, or back."""
    if sys.byteorder == "little":
        return values
    swapped = array("d", values)
    swapped.byteswap()
    return swapped
