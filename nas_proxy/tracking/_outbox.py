"""The outbox on disk: what was logged, whether or not a store has it."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_proxy.core.files import drop_partial_line
from nas_proxy.tracking._mlflow_border import accepted_name
from nas_proxy.tracking._store import Fact
from nas_proxy.tracking._uploader import Uploader, parse_line

logger = logging.getLogger("nas_proxy")


class Journal:
    """Writes the outbox, and knows all that is in it: the same fact is not written twice.

    Args:
        folder: Where.
        uploader: Carries it to a store; None: nobody does.
    """

    def __init__(self, folder: Path, uploader: Uploader | None) -> None:
        self._uploader = uploader
        self._study_folder = folder.parent
        self._lock = threading.Lock()
        path = folder / "outbox.jsonl"
        drop_partial_line(path)
        self._file = path.open("ab", buffering=0)
        content = path.read_bytes()
        self._known: dict[tuple[Any, ...], Any] = {}
        for run, facts in map(parse_line, content.splitlines(keepends=True)):
            self._known.update({(run, *key): value for key, value, _ in facts})
        # Runs that an earlier process ended: what is new about them sets them running again.
        self._ended = {
            key[0]
            for key, value in self._known.items()
            if key[1:] == ("status",) and value != "RUNNING"
        }
        if uploader is not None:
            uploader.begin(content.count(b"\n"))

    def start(
        self, run: str, name: str, parent: str, tags: Mapping[str, str], at: float | None
    ) -> None:
        """Create the run, unless an earlier process did; `at` is when it began, see `add`."""
        if (run, "start") not in self._known:
            value = {"name": name, "parent": parent, "key": uuid.uuid4().hex, "tags": dict(tags)}
            self.add(run, [(("start",), value)], at)

    def address(self, path: Path) -> str:
        """A file's path as it is noted: within the study's folder, which may be moved."""
        whole = path.resolve()
        inside = whole.is_relative_to(self._study_folder)
        return str(whole.relative_to(self._study_folder) if inside else whole)

    def note(
        self,
        run: str,
        text: str | None = None,
        reason: str | None = None,
        at: float | None = None,
    ) -> None:
        """Change one half of the description and keep the other."""
        old_text, old_reason = self._known.get((run, "note"), ("", ""))
        new = [old_text if text is None else text, old_reason if reason is None else reason]
        self.add(run, [(("note",), new)], at)

    def add(self, run: str, facts: list[Fact], at: float | None = None) -> None:
        """Append what is new among `facts`; a disk that is full ends the tracking, once said.

        Args:
            run: Our name of it.
            facts: What to log.
            at: When that was so, in Unix seconds; None: now.
        """
        with self._lock:
            new = self._news(run, facts)
            if not new or self._file.closed:
                return
            try:
                when = time.time() if at is None else at
                self._append({"run": run, "time": int(when * 1000), "facts": new})
            except OSError as error:
                self._file.close()
                why = f"{self._file.name} cannot be written ({error})"
                logger.warning("tracking: %s; the study goes on, untracked from here", why)
                return
            self._ended.discard(run)
            self._known.update({(run, *key): value for key, value in new})
            if self._uploader is not None:
                self._uploader.wake()

    def close(self, timeout: float) -> None:
        """Let the uploader finish, and close the outbox."""
        if self._uploader is not None:
            self._uploader.close(timeout)
        with self._lock:
            self._file.close()

    def _news(self, run: str, facts: list[Fact]) -> list[Fact]:
        new: dict[tuple[Any, ...], Any] = {}
        for key, value in facts:
            old = new.get(key, self._known.get((run, *key)))
            if key[0] == "param" and old not in (None, value):  # MLflow lets no param change
                key = ("tag", accepted_name(f"changed.{key[1]}"))
                old = self._known.get((run, *key))
            if old != value:
                new[key] = value
        if new and run in self._ended and ("status",) not in dict(facts):
            new = {("status",): "RUNNING"} | new
        return list(new.items())

    def _append(self, event: Mapping[str, Any]) -> None:
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        size = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.truncate(size)  # half a line would spoil the next one
            raise
