"""Files that survive a crash: whole, or up to the last whole line."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

_BLOCK = 65_536  # bytes that are read at a time, where the end of a long file is looked for


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which gets its name when it is whole and is removed otherwise.

    Raises:
        OSError: If the disk is full or the folder cannot be written; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's files are private to their owner
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    Raises:
        OSError: If the disk is full or the folder cannot be written; the old file is untouched.
    """
    content = data.encode() if isinstance(data, str) else data
    with new_file(path) as file:
        file.write(content)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file; it is on the disk when this returns.

    Raises:
        OSError: If the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def drop_partial_line(path: Path) -> None:
    """Cut off what a killed process left of its last line; a file that ends well stays."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - _BLOCK)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                end = begin + found + 1
                break
            end = begin
        if end < size:
            file.truncate(end)


def whole_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file that another thread may be writing, up to the one in the making.

    It ends there: read on, and the rest of that line would look like a line of its own.
    """
    return takewhile(lambda line: line.endswith(b"\n"), lines)
