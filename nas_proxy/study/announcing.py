"""What a run says of its length: at its beginning, and as soon as its distiller has been seen."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nas_proxy.core.extras import is_installed, missing_words
from nas_proxy.distill.timing import Pace, is_teaching
from nas_proxy.interfaces import Distiller
from nas_proxy.statistics.words import duration
from nas_proxy.study.context import StudyContext
from nas_proxy.study.display import Display
from nas_proxy.study.estimate import StageEstimate, estimate_stages, total
from nas_proxy.study.known_timings import KnownTimings
from nas_proxy.study.plan import DistillUnit, EvaluationUnit, StagePlan
from nas_proxy.types import Progress

_LONG_STUDY = 3600.0  # seconds by the clock, from which on it is said what would be shorter
_LONG_DISTILLING = 120.0  # seconds from which on it is said how long it will take
_SEEN = 3  # reports of progress that such a figure rests on


@dataclass(frozen=True)
class TimeLeft:
    """What is known of how long the rest of a run takes.

    Attributes:
        seconds: Of the clock, by the stages that are left, in order; None: it was never timed.
    """

    seconds: Mapping[str, float | None]

    def words_before(self, stage: str) -> str:
        """What is said when a stage begins; nothing where some of what is left was never timed."""
        names = list(self.seconds)
        if stage not in names:
            return ""
        rest = [self.seconds[name] for name in names[names.index(stage) :]]
        known = [seconds for seconds in rest if seconds is not None]
        if not known or len(known) < len(rest):
            return ""
        return f", about {duration(sum(known))} left in all"


def announce(plans: Sequence[StagePlan], study: StudyContext) -> TimeLeft:
    """Say what is left to do: a line for each stage, with the time where it was timed before.

    Args:
        plans: Of the stages that will run.
        study: Whose.

    Returns:
        The same times, for whoever says later what is left of them.
    """
    left = [plan for plan in plans if any(task.left for task in plan.tasks)]
    price, workers = KnownTimings(study).price, study.executor.num_workers
    stages = estimate_stages(left, price, workers)
    for plan, stage in zip(left, stages, strict=True):
        study.display.say(f"plan: {plan.stage}: {_work_words(plan, study)}{_time_words(stage)}")
    if any(plan.stage == "retrain" for plan in left) and not is_installed("export"):
        study.display.say(f"plan: retrain: writes no ONNX file: {missing_words('export')}")
    wall = total(stage.wall_seconds for stage in stages)
    if not all(stage.is_known for stage in stages):
        study.display.say("plan: nas-proxy plan, with the same words, times what is not timed yet")
    if wall.expected > _LONG_STUDY:
        shorter = [sentence for stage in stages for sentence in stage.cheaper]
        study.display.say(f"plan: {wall} in all{''.join(f'; {each}' for each in shorter[:3])}")
    timed = {
        stage.stage: stage.wall_seconds.expected if stage.is_known else None for stage in stages
    }
    return TimeLeft(timed)


def _work_words(plan: StagePlan, study: StudyContext) -> str:
    """Such as `112 trainings, 28 zero-cost controls`."""
    trained = [t for t in plan.tasks if t.left and any(map(_is_training, t.single_units))]
    words = []
    if trained:
        num, done = sum(t.left for t in trained), sum(t.done for t in trained)
        words.append(f"{num} trainings{f' left of {num + done}' if done else ''}")
    for task in plan.tasks:
        if task in trained or not task.left:
            continue
        if isinstance(task.units[0], DistillUnit):
            words.append(_method_words(study.config.distiller))
        else:
            words.append(f"{task.left} {task.what}")
    return ", ".join(words)


def _is_training(unit: object) -> bool:
    return isinstance(unit, EvaluationUnit) and unit.train is not None


def _method_words(distiller: Distiller) -> str:
    """The method, its steps, and what its author says of its cost at the published ones."""
    num_steps = getattr(distiller, "num_steps", None)
    if not isinstance(num_steps, int):
        return distiller.name
    words = f"{distiller.name}, {num_steps:,} steps"
    if distiller.typical_cost and num_steps == getattr(type(distiller), "num_steps", None):
        words += f", as published ({distiller.typical_cost})"
    return words


def _time_words(stage: StageEstimate) -> str:
    if not stage.is_known or not stage.tasks:
        return ""
    return f"; about {duration(stage.wall_seconds.expected)}, as timed by an earlier plan"


@dataclass
class ForeseenDistilling:
    """Progress of a distillation, which says how long all of it will take once that is seen.

    Attributes:
        progress: Where it is shown.
        display: Told of work that takes minutes or more.
        distiller: The method.
    """

    progress: Progress
    display: Display
    distiller: Distiller
    _pace: Pace | None = field(default=None, init=False)
    _is_said: bool = field(default=False, init=False)

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Progress, as ever."""
        self.progress(done, total, note)
        if is_teaching(note) or self._is_said:
            return
        now = time.monotonic()
        if self._pace is None:
            self._pace = Pace(now)
        self._pace.note(done, total, now)
        if self._pace.num_reports == _SEEN:
            self._is_said = True
            self._say(self._pace.seconds, total)

    def _say(self, seconds: float, num_total: int) -> None:
        if seconds < _LONG_DISTILLING:
            return
        num_steps = getattr(self.distiller, "num_steps", None)
        fewer = f"distill.num_steps={max(1, num_steps // 10)}, or " if num_steps else ""
        self.display.say(
            f"distill: {self.distiller.name} takes about {duration(seconds)} here, as the first "
            f"{_SEEN} of {num_total:,} say; {fewer}another method takes less, and the same command "
            "continues a distillation that was stopped"
        )
