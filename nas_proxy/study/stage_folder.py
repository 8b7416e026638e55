"""A stage's folder: whether its result is there already, and whose it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nas_proxy.core.results import StoredResult
from nas_proxy.errors import StudyError, UserError
from nas_proxy.reproducibility import canonical_json, content_hash

CODE = "code"  # among the inputs: hashes of the user's own plug-ins, by name
_RECORD = "stage.json"
_MISSING = "(absent)"


@dataclass(frozen=True, kw_only=True)
class StageRecord(StoredResult):
    """`stage.json`: what a stage was given, and how far it came.

    Attributes:
        finished: Whether its result is complete.
        goal: How much was asked for; None where that is no number.
        terms: What was asked of the stage's material.
        inputs: What its result depends on: the stage's version, sections, sources.
        results: Files of the folder that the result consists of.
    """

    FORMAT: ClassVar[int] = 2

    finished: bool
    goal: int | None
    terms: Mapping[str, Any]
    inputs: Mapping[str, Any]
    results: tuple[str, ...] = ()


class StageFolder:
    """The folder of one stage, and `stage.json` in it, which says what the stage was given.

    Args:
        path: The folder.
        version: Of the stage's code; raised by hand when its results change.
        inputs: Configuration and hashes of everything that the stage reads, as JSON values.
        goal: How much is asked for; a finished stage whose goal was smaller goes on.
        terms: What is asked of the stage's material, as JSON values; a stage of which it changed
            goes on with what is there.
    """

    def __init__(
        self,
        path: Path,
        version: int,
        inputs: Mapping[str, Any],
        *,
        goal: int | None = None,
        terms: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self._goal = goal
        # Through JSON and back, so that what is compared is what is stored.
        self._inputs = json.loads(canonical_json({"stage version": version, **inputs}))
        self._terms = json.loads(canonical_json(terms or {}))

    def open(self, *, force: bool) -> bool:
        """Get the folder ready; True if the stage has to run, False if its result is there.

        Args:
            force: Delete what is there, whoever wrote it.

        Raises:
            StudyError: If the folder holds the work of another configuration; the message names
                what differs. Nothing is changed then.
            OSError: If the folder cannot be written.
        """
        if force and self.path.exists():
            shutil.rmtree(self.path)
        record = _read(self.path)
        if record is None:
            self._write(finished=False)
            return True
        edited = edited_code(record.inputs, self._inputs)
        if edited:
            raise StudyError(
                f"{edited} changed since {self.path} was written; undo that, choose another "
                "study_name, or discard what is there and repeat the stage with nas-proxy "
                f"{self.path.name} --force"
            )
        changed = differences(record.inputs, self._inputs)
        if changed:
            raise StudyError(
                f"{self.path} was written by a different config ({'; '.join(changed)}); "
                "choose another study_name, or discard it and repeat the stage with nas-proxy "
                f"{self.path.name} --force"
            )
        if self._is_complete(record):
            return False
        self._write(finished=False)
        return True

    @property
    def is_finished(self) -> bool:
        """Whether `open` would find the result there; nothing is changed.

        Raises:
            StudyError: If the record is damaged.
        """
        record = _read(self.path)
        return record is not None and record.inputs == self._inputs and self._is_complete(record)

    def _is_complete(self, record: StageRecord) -> bool:
        """Whether everything that is asked for is there."""
        enough = (self._goal or 0) <= (record.goal or 0)
        whole = all((self.path / name).is_file() for name in record.results)
        return record.finished and enough and whole and record.terms == self._terms

    def finish(self, *results: Path) -> None:
        """Record that the result is complete.

        Args:
            results: Files of the folder that it consists of: where one is missing later, the stage
                runs again, with what is left.
        """
        names = sorted(path.relative_to(self.path).as_posix() for path in results)
        self._write(finished=True, results=names)

    def _write(self, *, finished: bool, results: Sequence[str] = ()) -> None:
        record = StageRecord(
            finished=finished,
            goal=self._goal,
            terms=self._terms,
            inputs=self._inputs,
            results=tuple(results),
        )
        record.write(self.path / _RECORD)


def recorded_inputs(path: Path) -> Mapping[str, Any] | None:
    """What the stage whose folder is `path` was given; None if it was not begun.

    Raises:
        StudyError: If the record is damaged.
    """
    record = _read(path)
    return None if record is None else record.inputs


def recorded_key(path: Path) -> str:
    """Hash of what the stage whose folder is `path` was given, however much was asked for.

    Raises:
        StudyError: If the record is missing or damaged.
    """
    inputs = recorded_inputs(path)
    if inputs is None:
        raise StudyError(f"the stage {path.name} was not run; run it first")
    return content_hash(inputs)


def _read(folder: Path) -> StageRecord | None:
    path = folder / _RECORD
    return StageRecord.read(path) if path.is_file() else None


def edited_code(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Which of the user's own plug-ins have another text, such as `the code of space.py:S has`.

    Args:
        old: Inputs of a stage, as they were recorded.
        new: The same now.
    """
    before, now = old.get(CODE, {}), new.get(CODE, {})
    edited = [name for name in before if now.get(name, before[name]) != before[name]]
    return f"the code of {' and '.join(edited)} has" if edited else ""


@contextmanager
def released_on_user_error(path: Path) -> Iterator[None]:
    """A stage's folder is nobody's again if a user's mistake ends the block before any work.

    Whoever mends the mistake changes the configuration, and nothing is lost by that.
    """
    try:
        yield
    except UserError:
        if path.is_dir() and [file.name for file in path.iterdir()] == [_RECORD]:
            (path / _RECORD).unlink()
        raise


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """What changed between two JSON values, as `path: old -> new`; at most five entries."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for key in dict.fromkeys([*old, *new]):
            inner = f"{path}.{key}" if path else key
            found += differences(old.get(key, _MISSING), new.get(key, _MISSING), inner)
        return found[:5]
    if _are_sections(old) and _are_sections(new) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [each for at, pair in pairs for each in differences(*pair, f"{path}[{at}]")][:5]
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def _are_sections(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
