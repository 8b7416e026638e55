"""Precision and memory layout of trainings, chosen by timing a few of their steps.

No flag of a processor tells which is fastest: with instructions for bfloat16, it gains seconds on
one processor and costs seconds on another, and channels-last gains or costs by the network.
`benchmarks/evaluation_profile.py` shows what was chosen, and what it gained.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from nas_proxy.core.environment import hardware
from nas_proxy.core.results import StoredResult
from nas_proxy.devices import is_gpu, wait_for
from nas_proxy.errors import EvaluationError
from nas_proxy.evaluate.network import at_fidelity, failure_reason
from nas_proxy.interfaces import Builder, SearchSpace
from nas_proxy.reproducibility import derive_seed, isolated_rng, make_generator
from nas_proxy.train.loop import train
from nas_proxy.train.settings import Precision, TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import DatasetSpec

_NUM_ARCHITECTURES = 4
_NUM_DRAWS = 8  # of a space, some of whose networks may not train
_NUM_STEPS = 3  # of which the first one warms up
# More images change the seconds, hardly their order: 64 of 32 pixels, 8 of 100 and more.
_MAX_IMAGES, _MIN_IMAGES, _MAX_PIXELS = 64, 8, 2**16
_HOPELESS = 3.0  # so many times slower than the fastest: not timed any further
# Bfloat16 changes the figures, so a gain within the noise of a busy machine must not decide.
_CLEAR_GAIN = 1.25
_PLAIN: tuple[Precision, bool] = ("float32", False)
_KINDS: tuple[tuple[Precision, bool], ...] = (
    _PLAIN,
    ("float32", True),
    ("bfloat16", True),
    ("bfloat16", False),  # for networks that channels-last does not suit
)


@dataclass(frozen=True)
class StepTime:
    """What a training step takes in one precision and layout.

    Attributes:
        precision: `float32` or `bfloat16`.
        channels_last: Whether images and weights are laid out channels-last.
        seconds: Of one step, the sum over a few architectures; of the processor on a CPU, of the
            clock on a GPU.
    """

    precision: Precision
    channels_last: bool
    seconds: float

    def __post_init__(self) -> None:
        """Refuse what no clock says."""
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"a step takes {self.seconds} seconds")

    def __str__(self) -> str:
        """Such as `float32, channels last`."""
        return f"{self.precision}, channels {'last' if self.channels_last else 'first'}"


@dataclass(frozen=True)
class Arithmetic(StoredResult):
    """How fast the trainings of a study are in each precision and layout, and on what.

    Attributes:
        hardware: The processor.
        torch: Version of torch.
        step_times: For each that was timed.
    """

    FORMAT = 1

    hardware: str
    torch: str
    step_times: tuple[StepTime, ...]

    def __post_init__(self) -> None:
        """Plain float32 is always among them."""
        if not any((each.precision, each.channels_last) == _PLAIN for each in self.step_times):
            raise ValueError("no step in float32, channels first, was timed")

    def chosen(self, settings: TrainSettings) -> StepTime | None:
        """The fastest of those that the settings allow; bfloat16 only where it gains clearly.

        None if those that they allow failed, or were too slow to be timed to the end.
        """
        allowed = [
            found
            for found in self.step_times
            if settings.precision in ("auto", found.precision)
            and settings.channels_last in (None, found.channels_last)
        ]

        def cost(found: StepTime) -> float:
            return found.seconds * (_CLEAR_GAIN if found.precision == "bfloat16" else 1.0)

        return min(allowed, key=cost, default=None)

    def in_words(self, settings: TrainSettings) -> str:
        """What was chosen, and how many times slower the others are."""
        chosen = self.chosen(settings)
        if chosen is None:
            return f"{settings.precision}, as the configuration says; it fails here, or is slow"
        others = [
            f"{other} {other.seconds / chosen.seconds:.2g} times its seconds"
            for other in self.step_times
            if other != chosen
        ]
        return f"{chosen} ({'; '.join(others)})" if others else str(chosen)

    def settle(self, settings: TrainSettings) -> TrainSettings:
        """The settings with what they leave open decided: `precision: auto`, no layout."""
        chosen = self.chosen(settings)
        if chosen is None or is_settled(settings):
            return settings
        return replace(settings, precision=chosen.precision, channels_last=chosen.channels_last)


def is_settled(settings: TrainSettings) -> bool:
    """Whether the settings themselves say precision and layout."""
    return settings.precision != "auto" and settings.channels_last is not None


def measure_arithmetic(
    space: SearchSpace, spec: DatasetSpec, settings: TrainSettings, device: torch.device
) -> Arithmetic:
    """Time training steps of a few networks, on noise, in every precision and layout.

    What a network cannot be trained in, as where it calls `view` on features that are laid out
    channels-last, is left out.

    Args:
        space: At full size; its networks are built as the settings reduce them.
        spec: Of the images that the networks are built for.
        settings: Batch size, image size, augmentation and reduced options count; what they say of
            precision and layout is for whoever chooses.
        device: Where trainings run.

    Raises:
        EvaluationError: If none of several networks can be trained; the message says why.
    """
    reduced = at_fidelity(space, settings)
    spec = spec.with_image_size(settings.image_size or spec.image_shape[1])
    noise = noise_images(spec, _num_images(spec, settings.batch_size), device)
    found: dict[tuple[Precision, bool], list[float]] = {kind: [] for kind in _KINDS}
    num_timed, reason = 0, ""
    for number in range(_NUM_DRAWS):
        times: dict[tuple[Precision, bool], float] = {}
        for kind in found:
            told = replace(settings, precision=kind[0], channels_last=kind[1])
            try:
                times[kind] = _seconds_of_network(reduced, space, spec, number, noise, told)
            except Exception as error:  # noqa: BLE001 - a space's own code may raise anything
                if kind == _PLAIN:  # the network's fault
                    reason = failure_reason(error)
                    break
        if not times:
            continue
        limit = _HOPELESS * min(times.values())
        # Plain float32 stays, slow as it may be: what fails or is hopeless in the others goes.
        found = {k: [*found[k], t] for k, t in times.items() if t <= limit or k == _PLAIN}
        num_timed += 1
        if num_timed == _NUM_ARCHITECTURES:
            break
    if not num_timed:
        raise EvaluationError(f"none of {_NUM_DRAWS} networks could be trained: {reason}")
    return Arithmetic(
        hardware(device),
        str(torch.__version__),
        tuple(StepTime(*kind, sum(times)) for kind, times in found.items()),
    )


def _num_images(spec: DatasetSpec, batch_size: int) -> int:
    fitting = max(_MIN_IMAGES, _MAX_PIXELS // math.prod(spec.image_shape[1:]))
    return min(batch_size, fitting, _MAX_IMAGES)


def noise_images(spec: DatasetSpec, num_images: int, device: torch.device) -> TrainingSet:
    """Images of noise to time a training on, which takes what it takes on real ones."""
    generator = make_generator(0)
    shape = (num_images, *spec.image_shape)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(spec.num_classes, (num_images,), generator=generator)
    return TrainingSet(images.to(device), labels.to(device), spec)


def clock(device: torch.device) -> float:
    """Seconds of this process's cores on a CPU, which others leave alone; the clock's on a GPU."""
    return time.perf_counter() if is_gpu(device) else time.process_time()


def _seconds_of_network(
    reduced: Builder,
    space: SearchSpace,
    spec: DatasetSpec,
    number: int,
    noise: TrainingSet,
    settings: TrainSettings,
) -> float:
    """Seconds of a training step of the network with this number, always the same network."""
    seed = derive_seed("arithmetic", number)
    architecture = space.sample(make_generator(seed))
    with isolated_rng(seed):
        network = reduced.build(architecture, spec).to(noise.images.device)
        return _step_seconds(network, noise, settings)


def _step_seconds(network: nn.Module, noise: TrainingSet, settings: TrainSettings) -> float:
    """The fastest of a few training steps after the first one."""
    device = noise.images.device
    told: list[float] = []

    def note(step: int, indices: Tensor, logits: Tensor) -> None:
        wait_for(device)
        told.append(clock(device))

    short = replace(settings, num_steps=_NUM_STEPS, num_epochs=None, learning_rate=1e-3)
    train(network, noise, short, make_generator(0, device), note)
    return min(later - earlier for earlier, later in pairwise(told))
