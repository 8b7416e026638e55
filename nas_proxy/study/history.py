"""What stays of a study whatever is repeated: its looks at references, and what was discarded.

Both are files beside the stages' folders to which lines are added; nothing is taken out of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from nas_proxy.core.files import append_line, drop_partial_line
from nas_proxy.errors import StudyError
from nas_proxy.options import adapter
from nas_proxy.report.values import Cost
from nas_proxy.reproducibility import content_hash
from nas_proxy.study.layout import StudyLayout
from nas_proxy.validate.looks import Look

T = TypeVar("T")


@dataclass(frozen=True)
class Discarded:
    """Work that was paid for and is no part of any result.

    Attributes:
        why: In words, such as `discarded by --force`.
        created: When it was noted, as ISO 8601 text.
        costs: What it was.
    """

    why: str
    created: str
    costs: tuple[Cost, ...]


def read_looks(layout: StudyLayout) -> list[Look]:
    """Every look of the study, the first one first.

    Raises:
        StudyError: If a line before the last cannot be read.
    """
    return _read(layout.looks, Look)


def add_look(layout: StudyLayout, look: Look) -> list[Look]:
    """Note a look, unless the last ones of its stage hold the same, as after a kill.

    Returns:
        The looks before it, without those at the same ranking that its interval allows for.

    Raises:
        StudyError: If a line before the last cannot be read.
        OSError: If the file cannot be written.
    """
    found = read_looks(layout)
    own = [index for index, each in enumerate(found) if each.stage == look.stage]
    # Of a sequential validation several belong together; of all others the last one alone counts.
    together = list(takewhile(lambda index: look.allows_for(found[index]), reversed(own)))
    known = [index for index in together or own[-1:] if look.repeats(found[index])]
    if not known:
        _add(layout.looks, look)
    before = found[: known[0]] if known else found
    return [each for index, each in enumerate(before) if index not in together]


def read_discarded(layout: StudyLayout) -> list[Discarded]:
    """Everything that was discarded, the first first; see `read_looks`."""
    return _read(layout.discarded, Discarded)


def add_discarded(layout: StudyLayout, why: str, costs: Sequence[Cost]) -> None:
    """Note what was paid for and is discarded; the same again, as after a kill, is noted once.

    Raises:
        StudyError: If a line before the last cannot be read.
        OSError: If the file cannot be written.
    """
    paid = tuple(cost for cost in costs if cost.seconds > 0)
    if paid and content_hash(_plain(paid)) not in {
        content_hash(_plain(each.costs)) for each in read_discarded(layout)
    }:
        _add(layout.discarded, Discarded(why, now(), paid))


def now() -> str:
    """The time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _plain(costs: tuple[Cost, ...]) -> Any:
    return adapter(tuple[Cost, ...]).dump_python(costs, mode="json")


def _add(path: Path, entry: Any) -> None:
    kind: Any = type(entry)
    append_line(path, json.dumps(adapter(kind).dump_python(entry, mode="json")))


def _read(path: Path, kind: type[T]) -> list[T]:
    checked: Any = kind
    drop_partial_line(path)
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            found.append(adapter(checked).validate_json(line, strict=True))
        except ValueError as error:
            raise StudyError(
                f"{path}, line {number}, is damaged ({str(error).splitlines()[0]}); put it back, "
                "or choose another study_name"
            ) from error
    return found
