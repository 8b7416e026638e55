"""What all methods share that optimise the pixels of synthetic images by gradient descent."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from nas_proxy.data.augment import Augmentation, dsa_families, siamese_augment
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.transforms import normalise
from nas_proxy.distill.checkpoint import Checkpointer
from nas_proxy.environment import hardware, versions
from nas_proxy.errors import DivergedError
from nas_proxy.interfaces import DistillContext, Distiller
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.options import Fraction, PositiveFloat, PositiveInt
from nas_proxy.reproducibility import content_hash, isolated_rng, make_generator
from nas_proxy.types import DatasetSpec, ImageDataset


class RealImages:
    """Random batches of one class of a data set."""

    def __init__(self, dataset: ImageDataset, batch_size: int) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._members = [
            torch.nonzero(dataset.labels == label).flatten()
            for label in range(dataset.spec.num_classes)
        ]

    def batch(self, label: int, generator: torch.Generator) -> Tensor:
        """Normalised images of class `label`, without repeats; all of them if there are fewer."""
        members = self._members[label]
        order = torch.randperm(len(members), generator=generator)[: self._batch_size]
        images = self._dataset.images[members[order.to(members.device)]]
        return normalise(images, self._dataset.spec)


@dataclass(eq=False)
class SyntheticImages:
    """The images under optimisation.

    Attributes:
        images: Normalised float32 with gradients, `(num_classes * images_per_class, c, h, w)`.
        labels: int64, class by class.
        images_per_class: How many belong to each class.
        spec: Of the real images.
        optimiser: Holds `images` alone.
    """

    images: Tensor
    labels: Tensor
    images_per_class: int
    spec: DatasetSpec
    optimiser: torch.optim.Optimizer

    def of_class(self, label: int) -> Tensor:
        """The images of one class, `(images_per_class, c, h, w)`."""
        start = label * self.images_per_class
        return self.images[start : start + self.images_per_class]

    def descend(self, loss: Tensor) -> None:
        """One step of the optimiser along the gradient of `loss`."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()


