"""Results with files of their own: typed values, written and read here alone.

A result is a frozen dataclass, other dataclasses within it. Its file is JSON with the names of the
attributes, and `format` beside them, which is raised when they change: a file of another format is
refused, never guessed at.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from nas_proxy.core.files import write_atomically
from nas_proxy.errors import StudyError, first_line
from nas_proxy.options import adapter

_FORMAT = "format"


class StoredResult:
    """Base of the dataclasses that have a file of their own.

    What a subclass holds are JSON's own values, tuples, mappings with text as keys, and dataclasses
    of such; pydantic checks them when a file is read. The names must be there at run time, not for
    type checkers alone.

    Attributes:
        FORMAT: Raised by hand when the attributes change.
    """

    FORMAT: ClassVar[int]

    def to_json(self) -> dict[str, Any]:
        """JSON values with the attributes' names, and the format."""
        kind: Any = type(self)
        return {_FORMAT: self.FORMAT, **adapter(kind).dump_python(self, mode="json")}

    @classmethod
    def from_json(cls, value: Any, *, where: str = "the result") -> Self:
        """The inverse of `to_json`.

        Args:
            value: JSON values.
            where: What they were read from, for the message.

        Raises:
            StudyError: If they are of another format or damaged.
        """
        found = value.get(_FORMAT) if isinstance(value, dict) else None
        if found != cls.FORMAT:
            raise _refused(
                where,
                "was written by another version of nas_proxy or is damaged "
                f"(format {found}, not {cls.FORMAT})",
            )
        kind: Any = cls
        try:
            # As text, for strict reading takes a list for a tuple there alone.
            read: Self = adapter(kind).validate_json(json.dumps(value), strict=True)
        except (ValueError, KeyError, TypeError) as error:
            raise _refused(where, f"is damaged ({_fault(error)})") from error
        return read

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            ValueError: If a number is not finite; the old file is untouched, as by what follows.
            OSError: If the disk is full or the folder cannot be written.
        """
        write_atomically(path, json.dumps(self.to_json(), indent=1, allow_nan=False))

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote.

        Raises:
            StudyError: If the file is missing, of another format, or damaged.
        """
        try:
            value = json.loads(path.read_text())
        except OSError as error:
            raise _refused(str(path), f"cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise _refused(str(path), f"is damaged ({first_line(error)})") from error
        return cls.from_json(value, where=str(path))


def _refused(where: str, what: str) -> StudyError:
    return StudyError(
        f"{where} {what}; choose another study_name, or pass --force to the command of the stage "
        "that wrote it, such as nas-proxy search"
    )


def _fault(error: Exception) -> str:
    """The first thing that is wrong, in few words."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return first_line(error)
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
