"""What evaluations have cost that a kill took before they had a result."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter

from nas_proxy.core.files import write_atomically
from nas_proxy.errors import StudyError
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.report.values import Cost
from nas_proxy.study.history import add_discarded
from nas_proxy.study.layout import StudyLayout

_WRITTEN_EVERY = 5.0  # seconds: what a process that is killed without warning may lose
_LEAST = 1.0  # seconds: less is not worth a file, nor a line in the ledger


@contextmanager
def in_flight(
    file: Path, what: str, logs: Sequence[EvaluationLog], num_workers: int
) -> Iterator[None]:
    """Keep on disk, for as long as the block runs, the seconds that stand in no evaluation yet.

    They are those of all workers less those of what has arrived. At most, that is: at the end of a
    list some workers have nothing to do.

    Args:
        file: Where; removed at the end of the block, read by `note_lost` where that is not reached.
        what: What is evaluated, in words.
        logs: Where the evaluations arrive.
        num_workers: How many processes work.

    Raises:
        OSError: If the file cannot be removed.
    """
    started, before = perf_counter(), _paid(logs)

    def write() -> None:
        lost = num_workers * (perf_counter() - started) - (_paid(logs) - before)
        if lost >= _LEAST:
            with suppress(OSError):  # a full disk is found by what must be written
                write_atomically(file, json.dumps({"what": what, "seconds": lost}))

    ends = threading.Event()
    threading.Thread(target=_keep_writing, args=(write, ends), daemon=True).start()
    try:
        yield
    except BaseException:
        ends.set()
        write()
        raise
    ends.set()
    file.unlink(missing_ok=True)


def note_lost(layout: StudyLayout) -> None:
    """Put on the ledger what a killed run had in hand.

    Raises:
        StudyError: If what it left is damaged.
        OSError: If it cannot be noted.
    """
    file = layout.in_flight
    if not file.is_file():
        return
    try:
        left = json.loads(file.read_text())
        lost = Cost(str(left["what"]), 1, float(left["seconds"]))
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(
            f"{file}, which holds what a killed run had in hand, is damaged ({error}); delete it"
        ) from error
    add_discarded(layout, "lost by a kill", [lost])
    file.unlink()


def _keep_writing(write: Callable[[], None], ends: threading.Event) -> None:
    while not ends.wait(_WRITTEN_EVERY):
        write()


def _paid(logs: Sequence[EvaluationLog]) -> float:
    # A list at once: another thread may be adding to a log.
    return sum(e.seconds + e.build_seconds for log in logs for e in list(log))
