"""What rankings are held against."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nas_proxy.errors import required
from nas_proxy.evaluate.table import TruthTable, read_table
from nas_proxy.interfaces import SearchSpace
from nas_proxy.types import Architecture, Evaluation
from nas_proxy.validate.settings import RepeatedReference


def read_references(
    reference: RepeatedReference, space: SearchSpace
) -> tuple[TruthTable, TruthTable | None]:
    """A benchmark's table, and what it says of another seed if that is asked for.

    Raises:
        DataError: If the file, a column, or every architecture is missing or unreadable.
    """
    path = Path(required(reference.table, "reference.table"))
    first = read_table(path, space, reference.architecture, reference.value)
    if reference.second_value is None:
        return first, None
    return first, read_table(
        path,
        space,
        reference.architecture,
        reference.second_value,
        value_option="second_value",
    )


def values_of(
    signal: str, evaluations: Mapping[Architecture, Evaluation]
) -> dict[Architecture, float]:
    """The signal of every evaluation that is complete."""
    return {a: e.signals[signal] for a, e in evaluations.items() if e.complete}
