"""Recovering one batch of images from the statistics that trained networks have kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas_proxy.data.crops import cut, random_boxes
from nas_proxy.data.transforms import denormalise, normalise
from nas_proxy.distill.common.synthetic import SyntheticImages
from nas_proxy.errors import DivergedError, instance_of, required
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.teachers.teacher import Teacher
from nas_proxy.train.schedules import learning_rate_factor
from nas_proxy.types import DatasetSpec

_ADAM_BETAS = (0.5, 0.9)  # as published


@dataclass(frozen=True, kw_only=True)
class RecoverySettings:
    """How a batch is recovered; `StatisticalMatching` describes the options of the same names.

    Attributes:
        smallest_crop: 1 for no crops.
    """

    num_steps: int
    image_learning_rate: float
    statistics_weight: float
    first_layer_weight: float
    smallest_crop: float
    jitter: float
    decode_factor: int
    precision: Literal["float32", "bfloat16"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Images that are recovered together.

    Attributes:
        name: Such as "batch 2 of 5".
        start: Normalised float32, `(b, c, h, w)`.
        classes: The class of each, int64 `(b,)`.
        seed: Of all randomness of the recovery.
    """

    name: str
    start: Tensor
    classes: Tensor
    seed: int


class RecoveryObserver(Protocol):
    """Is told about a recovery, and may know how far an earlier one came."""

    def begin(self, synthetic: SyntheticImages) -> int:
        """Restore what an earlier recovery left; returns how many steps that had done."""

    def keep(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Save `state`, from which step number `step` begins: it cannot be done."""

    def after(self, step: int, loss: float, synthetic: SyntheticImages) -> None:
        """`step` steps are done."""


class NoObserver:
    """For worker processes, whose batches are done whole or not at all."""

    def begin(self, synthetic: SyntheticImages) -> int:
        """From the start."""
        return 0

    def keep(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def after(self, step: int, loss: float, synthetic: SyntheticImages) -> None:
        """Nothing."""


@dataclass(frozen=True, eq=False)
class Recovery:
    """From a batch's start to its finished images; can be sent to another process.

    Attributes:
        settings: How.
        teachers: Networks with batch norm, which take turns, a step each.
        spec: Of the images.
        watcher: Told after each step.
    """

    settings: RecoverySettings
    teachers: Sequence[Teacher]
    spec: DatasetSpec
    observer: RecoveryObserver = NoObserver()

    def __call__(self, batch: Batch) -> Tensor:
        """The finished images: uint8 on the CPU, `(b, c, h, w)`.

        Raises:
            DivergedError: If a loss, a gradient or a pixel is not finite.
        """
        synthetic = self.synthetic_images(batch)
        num_steps = self.settings.num_steps
        for step in range(self.observer.begin(synthetic), num_steps):
            before = {name: value.detach().clone() for name, value in synthetic.state().items()}
            try:
                loss = self.step(synthetic, batch.seed, step)
            except DivergedError as error:
                self.observer.keep(step, before)
                raise DivergedError(
                    f"{batch.name} diverged at step {step + 1} of {num_steps}: {error}; lower "
                    f"distill.image_learning_rate (now {self.settings.image_learning_rate})"
                ) from error
            self.observer.after(step + 1, loss, synthetic)
        return denormalise(synthetic.images.detach(), self.spec).cpu()

    def attempt(self, num_images: int) -> None:
        """One step with some images that nobody wants, to see what it needs."""
        noise = torch.randn((num_images, *self.spec.image_shape), generator=make_generator(0))
        classes = torch.zeros(num_images, dtype=torch.int64)
        with suppress(DivergedError):  # a batch would say so with its name
            self.step(self.synthetic_images(Batch("attempt", noise, classes, seed=0)), 0, 0)

    def synthetic_images(self, batch: Batch) -> SyntheticImages:
        """The batch, ready to be optimised, on the device of the networks."""
        device = self.teachers[0].device
        images = batch.start.to(device).clone().requires_grad_()
        factor = self.settings.decode_factor
        return SyntheticImages(
            images=images,
            classes=batch.classes.to(device).repeat_interleave(factor**2),
            images_per_class=len(images) // self.spec.num_classes,
            spec=self.spec,
            optimiser=torch.optim.Adam(
                [images], lr=self.settings.image_learning_rate, betas=_ADAM_BETAS
            ),
            decode_factor=factor,
        )

    def step(self, synthetic: SyntheticImages, seed: int, step: int) -> float:
        """Improve the images once; returns the loss before.

        Args:
            synthetic: Changed in place; its pixels stay within those of real images.
            seed: Of the batch.
            step: Counts from 0.
        """
        settings, device = self.settings, synthetic.images.device
        factor = learning_rate_factor("cosine", step, settings.num_steps)
        for group in synthetic.optimiser.param_groups:
            group["lr"] = settings.image_learning_rate * factor
        generator = make_generator(derive_seed(seed, "view", step))
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            views = random_view(
                synthetic.training_images(), settings.smallest_crop, settings.jitter, generator
            )
            teacher = self.teachers[step % len(self.teachers)]
            loss = self.loss(teacher, views, synthetic.classes)
        synthetic.descend(loss)
        black, white = (
            normalise(torch.full((1, len(self.spec.mean), 1, 1), value, device=device), self.spec)
            for value in (0, 255)
        )
        with torch.no_grad():
            synthetic.images.clamp_(black, white)
        return float(loss.detach())

    def loss(self, teacher: Teacher, images: Tensor, classes: Tensor) -> Tensor:
        """Cross-entropy to the classes, and the weighted distances of the statistics."""
        logits, distances = logits_and_distances(teacher, images)
        weighted = self.settings.first_layer_weight * distances[0]
        for distance in distances[1:]:
            weighted = weighted + distance
        classification = F.cross_entropy(logits.to(images.dtype), classes)
        return classification + self.settings.statistics_weight * weighted


def logits_and_distances(teacher: Teacher, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What a network says, and how far the images' statistics are from those that it has kept.

    Args:
        teacher: With batch norm.
        images: Normalised, `(n, c, h, w)`; gradients flow to them.

    Returns:
        Logits `(n, num_classes)`, and one scalar for each batch norm in the order in which the
        images meet them: the distance of the variances of all channels plus that of the means.
    """
    distances = []

    def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        norm = instance_of(layer, _BatchNorm)
        known_mean = required(norm.running_mean, "running_mean")
        known_variance = required(norm.running_var, "running_var")
        values = inputs[0].to(known_mean.dtype)  # from what autocast computes in
        over = [0, *range(2, values.ndim)]
        variance, mean = torch.var_mean(values, dim=over, correction=0)
        distances.append((known_variance - variance).norm() + (known_mean - mean).norm())

    handles = [layer.register_forward_pre_hook(look) for layer in layers_with_statistics(teacher)]
    try:
        logits = teacher.logits(images)
    finally:
        for handle in handles:
            handle.remove()
    return logits, distances


def layers_with_statistics(teacher: Teacher) -> list[nn.Module]:
    """The batch norms of a network that keep a running mean and variance."""
    return [
        layer
        for layer in teacher.network.modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    ]


def random_view(
    images: Tensor, smallest_crop: float, jitter: float, generator: torch.Generator
) -> Tensor:
    """The same random change of all images, so that no pixel counts on its place.

    Args:
        images: `(n, c, h, w)`; gradients flow through.
        smallest_crop: Share of the area that an enlarged part has at least, which is mirrored in
            half of the cases; 1 leaves both out.
        jitter: Largest shift down and right as a share of the side; what moves out at one side
            comes in at the other.
        generator: On the CPU.
    """
    height, width = images.shape[-2:]
    if smallest_crop < 1:
        (box,) = random_boxes(1, (height, width), smallest_crop, generator).tolist()
        images = cut(images, box, height)
        if bool(torch.randint(2, (1,), generator=generator)):
            images = images.flip(-1)
    largest = round(jitter * height)
    down, right = torch.randint(largest + 1, (2,), generator=generator).tolist()
    return images.roll((down, right), dims=(2, 3))
