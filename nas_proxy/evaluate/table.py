"""Tabular benchmarks: accuracies that others have measured, in a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nas_proxy.errors import DataError, did_you_mean
from nas_proxy.interfaces import SearchSpace
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status

_FULL_TRAINING = Fidelity("truth table", 0, 0, 0)


@dataclass(frozen=True, eq=False)
class TruthTable:
    """Reference accuracies by architecture.

    Attributes:
        values: What the table says of each architecture, in the table's order.
        value_name: The column's name.
    """

    values: Mapping[Architecture, float]
    value_name: str

    @property
    def fidelity(self) -> Fidelity:
        """That of the table's authors; it costs us nothing."""
        return _FULL_TRAINING

    def evaluate(self, architecture: Architecture, seed: int) -> Evaluation:
        """Look the architecture up; one that the table lacks fails."""
        value = self.values.get(architecture)
        if value is None:
            return Evaluation(
                architecture, self.fidelity, seed, Status.FAILED, reason="not in the truth table"
            )
        signals = {self.value_name: value}
        return Evaluation(architecture, self.fidelity, seed, Status.COMPLETE, signals=signals)


def read_table(
    path: Path,
    space: SearchSpace,
    architecture: str,
    value: str,
    *,
    section: str = "validate",
    value_option: str = "value",
) -> TruthTable:
    """Read a truth table.

    Args:
        path: CSV with a header line.
        space: Reads the architectures, by `SearchSpace.from_string`.
        architecture: Name of the column with the architectures.
        value: Name of the column with the accuracies; empty cells are left out.
        section: Of the configuration, which error messages name.
        value_option: The key of its `reference` that names the column `value`, likewise.

    Raises:
        DataError: If the file, a column, or every architecture is missing or unreadable.
    """
    if not path.is_file():
        raise DataError(f"the truth table {path} ({section}.reference.table) does not exist")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a mark
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the truth table {path} is not a readable CSV file: {error}") from error
    for option, column in (("architecture", architecture), (value_option, value)):
        if column not in columns:
            raise DataError(
                f"the truth table {path} has no column {column!r} "
                f"({section}.reference.{option}); {did_you_mean(column, columns)}"
            )
    values: dict[Architecture, float] = {}
    unread: list[str] = []
    for line, row in rows:
        try:
            key = space.from_string(row[architecture] or "")
        except ValueError as error:
            unread.append(str(error))
            continue
        cell = (row[value] or "").strip()
        if cell:
            values[key] = _number(cell, path, line, value)
    if not values:
        first = f"; the first: {unread[0]}" if unread else ""
        raise DataError(
            f"the truth table {path} holds no architecture of the space {space.name!r} with a "
            f"value in {value!r} ({len(rows)} rows, {len(unread)} not understood{first})"
        )
    return TruthTable(values, value)


def read_references(
    path: Path, space: SearchSpace, architecture: str, value: str, second_value: str | None
) -> tuple[TruthTable, TruthTable | None]:
    """A truth table, and what it says of another seed if that is asked for; see `read_table`.

    Raises:
        DataError: If the file, a column, or every architecture is missing or unreadable.
    """
    first = read_table(path, space, architecture, value)
    if second_value is None:
        return first, None
    option = "second_value"
    return first, read_table(path, space, architecture, second_value, value_option=option)


def values_of(
    signal: str, evaluations: Mapping[Architecture, Evaluation]
) -> dict[Architecture, float]:
    """The signal of every evaluation that is complete."""
    return {a: e.signals[signal] for a, e in evaluations.items() if e.complete}


def _number(text: str, path: Path, line: int, column: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{path}, line {line}: {column!r} is not a finite number: {text!r}")
    return number
