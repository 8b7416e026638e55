"""Tabular benchmarks: accuracies that others have measured, in a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
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
        name: What it is, in words, such as a report gives them.
        notices: What of the file was left out or overruled, one sentence for each kind.
    """

    values: Mapping[Architecture, float]
    value_name: str
    name: str = "a truth table"
    notices: tuple[str, ...] = ()

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
        architecture: Name of the column with the architectures; a row with one that the space does
            not understand is left out. Of rows that name the same one the last counts.
        value: Name of the column with the accuracies; rows whose cell is empty are left out.
        section: Of the configuration, which error messages name.
        value_option: The key of its `reference` that names the column `value`, likewise.

    Returns:
        The table; its notices say what was left out.

    Raises:
        DataError: If the file, a column, or every architecture is missing or unreadable, or a row
            has more cells than there are columns.
    """
    options = {architecture: f"{section}.reference.architecture"}
    options[value] = f"{section}.reference.{value_option}"
    rows = _rows(path, options, f"{section}.reference.table")
    values, unread, empty, changed = _values(rows, space, (architecture, value), path)
    if not values:
        first = f"; the first: {unread.reason}" if unread.num else ""
        raise DataError(
            f"the truth table {path} holds no architecture of the space {space.name!r} with a "
            f"value in {value!r} ({len(rows)} rows, {unread.num} not understood{first})"
        )
    num_used = len(rows) - unread.num - empty.num
    some = f" ({num_used} of {len(rows)} rows)" if num_used < len(rows) else ""
    what = f"of {len(rows)} rows of the truth table {path}"
    twice = f"give an architecture another value in {value!r} than a row before; the last counts"
    notices = (
        unread.words(f"{what} left out: the space {space.name!r} does not know the architecture"),
        empty.words(f"{what} left out: there is no value in {value!r}"),
        changed.words(f"{what} {twice}"),
    )
    return TruthTable(values, value, f"{value} of {path.name}{some}", tuple(filter(None, notices)))


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


def _values(
    rows: Sequence[tuple[int, dict[str, str | None]]],
    space: SearchSpace,
    columns: tuple[str, str],
    path: Path,
) -> tuple[dict[Architecture, float], _Faults, _Faults, _Faults]:
    """What the rows say of each architecture; rows with an unknown one, without a value, changed.

    Raises:
        DataError: If a value is no finite number.
    """
    unread, empty, changed = _Faults(), _Faults(), _Faults()
    values: dict[Architecture, float] = {}
    for line, row in rows:
        text, cell = (row[column] or "" for column in columns)
        try:
            key = space.from_string(text)
        except ValueError as error:
            unread.add(line, str(error))
            continue
        if not cell.strip():
            empty.add(line, text)
            continue
        number = _number(cell.strip(), path, line, columns[1])
        if values.get(key, number) != number:
            changed.add(line, f"{text} has {number:g} after {values[key]:g}")
        values[key] = number
    return values, unread, empty, changed


@dataclass
class _Faults:
    """Rows with one kind of fault: how many, and the first of them."""

    num: int = 0
    line: int = 0
    reason: str = ""

    def add(self, line: int, reason: str) -> None:
        if not self.num:
            self.line, self.reason = line, reason
        self.num += 1

    def words(self, what: str) -> str:
        """A sentence; empty if there is no such row."""
        return f"{self.num} {what}; the first, in line {self.line}: {self.reason}" * bool(self.num)


def _rows(
    path: Path, options: Mapping[str, str], table_option: str
) -> list[tuple[int, dict[str, str | None]]]:
    """The rows of a file, each with the line where it ends.

    Args:
        path: CSV with a header line.
        options: Columns that it must have, and which option names each.
        table_option: Which names the file.

    Raises:
        DataError: If the file cannot be read so.
    """
    if not path.is_file():
        raise DataError(f"the truth table {path} ({table_option}) does not exist")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a mark
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            rows = [(reader.line_num, dict(row)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the truth table {path} is not a readable CSV file: {error}") from error
    for column, option in options.items():
        if column not in columns:
            raise DataError(
                f"the truth table {path} has no column {column!r} ({option}); "
                f"{did_you_mean(column, columns)}"
            )
    for line, row in rows:
        # Cells beyond the header, which the csv module keeps under None.
        if any(cell.strip() for cell in row.pop(None, ())):
            raise DataError(
                f"{path}, line {line}, has more cells than there are columns, so values may stand "
                "in the wrong one; write decimal points, and quote what holds a comma"
            )
    return rows


def _number(text: str, path: Path, line: int, column: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{path}, line {line}: {column!r} is not a finite number: {text!r}")
    return number
