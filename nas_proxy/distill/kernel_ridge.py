"""Kernel ridge regression: what a network's last layer would learn from the images, solved for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nas_proxy.data.augment import DSA_STRATEGY
from nas_proxy.data.proxy_dataset import LearningRateRule
from nas_proxy.distill.common.network_pool import NetworkPool
from nas_proxy.distill.common.pixels import (
    ImageOptimiser,
    Objective,
    initial_label_logits,
)
from nas_proxy.distill.common.random_networks import (
    DrawingDistiller,
    NetworkObjective,
    NetworkSource,
)
from nas_proxy.distill.common.synthetic import RealImages, SyntheticImages, cache_sized_parts
from nas_proxy.errors import ConfigError, required
from nas_proxy.interfaces import DistillContext
from nas_proxy.networks.base import Network
from nas_proxy.options import PositiveFloat, PositiveInt
from nas_proxy.registry import DISTILLERS
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.teachers.label_solve import (
    LabelEquations,
    centred_labels,
    project_to_simplex,
    ridge_predictor,
)
from nas_proxy.train.schedules import learning_rate_factor
from nas_proxy.types import DatasetSpec, ImageDataset

_LAST_RATE = 0.1  # the learning rate ends at this share of its first value, as published
_EMBEDDING_BATCH = 512  # real images at once where all of them are embedded
# published length of the training on the result, in passes, up to so many images
_PUBLISHED_EPOCHS = {10: 1000, 100: 2000}


@DISTILLERS.register("kernel_ridge")
@dataclass(frozen=True, kw_only=True)
class KernelRidge(DrawingDistiller):
    """FRePo: images from whose embedding a linear regression predicts the real labels.

    The defaults are the published ones for CIFAR-10 (65.5 % at 10 images per class), but for the
    networks: the authors' double their width from block to block and have batch norm while
    distilling and none afterwards; ours are those of all other methods. As published, the images
    are not augmented while they are distilled but for their mirror images; `augment` is for
    training on the result. The authors' labels are any real numbers, ours stay probabilities.

    With `optimise: labels` the images stay what they were at the start and their labels are solved
    for (label solve): of all labels those with the least error on all real images, averaged over
    `num_networks` networks whose training on the images stopped at different ages; then the
    nearest probabilities, whose error is hardly larger (.385 after .374 on CIFAR-10, .382 being
    the least for probabilities, .789 that of the classes). It takes one step for each network;
    `num_steps` and the image optimiser play no part.

    Attributes:
        optimise: `images`, and with them their labels where learned labels are wanted; or `labels`
            alone, in closed form.
        regularisation: Of the ridge regression, as a share of the kernel's mean diagonal.
        mirror: Whether the regression sees each image and its mirror image. None: if `augment` has
            `flip`, so not for written characters.
        num_networks: Networks in the pool, of which each step meets a random one.
        max_online_updates: A network that has trained on the images for so many steps is replaced
            by a fresh one.
        network_learning_rate: Of Adam, which trains them by least squares.
    """

    family = "performance matching (kernel)"
    typical_cost = "a day on a GPU; about 5 s per iteration on one CPU core"
    summary = "predicts real labels by kernel ridge regression on the images (FRePo); label solve"
    paper = (
        "Zhou, Nezhadarya and Ba, Dataset Distillation using Neural Feature Regression, NeurIPS "
        "2022; Nguyen, Chen and Lee, Dataset Meta-Learning from Kernel Ridge-Regression, ICLR 2021"
    )

    num_steps: PositiveInt = 500_000
    image_optimiser: ImageOptimiser = "lamb"
    image_learning_rate: PositiveFloat = 3e-4
    augment: str = DSA_STRATEGY
    real_batch_size: PositiveInt = 1024
    zca: PositiveFloat | None = 0.1
    optimise: Literal["images", "labels"] = "images"
    regularisation: PositiveFloat = 1e-6
    mirror: bool | None = None
    num_networks: PositiveInt = 10
    max_online_updates: PositiveInt = 100
    network_learning_rate: PositiveFloat = 3e-4

    def objective(
        self, dataset: ImageDataset, real: RealImages, context: DistillContext
    ) -> Objective:
        """The regression, or label solve.

        Raises:
            ConfigError: If labels are to be solved for, but hard or soft ones are wanted.
        """
        source = self.network_source(dataset, context)
        if self.optimise == "images":
            return _Regression(self, source, dataset, real)
        if context.labels != "learned":
            raise ConfigError(
                f"kernel_ridge with optimise: labels gives learned labels, but the study asks for "
                f"{context.labels} ones; set distill.labels: learned, or optimise: images"
            )
        return _LabelSolve(self, source, dataset, real)

    def synthetic_images(
        self, images: Tensor, images_per_class: int, spec: DatasetSpec, context: DistillContext
    ) -> SyntheticImages:
        """The images, and their labels where learned ones are wanted."""
        synthetic = super().synthetic_images(images, images_per_class, spec, context)
        if context.labels != "learned":
            return synthetic
        logits = initial_label_logits(synthetic.classes, spec.num_classes)
        optimiser = self.optimiser([{"params": [synthetic.images]}, {"params": [logits]}])
        return replace(synthetic, label_logits=logits, optimiser=optimiser)

    def learning_rate_rule(self, synthetic: SyntheticImages) -> LearningRateRule:
        """Adam with a cosine, as published; the authors fit centred labels by least squares."""
        num_images = len(synthetic.classes)
        epochs = [passes for most, passes in _PUBLISHED_EPOCHS.items() if num_images <= most]
        return LearningRateRule(
            optimiser="adam",
            learning_rate=3e-4,
            momentum=0.0,
            weight_decay=0.0,
            batch_size=500,
            schedule="cosine",
            num_epochs=epochs[0] if epochs else 5000,
        )

    def pool(self, source: NetworkSource, size: int) -> NetworkPool:
        """Networks that train on the images, not made yet."""
        return NetworkPool(
            source.draw,
            size=size,
            max_updates=self.max_online_updates,
            learning_rate=self.network_learning_rate,
        )

    def predictor(self, network: Network, images: Tensor) -> Tensor:
        """From centred labels of `images`, and of their mirror images, to a linear classifier.

        Args:
            network: Embeds.
            images: `(n, c, h, w)`; differentiable.

        Returns:
            float64, `(d, n)`: real embeddings times this times the labels are the predictions.
        """
        mirrored = "flip" in self.augment.split("_") if self.mirror is None else self.mirror
        views = torch.cat([images, images.flip(-1)]) if mirrored else images
        # In float32 the loss came out a thousand times too large where the images outnumbered the
        # embedding's dimensions; in float64 the solution costs little beside the embedding.
        predictor = ridge_predictor(_embed(network, views).double(), self.regularisation)
        folded: Tensor = predictor.unflatten(1, (-1, len(images))).sum(dim=1)
        return folded


def regression_loss(
    predictor: Tensor, labels: Tensor, embeddings: Tensor, target: Tensor, num_classes: int
) -> Tensor:
    """Half of the squared error of the predictions, summed over classes, mean over real images.

    Args:
        predictor: Of `KernelRidge.predictor`, `(d, n)`.
        labels: Of the synthetic images, int64 `(n,)` or probabilities `(n, num_classes)`.
        embeddings: Of real images, `(b, d)`.
        target: Their labels, int64 `(b,)`.
        num_classes: Of all labels.
    """
    predicted = embeddings.double() @ (predictor @ centred_labels(labels, num_classes))
    error = predicted - centred_labels(target, num_classes)
    return 0.5 * error.square().sum(dim=1).mean()


def margin_loss(labels: Tensor) -> Tensor:
    """Minus the lead of each label's first class over its second, where it is below that of chance.

    Keeps learned labels from becoming ambiguous, as published: a lead of 1 / num_classes is enough.

    Args:
        labels: Probabilities, `(n, num_classes)`.
    """
    first, second = labels.topk(2, dim=1).values.unbind(dim=1)
    return -(first - second).clamp_max(1 / labels.shape[1]).mean()


def _embed(network: Network, images: Tensor) -> Tensor:
    return torch.cat([network.embed(part) for part in cache_sized_parts(network, images)])


class _Regression(NetworkObjective):
    """FRePo's outer loop: one step of the images, then one of the network that it met."""

    def __init__(
        self,
        distiller: KernelRidge,
        source: NetworkSource,
        dataset: ImageDataset,
        real: RealImages,
    ) -> None:
        super().__init__(source)
        self._distiller = distiller
        self._real = real
        self._pool = distiller.pool(source, distiller.num_networks)
        self._num_classes = dataset.spec.num_classes
        self._num_done = 0

    def step(self, synthetic: SyntheticImages, seed: int) -> float:
        generator = make_generator(derive_seed(seed, "batches"))
        self._pool.fill(derive_seed(seed, "pool"))
        index = int(torch.randint(len(self._pool), (1,), generator=generator))
        loss = self._loss(synthetic, self._pool.network(index), generator)
        self._set_learning_rate(synthetic)
        synthetic.descend(loss)
        self._pool.train(
            index,
            synthetic.training_images().detach(),
            centred_labels(synthetic.labels.detach(), self._num_classes).float(),
            derive_seed(seed, "online"),
        )
        self._num_done += 1
        return float(loss.detach())

    def _loss(
        self, synthetic: SyntheticImages, network: Network, generator: torch.Generator
    ) -> Tensor:
        real_images, real_labels = self._real.mixed_batch(generator)
        with torch.no_grad():
            embeddings = _embed(network, real_images)
        predictor = self._distiller.predictor(network, synthetic.training_images())
        labels = synthetic.labels
        loss = regression_loss(predictor, labels, embeddings, real_labels, self._num_classes)
        return loss if synthetic.label_logits is None else loss + margin_loss(labels)

    def _set_learning_rate(self, synthetic: SyntheticImages) -> None:
        factor = learning_rate_factor("cosine", self._num_done, self._distiller.num_steps)
        rate = self._distiller.image_learning_rate * (_LAST_RATE + (1 - _LAST_RATE) * factor)
        for group in synthetic.optimiser.param_groups:
            group["lr"] = rate

    def state(self) -> dict[str, Tensor]:
        done = {"num_done": torch.tensor(self._num_done)}
        return {**done, **self._pool.state(), **super().state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._num_done = int(state["num_done"])
        self._pool.restore(state)
        super().restore(state)  # last, for the pool has drawn its networks again


class _LabelSolve(NetworkObjective):
    """Gathers one network's equations in each step and solves what there is so far."""

    def __init__(
        self,
        distiller: KernelRidge,
        source: NetworkSource,
        dataset: ImageDataset,
        real: RealImages,
    ) -> None:
        super().__init__(source)
        self.num_steps = distiller.num_networks
        self._distiller = distiller
        self._dataset = dataset
        self._real = real
        self._equations: LabelEquations | None = None
        self._num_done = 0

    def step(self, synthetic: SyntheticImages, seed: int) -> float:
        logits = required(synthetic.label_logits, "label_logits")
        network = self._trained_network(synthetic, seed)
        equations = self._extended(network, synthetic)
        labels = project_to_simplex(equations.solve(self._distiller.regularisation))
        with torch.no_grad():
            logits.copy_(labels.log())  # of zero too: its exponential is zero again
        self._equations = equations
        self._num_done += 1
        return equations.loss(labels)

    def _trained_network(self, synthetic: SyntheticImages, seed: int) -> Network:
        """A network of this step's age, trained on the images and their classes."""
        pool = self._distiller.pool(self.source, 1)
        pool.fill(derive_seed(seed, "network"))
        images = synthetic.training_images().detach()
        targets = centred_labels(synthetic.classes, synthetic.spec.num_classes).float()
        age = self._distiller.max_online_updates * self._num_done // self._distiller.num_networks
        for update in range(age):
            pool.train(0, images, targets, derive_seed(seed, update))
        return pool.network(0)

    @torch.no_grad()
    def _extended(self, network: Network, synthetic: SyntheticImages) -> LabelEquations:
        """The equations so far and those of one more network."""
        equations = self._equations or LabelEquations(
            len(synthetic.classes), synthetic.spec.num_classes, synthetic.images.device
        )
        predictor = self._distiller.predictor(network, synthetic.training_images())
        labels = self._dataset.labels
        for indices in torch.arange(len(labels), device=labels.device).split(_EMBEDDING_BATCH):
            embeddings = _embed(network, self._real.at(indices))
            equations.add(embeddings.double() @ predictor, labels[indices])
        return equations

    def state(self) -> dict[str, Tensor]:
        kept = {} if self._equations is None else self._equations.state()
        return {"num_done": torch.tensor(self._num_done), **kept, **super().state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        self._num_done = int(state["num_done"])
        if self._num_done > 0:
            self._equations = LabelEquations.restored(state, self._dataset.labels.device)
