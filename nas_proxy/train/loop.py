"""The one training loop: candidates, references and the networks inside distilling all use it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn

from nas_proxy.core.checkpoint import Checkpointer, State
from nas_proxy.data.transforms import resize
from nas_proxy.devices import (
    global_rng_state,
    is_out_of_memory,
    is_recording,
    release_memory,
    set_global_rng_state,
)
from nas_proxy.errors import DivergedError, EvaluationError
from nas_proxy.train.graphed import GraphedStep
from nas_proxy.train.measuring import forward
from nas_proxy.train.objective import Batch, CrossEntropy, Objective, ParameterGroup
from nas_proxy.train.optimisers import make_optimiser, rates_of
from nas_proxy.train.schedules import image_size_at, learning_rate_factor
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet, as_probabilities

logger = logging.getLogger("nas_proxy")

_CHECK_EVERY = 50  # steps between looks at the loss: looking makes a GPU wait


class Observer(Protocol):
    """Watches a training after each step; it may put the network into evaluation mode."""

    def __call__(self, step: int, indices: Tensor, logits: Tensor) -> None:
        """`step` counts from 1; `logits` are those of the images at `indices`, before the step."""


@dataclass(frozen=True)
class TrainResult:
    """What one training leaves behind besides the weights.

    Attributes:
        losses: Mean loss of the batch at each step, `(num_steps,)`.
        train_seconds: Wall-clock seconds of the loop.
        images_seen: Images that went through the network, repeats counted.
        phases: Name and steps of each phase, in order; empty for a training in one go.
        num_graphed_steps: Steps that were done as one CUDA graph each.
    """

    losses: tuple[float, ...]
    train_seconds: float
    images_seen: int
    phases: tuple[tuple[str, int], ...] = ()
    num_graphed_steps: int = 0

    @property
    def loss_mean(self) -> float:
        """Mean over all steps: how fast the network learns."""
        return sum(self.losses) / len(self.losses)

    @property
    def loss_tail(self) -> float:
        """Mean over the last tenth of the steps, at least one: how far it got."""
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(tail) / len(tail)

    @property
    def loss_slope(self) -> float:
        """Change of the loss over the second half of the steps, by its least-squares line."""
        half = torch.tensor(self.losses[len(self.losses) // 2 :], dtype=torch.float64)
        steps = torch.linspace(-0.5, 0.5, len(half), dtype=torch.float64)
        if len(half) == 1:
            return 0.0
        return float((steps * half).sum() / (steps * steps).sum())

    def until(self, step: int) -> TrainResult:
        """What had been left behind after the first `step` steps; the time is not known."""
        share = step / len(self.losses)
        return TrainResult(self.losses[:step], math.nan, round(self.images_seen * share))


def train(
    network: nn.Module,
    training_set: TrainingSet,
    settings: TrainSettings,
    generator: torch.Generator,
    observer: Observer | None = None,
    *,
    objective: Objective | None = None,
    groups: Sequence[ParameterGroup] | None = None,
    checkpoint: Checkpointer | None = None,
    until: int | None = None,
    graphed: bool = False,
    compiled: bool = False,
) -> TrainResult:
    """Train `network` in place by gradient descent.

    Args:
        network: Maps `(n, c, h, w)` to logits; on the device of the images.
        training_set: What it learns.
        settings: Length, schedule, augmentation, precision.
        generator: On the device of the images: order of the images and augmentation.
        observer: Told after each step.
        objective: What is minimised, on the same device; None: cross-entropy with the labels.
        groups: What is trained and at which rate; all other parameters of the network are frozen,
            also after the training. None: all that require a gradient, at the settings' rate. A
            module all of whose parameters are frozen stays in evaluation mode.
        checkpoint: Where a killed training continues, to the identical weights and losses; the
            last state stays there until the caller removes it. The observer is not told again of
            steps that were saved.
        until: Pause after so many steps, of which those that were saved count; the schedule stays
            that of the whole. None: at the end.
        graphed: Do the steps as one CUDA graph each where that can be done; see `GraphedStep`.
            Optimisers are fused then, which rounds differently.
        compiled: Call the network through `torch.compile`, which takes about a minute first and
            rounds differently: for long trainings. An observer measures what was not compiled.

    Raises:
        DivergedError: If the loss is not finite; it is looked at every 50 steps and at the end.
        StudyError: If the checkpoint is damaged or belongs to other work.
    """
    objective = objective or CrossEntropy()
    loop = _Loop(
        network,
        training_set,
        settings,
        generator,
        objective,
        groups,
        graphed=graphed,
        compiled=compiled,
    )
    saved = None if checkpoint is None else checkpoint.load()
    if saved is not None:
        loop.restore(saved)
    last = loop.num_steps if until is None else min(until, loop.num_steps)
    while loop.step < last:
        indices, logits = loop.advance()
        if observer is not None:
            observer(loop.step, indices, logits)
            set_training_mode(network)  # it may have been measured
        if loop.step % _CHECK_EVERY == 0 or loop.step == last:
            loop.check_finite()
        if checkpoint is not None and checkpoint.is_due:
            checkpoint.save(loop.step, loop.state(), loop.seconds)
    if checkpoint is not None and (saved is None or saved.step < last):
        checkpoint.save(loop.step, loop.state(), loop.seconds)
    return loop.result()


def set_training_mode(network: nn.Module) -> None:
    """Training mode, but for modules all of whose parameters are frozen.

    What is frozen as a whole is a fixed function: its batch norms keep their statistics, and its
    dropout drops nothing.
    """
    network.train()
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


class _Loop:
    """One training between two steps: everything that the next step depends on."""

    def __init__(
        self,
        network: nn.Module,
        training_set: TrainingSet,
        settings: TrainSettings,
        generator: torch.Generator,
        objective: Objective,
        groups: Sequence[ParameterGroup] | None,
        *,
        graphed: bool,
        compiled: bool,
    ) -> None:
        device = training_set.images.device
        self.num_steps = settings.steps_for(len(training_set))
        self._batch_size = min(settings.batch_size, len(training_set))
        self._network = network
        self._called = torch.compile(network) if compiled else network
        self._training_set = training_set
        self._settings = settings
        self._generator = generator
        self._objective = objective
        self._augmentation = settings.augmentation or training_set.augmentation
        self._channels_last = settings.uses_channels_last(network, device)
        if self._channels_last:
            network.to(memory_format=torch.channels_last)
        # Mixing turns hard labels into probabilities, which are still to be smoothed.
        self._smoothing = settings.label_smoothing if training_set.has_hard_labels else 0.0
        rates = rates_of(network, objective, groups, settings)
        self._optimiser = make_optimiser(rates, settings, on=device if graphed else None)
        # A graph repeats one shape; progressive resizing has several.
        one_size = settings.first_image_size is None
        self._graphed = GraphedStep(self._work, generator) if graphed and one_size else None
        set_training_mode(network)
        objective.train()
        self._upcoming = torch.empty(0, dtype=torch.int64, device=generator.device)
        self._num_parts = 1  # of a batch, more where it does not fit into memory as a whole
        self._losses: list[Tensor] = []
        self._earlier_seconds = 0.0
        self._started = time.perf_counter()

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self._losses)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds so far, those before a kill included."""
        return self._earlier_seconds + time.perf_counter() - self._started

    def advance(self) -> tuple[Tensor, Tensor]:
        """Do one step; returns the positions of its images and the logits before it."""
        indices = self._next_indices()
        self._set_rates()
        loss, logits = (self._graphed or self._work)(indices)
        self._losses.append(loss)
        return indices, logits

    def _work(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = self._prepared(indices)
        while True:
            try:
                return self._update(indices, images, labels)
            except Exception as error:
                if not (is_out_of_memory(error) and self._can_divide(len(images))):
                    self._blame_size(error, images.shape[-1])
                    raise
            release_memory(images.device)  # now that no error holds what did not fit
            self._num_parts *= 2
            _say_divided(len(images), self._num_parts)

    def _blame_size(self, error: Exception, size: int) -> None:
        """Name the option that makes images smaller than a network may have been built for."""
        if size < self._training_set.images.shape[-1] and not is_out_of_memory(error):
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise EvaluationError(
                f"the training fails at {size} pixels, with which train.first_image_size begins; "
                f"that is for networks that take images of any size: {reason}"
            ) from error

    def _can_divide(self, num_images: int) -> bool:
        """Whether smaller parts give the same gradient; parts of one image a norm may refuse."""
        return (
            self._objective.averages_images
            and self._training_set.views == 1
            and num_images >= 4 * self._num_parts
            and not is_recording(self._generator.device)
        )

    def _update(self, indices: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the optimiser with the mean gradient of all parts of the batch."""
        self._optimiser.zero_grad(set_to_none=True)
        temperature = self._training_set.temperature
        losses, logits = [], []
        parts = (each.tensor_split(self._num_parts) for each in (indices, images, labels))
        for some, shown, told in zip(*parts, strict=True):
            answered = forward(
                self._called, shown, self._settings, channels_last=self._channels_last
            )
            batch = Batch(some, shown, told, answered, temperature, self._smoothing)
            loss = self._objective(batch) * (len(shown) / len(images))
            loss.backward()
            losses.append(loss.detach())
            logits.append(answered.detach())
        self._optimiser.step()
        return torch.stack(losses).sum(), torch.cat(logits)

    def _set_rates(self) -> None:
        factor = learning_rate_factor(self._settings.schedule, self.step, self.num_steps)
        for group in self._optimiser.param_groups:
            rate = group["largest_lr"] * factor
            if isinstance(group["lr"], Tensor):  # a graph looks for it where it is
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _prepared(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images as the network sees them, and their labels."""
        training_set, augmentation = self._training_set, self._augmentation
        images, labels = training_set.batch(indices)
        if training_set.views > 1:
            images = torch.cat([images] * training_set.views)
            labels = torch.cat([labels] * training_set.views)
        images = augmentation.apply(self._at_size(images), self._generator)
        if augmentation.mixes:
            labels = as_probabilities(labels, training_set.spec)
            images, labels = augmentation.mix(images, labels, self._generator)
        if training_set.labeller is not None:
            labels = training_set.labeller(images)
        return images, labels

    def _at_size(self, images: Tensor) -> Tensor:
        """The batch at the size that this step trains at."""
        first, full = self._settings.first_image_size, images.shape[-1]
        if first is None or first >= full:
            return images
        return resize(images, image_size_at(first, full, self.step, self.num_steps))

    def _next_indices(self) -> Tensor:
        """Of a stream of permutations: each image once before any image again."""
        if len(self._upcoming) < self._batch_size:
            device = self._generator.device
            order = torch.randperm(
                len(self._training_set), generator=self._generator, device=device
            )
            self._upcoming = torch.cat([self._upcoming, order])
        indices = self._upcoming[: self._batch_size]
        self._upcoming = self._upcoming[self._batch_size :]
        return indices

    def check_finite(self) -> None:
        """Raise a DivergedError if one of the last losses is not finite."""
        recent = torch.stack(self._losses[-_CHECK_EVERY:])
        if not bool(recent.isfinite().all()):
            first = self.step - len(recent) + int((~recent.isfinite()).nonzero()[0]) + 1
            raise DivergedError(f"the training loss is not finite from step {first} on")

    def result(self) -> TrainResult:
        """What the training leaves behind."""
        return TrainResult(
            losses=tuple(torch.stack(self._losses).tolist()),
            train_seconds=self.seconds,
            images_seen=self.step * self._batch_size,
            num_graphed_steps=0 if self._graphed is None else self._graphed.num_replayed,
        )

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""
        buffers = self._optimiser.state_dict()["state"]
        return {
            **_prefixed("network", self._network.state_dict()),
            **_prefixed("objective", self._objective.state_dict()),
            **{
                f"optimiser.{at}.{name}": value
                for at, values in buffers.items()
                for name, value in values.items()
                if isinstance(value, Tensor)
            },
            "generator": self._generator.get_state(),
            # Dropout draws from the global generator of the network's device.
            "global_generator": global_rng_state(self._generator.device),
            "upcoming": self._upcoming,
            "losses": torch.stack(self._losses) if self._losses else torch.empty(0),
        }

    def restore(self, saved: State) -> None:
        """Continue from a saved state."""
        tensors, device = saved.tensors, self._generator.device
        self._network.load_state_dict(_under("network", tensors))
        self._objective.load_state_dict(_under("objective", tensors))
        buffers: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimiser", tensors).items():
            at, _, buffer = name.partition(".")
            buffers.setdefault(int(at), {})[buffer] = value
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": buffers})
        self._generator.set_state(tensors["generator"])
        set_global_rng_state(device, tensors["global_generator"])
        self._upcoming = tensors["upcoming"].to(device)
        self._losses = list(tensors["losses"].to(self._training_set.images.device))
        self._earlier_seconds = saved.seconds


@lru_cache(maxsize=64)
def _say_divided(num_images: int, num_parts: int) -> None:
    """Once in a process: candidates of one search mostly have one batch size."""
    logger.warning(
        "a batch of %d images does not fit into memory and is trained on in %d parts: the same "
        "update, but that batch norm takes its statistics of each part",
        num_images,
        num_parts,
    )


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Clones: safetensors refuses weights that two layers share.
    return {f"{prefix}.{name}": value.detach().clone() for name, value in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): value
        for name, value in tensors.items()
        if name.startswith(f"{prefix}.")
    }
