"""What a distillation will cost, by its own progress over a few iterations."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nas_proxy.core.environment import PeakMemory
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.errors import EvaluationError, first_line
from nas_proxy.evaluate.arithmetic import clock
from nas_proxy.interfaces import (
    CalibrationSample,
    DistillContext,
    Distiller,
    DistillTask,
    SearchSpace,
)
from nas_proxy.reproducibility import derive_seed, isolated_rng, make_generator
from nas_proxy.teachers.settings import LabelSettings

_TEACHING = "teaching"  # with which the progress of a teacher's training begins


def is_teaching(note: str) -> bool:
    """Whether a report of progress is of a teacher's training, which comes before the method's."""
    return note.startswith(_TEACHING)


@dataclass(frozen=True)
class DistillCost:
    """What a distillation costs.

    Attributes:
        seconds: Of all of it: of the processor's cores on a CPU, of the clock on a GPU.
        clock_share: Seconds of the clock for each of these.
        num_done: Units that were timed of its last part, such as iterations.
        num_total: Units of that part.
        is_whole: Whether that is all; otherwise other parts follow, which nobody has seen yet.
        peak_mib: By how much the memory of the process grew.
    """

    seconds: float
    clock_share: float
    num_done: int
    num_total: int
    is_whole: bool
    peak_mib: float


@dataclass
class Pace:
    """Follows progress, part by part, and says what the whole of what it saw takes.

    A method may work in parts, such as experts and then steps; another part begins where the total
    changes or the count falls.

    Attributes:
        started: On the clock.
    """

    started: float

    def __post_init__(self) -> None:
        """Begin."""
        self.begin(self.started)

    def begin(self, now: float) -> None:
        """Forget what was seen: the work begins now."""
        self.started = self._begun = self._first_at = self._now = now
        self.num_done = self.num_total = self.num_reports = self._first_done = 0

    def note(self, done: int, total: int, now: float) -> None:
        """A report of progress at a time of the clock."""
        if self.num_reports and (total != self.num_total or done < self.num_done):
            self._begun, self.num_reports = self._now, 0
        if not self.num_reports:
            self._first_done, self._first_at = done, now
        self.num_done, self.num_total, self._now = done, total, now
        self.num_reports += 1

    @property
    def seconds(self) -> float:
        """Of all parts up to the present one, its end extrapolated."""
        left = self.num_total - self.num_done
        if self.num_done > self._first_done:  # what precedes the first report is done once
            each = (self._now - self._first_at) / (self.num_done - self._first_done)
        else:
            each = (self._now - self._begun) / max(1, self.num_done)
        return self._now - self.started + left * each


class _EnoughError(BaseException):
    """Ends a distillation that was timed for long enough; no fault of its code, and not for it."""


@dataclass(frozen=True, kw_only=True)
class DistillTiming:
    """Time the first iterations of a distillation; nothing of it is kept.

    Attributes:
        data: The real images, as a worker finds them.
        distiller: The method.
        images_per_class: As the study asks for.
        labels: Likewise.
        calibration: Architectures, for a method that learns from them.
        space: The one that is searched, for a method that draws from it.
        cache: Trained networks that studies share; None if there are none yet.
        seed: Of the study.
        device: Such as `cpu`.
        num_threads: Of torch, on a CPU.
        seconds: After which the next report of progress is the last.
    """

    data: DataSettings
    distiller: Distiller
    images_per_class: int
    labels: LabelSettings
    calibration: CalibrationSample | None
    space: SearchSpace | None
    cache: Path | None
    seed: int
    device: str
    num_threads: int
    seconds: float

    def run(self) -> DistillCost:
        """Time it.

        Raises:
            EvaluationError: If the method fails in its first iterations, with the reason.
        """
        torch.set_num_threads(self.num_threads)
        device = torch.device(self.device)
        real = load_splits(self.data).search_train
        dataset = replace(real, images=real.images.to(device), labels=real.labels.to(device))
        memory, pace = PeakMemory(device), Pace(clock(device))
        begun, first = time.perf_counter(), pace.started
        ends = begun + self.seconds

        def show(done: int, total: int, note: str = "") -> None:
            if is_teaching(note):  # a teacher is counted by itself
                pace.begin(clock(device))
            else:
                pace.note(done, total, clock(device))
            if time.perf_counter() > ends and pace.num_reports != 1 and done < total:
                raise _EnoughError

        context = DistillContext(
            device=device,
            progress=show,
            cache=self.cache,
            labels=self.labels.kind,
            calibration=self.calibration,
            space=self.space,
        )
        task = DistillTask(
            dataset=dataset,
            images_per_class=self.images_per_class,
            generator=make_generator(derive_seed("distill", self.seed)),
            context=context,
        )
        is_whole = True
        try:
            with isolated_rng(self.seed):
                self.distiller.distill(task)
            seconds = clock(device) - pace.started
        except _EnoughError:
            seconds, is_whole = pace.seconds, self._is_last(pace.num_total)
        except Exception as error:
            raise EvaluationError(first_line(error)) from error
        if not pace.num_total:
            raise EvaluationError("its teachers are trained first; then it says itself how long")
        share = (time.perf_counter() - begun) / max(1e-9, clock(device) - first)
        return DistillCost(seconds, share, pace.num_done, pace.num_total, is_whole, memory.mib)

    def _is_last(self, num_total: int) -> bool:
        """Whether a part of so many units is the method's main one, after which little follows."""
        num_steps = getattr(self.distiller, "num_steps", None)
        return num_steps is None or num_total % num_steps == 0
