"""Evaluations on disk: one JSON line each, so that nothing finished is lost or repeated."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas_proxy.core.files import append_line, drop_partial_line, whole_lines
from nas_proxy.errors import StudyError
from nas_proxy.types import Architecture, Evaluation


class EvaluationLog:
    """An append-only file of evaluations at one fidelity, and its content in memory.

    Args:
        path: The file; created with the first evaluation.
        look_only: Leave the file as it is, for another process may be writing a line.

    Raises:
        StudyError: If a line before the last cannot be read.
    """

    def __init__(self, path: Path, *, look_only: bool = False) -> None:
        self._path = path
        self._evaluations: dict[tuple[str, int], Evaluation] = {}
        if not look_only:
            drop_partial_line(path)
        for evaluation in _read(path):
            self._remember(evaluation)

    def __len__(self) -> int:
        return len(self._evaluations)

    def __iter__(self) -> Iterator[Evaluation]:
        return iter(self._evaluations.values())

    def get(self, architecture: Architecture, seed: int) -> Evaluation | None:
        """The evaluation of an architecture, if it is finished."""
        return self._evaluations.get((architecture.id, seed))

    def append(self, evaluation: Evaluation) -> None:
        """Keep an evaluation; it is on the disk when this returns.

        Raises:
            OSError: If the disk is full or the folder cannot be written.
        """
        append_line(self._path, evaluation.to_line())
        self._remember(evaluation)

    def _remember(self, evaluation: Evaluation) -> None:
        self._evaluations[evaluation.architecture.id, evaluation.seed] = evaluation


def read_evaluations(path: Path) -> list[Evaluation]:
    """A log of another study, which may be at work: its file is not touched.

    A last line that is not finished yet is left out, and so is what a later line repeats.

    Raises:
        StudyError: If another line cannot be read.
    """
    return list({(each.architecture.id, each.seed): each for each in _read(path)}.values())


def _read(path: Path) -> Iterator[Evaluation]:
    """Each line but a last one that is not finished; line by line, for there may be very many."""
    if path.is_file():
        with path.open("rb") as file:
            for number, line in enumerate(whole_lines(file), start=1):
                yield _parse(line, path, number)


def _parse(line: bytes, path: Path, number: int) -> Evaluation:
    try:
        return Evaluation.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{path}, line {number}, is damaged ({error}); remove the line to repeat that "
            "evaluation"
        ) from error


@dataclass(frozen=True)
class Failures:
    """How many of some evaluations failed, and for what.

    Attributes:
        num: Failed ones.
        total: All.
        reason: The most frequent; empty if none failed.
    """

    num: int
    total: int
    reason: str

    @classmethod
    def among(cls, evaluations: Collection[Evaluation]) -> Failures:
        """Those among `evaluations`."""
        reasons = Counter(e.reason or "no reason was given" for e in evaluations if not e.complete)
        common = reasons.most_common(1)
        return cls(reasons.total(), len(evaluations), common[0][0] if common else "")

    @property
    def most(self) -> bool:
        """Whether more than half failed."""
        return 2 * self.num > self.total

    def __str__(self) -> str:
        """One clause."""
        return f"{self.num} of {self.total} evaluations failed, most often for: {self.reason}"


def period_of(evaluations: Iterable[Evaluation]) -> tuple[float, float] | None:
    """When the first began and the last ended, in Unix seconds; None if that is not known."""
    known = [each for each in evaluations if each.started_unix_seconds]
    if not known:
        return None
    return (
        min(each.started_unix_seconds for each in known),
        max(each.started_unix_seconds + each.seconds for each in known),
    )


def alone(evaluation: Evaluation, signal: str) -> Evaluation:
    """The part of a complete evaluation that gave one zero-cost signal, with that part's cost.

    Seconds of cores are not known of a part: it gets the share of them that it has of the clock.
    """
    seconds = evaluation.signal_seconds.get(signal, 0.0)
    share = seconds / evaluation.seconds if evaluation.seconds else 0.0
    return Evaluation(
        evaluation.architecture,
        evaluation.fidelity,
        evaluation.seed,
        evaluation.status,
        signals={signal: evaluation.signals[signal]},
        signal_seconds={signal: seconds},
        seconds=seconds,
        core_seconds=share * evaluation.core_seconds,
    )


def merged(parts: Sequence[Evaluation]) -> Evaluation:
    """One evaluation with the signals and the cost of all parts.

    Where one failed, the whole did, for that reason; it costs all the same and has no signals.

    Args:
        parts: Of one architecture, at least one; the first gives the fidelity.
    """
    failed = next((part for part in parts if not part.complete), None)
    kept = parts if failed is None else [failed]
    return replace(
        kept[0],
        signals={name: value for part in kept for name, value in part.signals.items()},
        signal_seconds={n: value for part in parts for n, value in part.signal_seconds.items()},
        seconds=sum(part.seconds for part in parts),
        core_seconds=sum(part.core_seconds for part in parts),
    )


def merged_each(
    parts: Sequence[Mapping[Architecture, Evaluation]],
) -> dict[Architecture, Evaluation]:
    """The same for each architecture, of all of which every part has an evaluation."""
    return {a: merged([part[a] for part in parts]) for a in parts[0]}