@dataclass(frozen=True, kw_only=True)
class PixelDistiller(Distiller):
    """A distiller whose result is found by gradient descent on pixels.

    Attributes:
        num_steps: Iterations; each starts from a fresh random network.
        image_learning_rate: Of stochastic gradient descent on the pixels.
        image_momentum: Of the same.
        init: Start from `real` images or from Gaussian `noise`.
        augment: Families of differentiable Siamese augmentation, joined by `_`; empty for none.
            Leave out `flip` for written characters.
        real_batch_size: Real images per class and iteration.
        network_width: Channels of the matching network, a ConvNet with instance norm.
        network_depth: Its blocks.
    """

    num_steps: PositiveInt
    image_learning_rate: PositiveFloat
    image_momentum: Fraction = 0.5
    init: Literal["real", "noise"] = "real"
    augment: str = ""
    real_batch_size: PositiveInt = 256
    network_width: PositiveInt = 128
    network_depth: PositiveInt = 3

    def __post_init__(self) -> None:
        """Refuse augmentation families that do not exist."""
        dsa_families(self.augment)

    @abstractmethod
    def iterate(
        self, synthetic: SyntheticImages, real: RealImages, network: ConvNet, seed: int
    ) -> float:
        """Improve the images with one random network.

        Args:
            synthetic: Changed in place through `descend`.
            real: Where batches of real images come from.
            network: Freshly initialised; may be trained.
            seed: Of all further randomness of this iteration.

        Returns:
            The matching loss, for the progress display.
        """

    def initialise(
        self, dataset: ImageDataset, images_per_class: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Random real images, or Gaussian noise of their shape; see `Distiller.initialise`."""
        images, labels = super().initialise(dataset, images_per_class, generator)
        if self.init == "noise":
            images = torch.randn(images.shape, generator=generator).to(images.device)
        return images, labels

    def distill(
        self,
        dataset: ImageDataset,
        images_per_class: int,
        *,
        generator: torch.Generator,
        context: DistillContext,
    ) -> ProxyDataset:
        """Optimise the images for `num_steps` iterations; see `Distiller.distill`.

        Raises:
            DivergedError: If the matching loss or a pixel is not finite; the checkpoint keeps the
                last state before it.
        """
        images, labels = self.initialise(dataset, images_per_class, generator)
        images.requires_grad_()
        optimiser = torch.optim.SGD(
            [images], lr=self.image_learning_rate, momentum=self.image_momentum
        )
        synthetic = SyntheticImages(images, labels, images_per_class, dataset.spec, optimiser)
        key = content_hash(
            self.name, asdict(self), dataset.spec.source_hash, images_per_class,
            generator.initial_seed(),
        )  # fmt: skip
        checkpointer = Checkpointer(context.checkpoint, key)
        seconds = self._run(synthetic, dataset, generator, checkpointer, context)
        checkpointer.remove()
        return ProxyDataset(
            images=images.detach(),
            labels=labels,
            spec=dataset.spec,
            method=self.name,
            parameters=asdict(self),
            images_per_class=images_per_class,
            seed=generator.initial_seed(),
            augmentation=Augmentation(dsa=self.augment),
            cost_seconds=seconds,
            hardware=hardware(context.device),
            versions=versions(),
        )

    def _run(
        self,
        synthetic: SyntheticImages,
        dataset: ImageDataset,
        generator: torch.Generator,
        checkpointer: Checkpointer,
        context: DistillContext,
    ) -> float:
        """All iterations, from the checkpoint on; returns the seconds over all processes."""
        real = RealImages(dataset, self.real_batch_size)
        first, earlier_seconds = 0, 0.0
        state = checkpointer.load()
        if state is not None:
            first, earlier_seconds = state.step, state.seconds
            _restore(synthetic, generator, state.tensors)
        started = time.perf_counter()
        for step in range(first, self.num_steps):
            seed = int(torch.randint(2**62, (1,), generator=generator))
            try:
                loss = self.iterate(synthetic, real, self._network(dataset, seed), seed)
                _check_finite(loss, synthetic)
            except DivergedError as error:
                raise DivergedError(
                    f"{self.name} diverged at step {step + 1} of {self.num_steps}: {error}; "
                    f"lower distill.image_learning_rate (now {self.image_learning_rate})"
                ) from error
            seconds = earlier_seconds + time.perf_counter() - started
            checkpointer.save_if_due(step + 1, seconds, _snapshot(synthetic, generator))
            context.progress(step + 1, self.num_steps, f"matching loss {loss:.3g}")
        return earlier_seconds + time.perf_counter() - started

    def _network(self, dataset: ImageDataset, seed: int) -> ConvNet:
        with isolated_rng(seed):
            network = ConvNet(
                dataset.spec.image_shape,
                dataset.spec.num_classes,
                width=self.network_width,
                depth=self.network_depth,
            )
        return network.to(dataset.images.device)

    def augmented_pair(self, real: Tensor, synthetic: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Both batches under the same random change, as Siamese augmentation asks."""
        first, second = (
            siamese_augment(images, self.augment, make_generator(seed, images.device))
            for images in (real, synthetic)
        )
        return first, second


def _check_finite(loss: float, synthetic: SyntheticImages) -> None:
    if not math.isfinite(loss):
        raise DivergedError("the matching loss is not finite")
    if not bool(synthetic.images.isfinite().all()):
        raise DivergedError("a pixel is not finite")


def _snapshot(synthetic: SyntheticImages, generator: torch.Generator) -> dict[str, Tensor]:
    state = synthetic.optimiser.state[synthetic.images]
    buffer = state.get("momentum_buffer")  # absent without momentum
    return {
        "images": synthetic.images,
        "momentum": torch.zeros_like(synthetic.images) if buffer is None else buffer,
        "generator": generator.get_state(),
    }


def _restore(
    synthetic: SyntheticImages, generator: torch.Generator, tensors: dict[str, Tensor]
) -> None:
    with torch.no_grad():
        synthetic.images.copy_(tensors["images"])
    momentum = tensors["momentum"].to(synthetic.images.device)
    synthetic.optimiser.state[synthetic.images]["momentum_buffer"] = momentum
    generator.set_state(tensors["generator"])
