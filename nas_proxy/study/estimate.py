"""What the tasks of a study will cost: from timed candidates to seconds with a range.

A number of pieces of work costs so many times what the timed candidates cost on average. How far
that can be off follows from their spread: the range is the 95 % prediction interval of the sum,
for candidates that are drawn as those that were timed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from nas_proxy.core.results import StoredResult
from nas_proxy.statistics.intervals import CONFIDENCE, quantile
from nas_proxy.statistics.words import duration
from nas_proxy.study.plan import Saving, SingleUnit, StagedUnit, StagePlan, Task, Unit

_UNKNOWN_SPREAD = 2.0  # by which factor a single timed candidate may be off
_NOISE = 0.1  # by which the same work differs from one time to another
_WORTH_SAYING = 0.1  # share of a study's seconds below which a saving is not mentioned


@dataclass(frozen=True)
class Seconds:
    """An amount of time with a range.

    Attributes:
        expected: Of the sum.
        low: It is not likely to be less.
        high: It is not likely to be more.
    """

    expected: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        """Both; their errors are not taken to cancel out, for the same candidates cost both."""
        return Seconds(self.expected + other.expected, self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> Seconds:
        """Multiplied, all three."""
        return Seconds(self.expected * factor, self.low * factor, self.high * factor)

    def __str__(self) -> str:
        """Such as `4 min 10 s (3 min to 6 min)`."""
        shown = duration(self.expected)
        if self.high - self.low < 0.1 * self.expected:
            return shown
        return f"{shown} ({duration(self.low)} to {duration(self.high)})"


@dataclass(frozen=True)
class Timed:
    """What one piece of work costs, of each candidate that was timed.

    Attributes:
        seconds: Of the processor's cores on a CPU, of the clock on a GPU; one for each candidate.
        clock_share: Seconds of the clock for each of these.
        peak_mib: By how much memory grew at most; None if it was not measured.
        missing: What is known to be missing, in words; empty: nothing.
        is_exact: Whether it was timed by itself, as a distillation is: no candidate changes it.
    """

    seconds: tuple[float, ...]
    clock_share: float = 1.0
    peak_mib: float | None = None
    missing: str = ""
    is_exact: bool = False

    def of(self, num: int) -> Seconds:
        """What `num` pieces take, and its range."""
        if num == 0:
            return Seconds()
        mean, n = statistics.fmean(self.seconds), len(self.seconds)
        expected = num * mean
        if self.is_exact:
            return Seconds(expected, (1 - _NOISE) * expected, (1 + _NOISE) * expected)
        if n < 3:  # no spread is known, or hardly
            return Seconds(expected, expected / _UNKNOWN_SPREAD, expected * _UNKNOWN_SPREAD)
        spread = statistics.stdev(self.seconds)
        half = quantile(CONFIDENCE, n + 1) * spread * math.sqrt(num + num * num / n)
        least = min(self.seconds)
        return Seconds(expected, max(num * least, expected - half), expected + half)


Price = Callable[[SingleUnit], Timed | str]
"""What one unit costs, or why that is not known."""


def price_of(unit: Unit, price: Price) -> Timed | str:
    """What any unit costs, one in stages included, or why that is not known.

    The dearest stage gives the spread over candidates; the others add their means.
    """
    if not isinstance(unit, StagedUnit):
        return price(unit)
    pairs = zip(unit.parts, unit.shares, strict=True)
    prices = [(price(part), share) for part, share in pairs if share]
    found = [(timed, share) for timed, share in prices if isinstance(timed, Timed)]
    if len(found) < len(prices):
        return next(why for why, _ in prices if isinstance(why, str))
    means = [share * statistics.fmean(timed.seconds) for timed, share in found]
    index = max(range(len(means)), key=means.__getitem__)
    dearest, share = found[index]
    others = sum(means) - means[index]
    peaks = [timed.peak_mib for timed, _ in found if timed.peak_mib is not None]
    return replace(
        dearest,
        seconds=tuple(others + share * each for each in dearest.seconds),
        peak_mib=max(peaks, default=None),
        missing="; ".join(dict.fromkeys(timed.missing for timed, _ in found if timed.missing)),
    )


@dataclass(frozen=True, kw_only=True)
class TaskEstimate:
    """What a task costs.

    Attributes:
        what: Which one.
        total: How many pieces it has.
        done: How many of them are done.
        likely_left: How many are expected to be done still, of at most all that are left.
        seconds_each: One piece; None if it is not known.
        core_seconds: What is left: of cores on a CPU, of the clock on a GPU.
        wall_seconds: The same by the clock, with as many workers as there are.
        num_timed: Candidates that this rests on.
        peak_mib: By how much the memory of one process grows; None if it is not known.
        unknown: Why it is not known, or what is not counted; empty: nothing.
    """

    what: str
    total: int
    done: int
    likely_left: int
    seconds_each: float | None = None
    core_seconds: Seconds | None = None
    wall_seconds: Seconds | None = None
    num_timed: int = 0
    peak_mib: float | None = None
    unknown: str = ""


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """What a stage does, costs and buys.

    Attributes:
        stage: Its name.
        is_finished: Whether nothing is left.
        tasks: One after the other.
        core_seconds: Of all that is known.
        wall_seconds: Likewise.
        buys: What that buys, in sentences.
        cheaper: What would be cheaper, in sentences.
        notes: What a reader of the figures must know, in sentences.
    """

    stage: str
    is_finished: bool
    tasks: tuple[TaskEstimate, ...]
    core_seconds: Seconds
    wall_seconds: Seconds
    buys: tuple[str, ...]
    cheaper: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_known(self) -> bool:
        """Whether the cost of every task that is left is known."""
        return all(t.core_seconds is not None or t.done >= t.total for t in self.tasks)


@dataclass(frozen=True, kw_only=True)
class StudyEstimate(StoredResult):
    """What a study does and costs; what is done already is not counted.

    Attributes:
        study_name: Which study.
        hardware: What was timed on.
        num_workers: Evaluations at the same time.
        timing_seconds: What the timing took.
        notes: How many random candidates were timed, what could not be, and what would take less
            time by the clock; sentences.
        stages: Those that the study asks for.
        core_seconds: Of all stages.
        wall_seconds: Likewise, by the clock.
        core_seconds_without_proof: The same without the stage `validate`.
        wall_seconds_without_proof: Likewise.
        all_fully_trained: Core-seconds of the alternative, training every searched candidate fully;
            None where the configuration says nothing of a full training.
        peak_mib: By how much one process grows at most, images not counted; None if not known.
    """

    FORMAT: ClassVar[int] = 1

    study_name: str
    hardware: str
    num_workers: int
    timing_seconds: float
    notes: tuple[str, ...]
    stages: tuple[StageEstimate, ...]
    core_seconds: Seconds
    wall_seconds: Seconds
    core_seconds_without_proof: Seconds
    wall_seconds_without_proof: Seconds
    all_fully_trained: Seconds | None
    peak_mib: float | None

    @classmethod
    def of(
        cls,
        stages: Sequence[StageEstimate],
        *,
        study_name: str,
        hardware: str,
        num_workers: int,
        timing_seconds: float,
        notes: tuple[str, ...],
        all_fully_trained: Seconds | None,
    ) -> Self:
        """The stages, and their sums."""
        unproved = [stage for stage in stages if stage.stage != "validate"]
        known = [t.peak_mib for s in stages for t in s.tasks if t.peak_mib is not None]
        return cls(
            study_name=study_name,
            hardware=hardware,
            num_workers=num_workers,
            timing_seconds=timing_seconds,
            notes=notes,
            stages=tuple(stages),
            core_seconds=total(stage.core_seconds for stage in stages),
            wall_seconds=total(stage.wall_seconds for stage in stages),
            core_seconds_without_proof=total(stage.core_seconds for stage in unproved),
            wall_seconds_without_proof=total(stage.wall_seconds for stage in unproved),
            all_fully_trained=all_fully_trained,
            peak_mib=max(known, default=None),
        )


def total(parts: Iterable[Seconds]) -> Seconds:
    """The sum; nothing for nothing."""
    return sum(parts, Seconds())


def estimate_stages(
    plans: Sequence[StagePlan], price: Price, num_workers: int
) -> list[StageEstimate]:
    """What stages cost.

    Args:
        plans: What they do.
        price: What one unit costs.
        num_workers: Evaluations at the same time.
    """
    found = []
    for plan in plans:
        tasks = tuple(_task(task, price, num_workers) for task in plan.tasks)
        found.append(
            StageEstimate(
                stage=plan.stage,
                is_finished=plan.is_finished,
                tasks=tasks,
                core_seconds=total(t.core_seconds for t in tasks if t.core_seconds is not None),
                wall_seconds=total(t.wall_seconds for t in tasks if t.wall_seconds is not None),
                buys=plan.buys,
                cheaper=(),
                notes=plan.notes,
            )
        )
    whole = total(stage.core_seconds for stage in found).expected
    return [
        _with_savings(stage, plan, price, whole) for stage, plan in zip(found, plans, strict=True)
    ]


def _task(task: Task, price: Price, num_workers: int) -> TaskEstimate:
    prices = [price_of(unit, price) for unit in task.units]
    plain = TaskEstimate(
        what=task.what, total=task.total, done=task.done, likely_left=task.likely_left
    )
    known = [each for each in prices if isinstance(each, Timed)]
    if task.left and not known:
        reason = next(each for each in prices if isinstance(each, str))
        return replace(plain, unknown=reason)
    if not known:
        return replace(plain, core_seconds=Seconds(), wall_seconds=Seconds())
    dearest = max(known, key=lambda each: statistics.fmean(each.seconds))
    core, most = dearest.of(task.likely_left), dearest.of(task.left)
    cheapest = min((each.of(task.least_left) for each in known), key=lambda cost: cost.low)
    core = Seconds(core.expected, min(core.low, cheapest.low), most.high)
    at_once = 1 if task.in_driver else max(1, min(num_workers, task.left))
    return replace(
        plain,
        seconds_each=statistics.fmean(dearest.seconds),
        core_seconds=core,
        wall_seconds=core.times(dearest.clock_share / at_once),
        num_timed=len(dearest.seconds),
        peak_mib=dearest.peak_mib,
        unknown=dearest.missing,
    )


def _with_savings(
    stage: StageEstimate, plan: StagePlan, price: Price, whole: float
) -> StageEstimate:
    """The stage with those savings that the estimate bears out, the largest first."""
    saved = [(_saved(saving, plan.tasks, price), saving) for saving in plan.savings]
    worth = [(s, saving) for s, saving in saved if s > _WORTH_SAYING * whole and s > 1]
    cheaper = tuple(
        f"{saving.option} saves {duration(seconds)} of cores' time: {saving.consequence}"
        for seconds, saving in sorted(worth, key=lambda each: -each[0])
    )
    return StageEstimate(**{**vars(stage), "cheaper": cheaper})


def _saved(saving: Saving, tasks: Sequence[Task], price: Price) -> float:
    """Seconds that it saves of what is left; 0 where that is not known."""
    saved = 0.0
    for task in tasks:
        before = price_of(task.units[0], price)
        after = price(saving.unit) if saving.unit is not None else before
        applies = not saving.of or task.what in saving.of
        if not applies or isinstance(before, str) or isinstance(after, str):
            continue
        left_after = max(0.0, saving.share * task.total - task.done)
        saved += before.of(task.likely_left).expected
        saved -= left_after * statistics.fmean(after.seconds)
    return saved
