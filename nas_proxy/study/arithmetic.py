"""One precision and one memory layout for all trainings of a study, measured once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from nas_proxy.core.environment import hardware
from nas_proxy.errors import EvaluationError
from nas_proxy.evaluate.arithmetic import Arithmetic, is_settled, measure_arithmetic
from nas_proxy.interfaces import SearchSpace
from nas_proxy.study.display import Display
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import DatasetSpec


@dataclass(frozen=True)
class StudyArithmetic:
    """Decides what settings leave open; measures when the first ones do, and keeps what it found.

    A study that continues elsewhere keeps its choice: two ways to compute are never mixed in it.

    Attributes:
        file: Where the measurement is kept.
        space: The study's.
        spec: Of its images.
        train: Its section `train`, at the fidelity of candidates.
        device: Where trainings run.
        display: Told what was chosen.
    """

    file: Path
    space: SearchSpace
    spec: DatasetSpec
    train: TrainSettings
    device: torch.device
    display: Display

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
            found = Arithmetic.read(self.file)
            here = hardware(self.device)
            if found.hardware != here:
                self.display.say(
                    f"precision: {found.in_words(self.train)}, as measured on {found.hardware}, "
                    f"where this study began; on {here} it stays so"
                )
            return found
        self.display.say("precision: timing a few training steps in each precision and layout")
        try:
            found = measure_arithmetic(self.space, self.spec, self.train, self.device)
        except EvaluationError as error:
            self.display.say(f"precision: float32, channels first; nothing was timed: {error}")
            return None
        found.write(self.file)
        self.display.say(f"precision: {found.in_words(self.train)}")
        return found
