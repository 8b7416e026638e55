"""How long a study took by the clock, which is not what its processes worked together."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nas_proxy.core.files import append_line, drop_partial_line, whole_lines
from nas_proxy.reproducibility import canonical_json


@contextmanager
def on_the_clock(file: Path, stage: str) -> Iterator[None]:
    """Note how long a block of a stage's work took, however it ends; a kill leaves no note."""
    began, started = time.time(), time.monotonic()
    try:
        yield
    finally:
        seconds = time.monotonic() - started
        note = {"stage": stage, "began_unix_seconds": began, "seconds": seconds}
        with suppress(OSError):  # a full disk must not hide an error of the block
            drop_partial_line(file)
            append_line(file, canonical_json(note))


def wall_seconds(file: Path) -> dict[str, float]:
    """Seconds of the clock of each stage, all its runs together; a damaged line counts nothing."""
    found: dict[str, float] = {}
    if not file.is_file():
        return found
    with file.open("rb") as opened:
        for line in whole_lines(opened):
            try:
                note = json.loads(line)
                found[note["stage"]] = found.get(note["stage"], 0.0) + note["seconds"]
            except (ValueError, KeyError, TypeError):
                continue
    return found
