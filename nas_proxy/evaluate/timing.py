"""What evaluations will cost, by timing a few steps of a few random candidates.

Each job here is sent to a worker process, as an evaluation is, and works on noise: no image is
loaded. What it answers are the parts from which the seconds of any length of training follow.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nas_proxy.core.environment import PeakMemory
from nas_proxy.devices import wait_for
from nas_proxy.errors import EvaluationError
from nas_proxy.evaluate.arithmetic import clock, noise_images
from nas_proxy.evaluate.network import at_fidelity, failure_reason, phases_of
from nas_proxy.interfaces import Builder, ZeroCostScore
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.scores.suite import measure_scores
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import measure, recalibrate_norms
from nas_proxy.train.phases import Phase
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Architecture, DatasetSpec

_FEWEST, _MOST = 3, 24  # steps of a training, of which the first one warms up
_NUM_MEASURED = 200  # images that a network is measured on
_NORM_IMAGES = 512  # as many as norms are recalibrated on
_NUM_SCORE_IMAGES = 64  # as many as zero-cost scores look at
_SEED = 0


@dataclass(frozen=True)
class TrainingCost:
    """The parts of what an evaluation with a training costs; seconds of cores on a CPU.

    Attributes:
        setup: Building the network, and what the first step takes more than the others.
        step: One training step.
        image: Measuring one image.
        norms: Recalibrating the norms once; 0 where they are not.
        num_steps: Of a whole training, where the architecture says its length; None elsewhere.
        clock_share: Seconds of the clock for each of these.
        peak_mib: By how much the memory of the process grew; images are not in it.
    """

    setup: float
    step: float
    image: float
    norms: float
    num_steps: int | None
    clock_share: float
    peak_mib: float


@dataclass(frozen=True, kw_only=True)
class TrainingTiming:
    """Time a few steps of one candidate's training.

    Attributes:
        space: At full size.
        architecture: Of that space.
        spec: Of the images, at full size.
        settings: Of the training, with precision and layout decided.
        num_images: How many are trained on.
        device: Such as `cpu`.
        num_threads: Of torch, on a CPU.
        seconds: After which no further step is begun.
    """

    space: Builder
    architecture: Architecture
    spec: DatasetSpec
    settings: TrainSettings
    num_images: int
    device: str
    num_threads: int
    seconds: float

    def run(self) -> TrainingCost:
        """Time it.

        Raises:
            EvaluationError: If the network cannot be built or trained, with the reason.
        """
        try:
            return self._timed()
        except (Exception, SystemExit) as error:
            raise EvaluationError(failure_reason(error)) from error

    def _timed(self) -> TrainingCost:
        torch.set_num_threads(self.num_threads)
        device, settings = torch.device(self.device), self.settings
        spec = self.spec.with_image_size(settings.image_size or self.spec.image_shape[1])
        images = noise_images(spec, min(settings.batch_size, self.num_images), device)
        memory, started = PeakMemory(device), time.perf_counter()
        begun = clock(device)
        with isolated_rng(_SEED):
            reduced = at_fidelity(self.space, settings)
            network = reduced.build(self.architecture, spec).to(device)
            phases = phases_of(reduced, self.architecture, settings)
            building = clock(device) - begun
            first, step = self._steps(network, images, phases)
            held_out = noise_images(spec, _NUM_MEASURED, device)
            image = _seconds_of(lambda: measure(network, held_out, settings), device)
            norms = 0.0
            if settings.norm_statistics == "recalibrated":
                shown = noise_images(spec, min(_NORM_IMAGES, self.num_images), device)
                generator = make_generator(_SEED, device)
                norms = _seconds_of(
                    lambda: recalibrate_norms(network, shown, settings, generator), device
                )
        spent = max(1e-9, clock(device) - begun)
        own_length = settings.num_epochs == "architecture"
        return TrainingCost(
            setup=building + max(0.0, first - step),
            step=step,
            image=image / _NUM_MEASURED,
            norms=norms,
            num_steps=sum(p.settings.steps_for(self.num_images) for p in phases)
            if own_length
            else None,
            clock_share=(time.perf_counter() - started) / spent,
            peak_mib=memory.mib,
        )

    def _steps(
        self, network: nn.Module, images: TrainingSet, phases: Sequence[Phase]
    ) -> tuple[float, float]:
        """Seconds of the first step, and of each later one on average over the phases."""
        lengths = [phase.settings.steps_for(self.num_images) for phase in phases]
        share = self.seconds / len(phases)
        timed = [_timed_steps(network, images, phase, share) for phase in phases]
        steps = [statistics.median(later) for _, later in timed]
        mean = sum(n * each for n, each in zip(lengths, steps, strict=True)) / sum(lengths)
        return timed[0][0], mean


@dataclass(frozen=True, kw_only=True)
class ScoresTiming:
    """Time zero-cost scores on one candidate, each alone.

    Attributes:
        space: At full size.
        architecture: Of that space.
        spec: Of the images.
        scores: By the names of their signals.
        device: Such as `cpu`.
        num_threads: Of torch, on a CPU.
    """

    space: Builder
    architecture: Architecture
    spec: DatasetSpec
    scores: dict[str, ZeroCostScore]
    device: str
    num_threads: int

    def run(self) -> dict[str, float]:
        """Seconds of each; one that is not defined for the network takes as long to say so."""
        torch.set_num_threads(self.num_threads)
        device = torch.device(self.device)
        source = noise_images(self.spec, _NUM_SCORE_IMAGES, device)
        images, labels = source.batch(torch.arange(_NUM_SCORE_IMAGES, device=device))
        found = {}
        for name, score in self.scores.items():
            begun = clock(device)
            with suppress(Exception, SystemExit):  # a plug-in's; the seconds are spent
                measure_scores({name: score}, self._build, images, labels, seed=_SEED)
            wait_for(device)
            found[name] = clock(device) - begun
        return found

    def _build(self) -> nn.Module:
        return self.space.build(self.architecture, self.spec).to(torch.device(self.device))


Timing = TrainingTiming | ScoresTiming


class _EnoughError(Exception):
    """Ends a training that was timed for long enough."""


def _timed_steps(
    network: nn.Module, images: TrainingSet, phase: Phase, seconds: float
) -> tuple[float, list[float]]:
    """Seconds of the first step and of each later one, at least two of these."""
    device, told = images.images.device, [clock(images.images.device)]
    ends = time.perf_counter() + seconds

    def note(step: int, indices: Tensor, logits: Tensor) -> None:
        wait_for(device)
        told.append(clock(device))
        if step >= _FEWEST and time.perf_counter() > ends:
            raise _EnoughError

    # As long as it may be watched; a rate that does no harm to weights that nobody uses.
    short = replace(
        phase.settings,
        num_steps=_MOST,
        num_epochs=None,
        learning_rate=min(1e-3, phase.settings.learning_rate),
        first_image_size=None,
    )
    groups = None if phase.groups is None else phase.groups(network)
    with suppress(_EnoughError):
        train(network, images, short, make_generator(_SEED, device), note, groups=groups)
    taken = [later - earlier for earlier, later in zip(told, told[1:], strict=False)]
    return taken[0], taken[1:]


def _seconds_of(work: Callable[[], object], device: torch.device) -> float:
    begun = clock(device)
    work()
    wait_for(device)
    return clock(device) - begun
