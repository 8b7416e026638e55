"""One precision and one memory layout for all trainings of a study, measured once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from nas_proxy.core.environment import hardware
from nas_proxy.core.locks import exclusive
from nas_proxy.core.plugin_source import source_hash
from nas_proxy.data.folder import cache_folder
from nas_proxy.errors import EvaluationError, StudyError
from nas_proxy.evaluate.arithmetic import Arithmetic, is_settled, measure_arithmetic
from nas_proxy.interfaces import SearchSpace
from nas_proxy.processes import WorkerLostError, WorkerPool
from nas_proxy.reproducibility import content_hash
from nas_proxy.study.display import Display
from nas_proxy.study.plain_values import dump_options
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import DatasetSpec


@dataclass(frozen=True)
class StudyArithmetic:
    """Decides what settings leave open; measures when the first ones do, and keeps what it found.

    A study that continues elsewhere keeps its choice: two ways to compute are never mixed in it.
    And a machine measures once for all studies of the same networks, so that seconds, which never
    come out the same twice, do not change what a repeated study finds.

    Attributes:
        file: Where the study keeps the measurement.
        space: The study's.
        spec: Of its images.
        train: Its section `train`, at the fidelity of candidates.
        device: Where trainings run.
        display: Told what was chosen.
        in_worker: Whether steps are timed in a process of their own: a driver that trains nothing
            itself keeps clear of what trainings load, and survives networks that kill theirs.
        look_only: Leave the study's folder as it is; the study decides when it begins.
    """

    file: Path
    space: SearchSpace
    spec: DatasetSpec
    train: TrainSettings
    device: torch.device
    display: Display
    in_worker: bool = False
    look_only: bool = False

    def settle(self, settings: TrainSettings) -> TrainSettings:
        """The settings with precision and layout decided.

        Raises:
            StudyError: If the file is damaged.
            OSError: If it cannot be written.
        """
        if is_settled(settings):
            return settings
        if self._arithmetic is None:  # candidates will fail too, each with its reason
            return replace(settings, precision="float32", channels_last=False)
        return self._arithmetic.settle(settings)

    @cached_property
    def _arithmetic(self) -> Arithmetic | None:
        if self.file.is_file():
            try:
                found = Arithmetic.read(self.file)
            except StudyError as error:
                raise StudyError(
                    f"{self.file}, which holds the precision of the study's trainings, is damaged; "
                    "delete it, and training steps are timed again"
                ) from error
            here = hardware(self.device)
            if found.hardware != here:
                self.display.say(
                    f"precision: {found.in_words(self.train)}, as measured on {found.hardware}, "
                    f"where this study began; on {here} it stays so"
                )
            return found
        try:
            found = self._measured()
        except EvaluationError as error:
            self.display.say(f"precision: float32, channels first; nothing was timed: {error}")
            return None
        if not self.look_only:
            found.write(self.file)
        self.display.say(f"precision: {found.in_words(self.train)}")
        return found

    def _measured(self) -> Arithmetic:
        """What this machine has measured before, or measures now."""
        known = _read(self._known_here)
        if known is not None:
            return known
        found = None
        try:
            self._known_here.parent.mkdir(parents=True, exist_ok=True)
            # Two studies that begin together take one measurement.
            with exclusive(self._known_here.with_suffix(".lock"), on_wait=self._say_waiting):
                found = _read(self._known_here) or self._timed()
                found.write(self._known_here)
        except OSError as error:
            self.display.say(
                f"precision: {self._known_here.parent} cannot be written ({error.strerror}), so a "
                "study that repeats this one times anew and may choose otherwise"
            )
        return found or self._timed()

    def _say_waiting(self) -> None:
        self.display.say("precision: waiting for another study, which times the same networks")

    def _timed(self) -> Arithmetic:
        self.display.say("precision: timing a few training steps in each precision and layout")
        task = self.space, self.spec, self.train, self.device
        return _measure_in_worker(task) if self.in_worker else _measure(task)

    @property
    def _known_here(self) -> Path:
        """The file of this machine, for everything that changes how fast steps are."""
        kind, train = type(self.space), self.train
        code = [source_hash(kind)] if source_hash(kind) else []  # keys of what ships stay the same
        key = content_hash(
            [kind.__module__, kind.__qualname__, dump_options(self.space), *code],
            [*self.spec.image_shape, self.spec.num_classes],
            [train.image_size, train.batch_size, train.optimiser, dict(train.space_fidelity)],
            [hardware(self.device), str(torch.__version__)],
        )
        return cache_folder("arithmetic") / f"{key}.json"


_Task = tuple[SearchSpace, DatasetSpec, TrainSettings, torch.device]


def _measure(task: _Task) -> Arithmetic:
    return measure_arithmetic(*task)


def _measure_in_worker(task: _Task) -> Arithmetic:
    try:
        with WorkerPool(_measure, 1) as pool:
            return pool.submit(task).result()
    except WorkerLostError as error:
        raise EvaluationError(str(error)) from error


def _read(file: Path) -> Arithmetic | None:
    """What was measured; None if the file is not there or damaged: then it is measured anew."""
    try:
        return Arithmetic.read(file) if file.is_file() else None
    except StudyError:
        return None
