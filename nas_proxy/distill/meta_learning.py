"""Meta-learning: images on which a training, looked through from its end, teaches the most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_proxy.data.augment import siamese_augment
from nas_proxy.data.proxy_dataset import LearningRateRule
from nas_proxy.distill.common.inner_training import (
    InnerOptimiser,
    InnerTraining,
    flatten_parameters,
    forward,
    initial_adam_state,
)
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
from nas_proxy.distill.common.synthetic import RealImages, SyntheticImages
from nas_proxy.errors import ConfigError, DivergedError, required
from nas_proxy.interfaces import DistillContext
from nas_proxy.options import PositiveFloat, PositiveInt
from nas_proxy.registry import DISTILLERS
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.types import DatasetSpec, ImageDataset

_NORM_DECAY = 0.9  # of the running mean of the gradient's norm, as published
_LEAST_RATE = 0.01  # a learned learning rate stays above this share of its first value


@DISTILLERS.register("meta_learning")
@dataclass(frozen=True, kw_only=True)
class MetaLearning(DrawingDistiller):
    """Back-propagation through training, truncated to a window at a random place (RaT-BPTT).

    In each step a fresh network trains on the images; the loss on real images of where it stops is
    differentiated through its last `window` steps. It stops after `window` to `unroll` steps,
    uniformly at random. Wang et al. (2018) is `window` equal to `unroll`, a short one, with `sgd`
    and `learn_inner_learning_rate`.

    The defaults are those of the authors' command for CIFAR-10 with 10 images per class: window,
    unroll, Adam inside and outside, batches, whitening, clipping, noise of norm one to start from,
    augmentation by flip and rotation. Our choices are: `num_steps`, where they allow ten times as
    many and keep what tests best; a new window in every step, where theirs stays for ten; labels,
    where they are learned, as probabilities; the networks, which are those of all other methods.

    Attributes:
        unroll: Steps of the longest inner training.
        window: Its last steps, through which is differentiated.
        inner_optimiser: `adam`, or `sgd` without momentum.
        inner_learning_rate: Its learning rate; the one to start from where it is learned.
        learn_inner_learning_rate: Whether it is learned; the set's learning-rate rule has it then.
        learning_rate_learning_rate: With which that is learned.
        num_initialisations: Inner trainings whose gradients are averaged in each step.
        batch_per_class: Images of each class in a step of the inner training; None: all of them.
        gradient: How the gradient is computed: `unrolled` keeps the graph of the whole window;
            `recomputed` gives the same to rounding with the graph of one step at a time, in memory
            that hardly grows with the window.
        clip: A gradient of the images longer than this many times the running mean of its length
            is shortened to it.
    """

    family = "performance matching (meta-learning)"
    typical_cost = "days on a GPU; minutes per iteration on one CPU core"
    summary = "back-propagates through training, in windows at random places (RaT-BPTT)"
    paper = (
        "Wang et al., Dataset Distillation, 2018; Feng, Vedantam and Kempe, Embarrassingly Simple "
        "Dataset Distillation, ICLR 2024"
    )

    differentiates_twice = True

    num_steps: PositiveInt = 60_000
    image_optimiser: ImageOptimiser = "adam"
    image_learning_rate: PositiveFloat = 0.001
    init: Literal["real", "noise"] = "noise"
    augment: str = "flip_rotate"
    real_batch_size: PositiveInt = 5000
    zca: PositiveFloat | None = 0.1
    unroll: PositiveInt = 200
    window: PositiveInt = 60
    inner_optimiser: InnerOptimiser = "adam"
    inner_learning_rate: PositiveFloat = 0.001
    learn_inner_learning_rate: bool = False
    learning_rate_learning_rate: PositiveFloat = 1e-5
    num_initialisations: PositiveInt = 1
    batch_per_class: PositiveInt | None = None
    gradient: Literal["unrolled", "recomputed"] = "recomputed"
    clip: PositiveFloat = 2.0

    def __post_init__(self) -> None:
        """Refuse a window that is longer than the training."""
        super().__post_init__()
        if self.window > self.unroll:
            raise ConfigError(
                f"window ({self.window}) is the last part of unroll ({self.unroll}) steps; lower "
                "window, or raise unroll"
            )

    def initialise(
        self, dataset: ImageDataset, images_per_class: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Real images, or noise where each image has norm one, as published."""
        images, labels = super().initialise(dataset, images_per_class, generator)
        if self.init == "noise":
            images = F.normalize(images.flatten(1), dim=1).view_as(images)
        return images, labels

    def objective(
        self, dataset: ImageDataset, real: RealImages, context: DistillContext
    ) -> Objective:
        """The loss at the end of training, differentiated through its last steps."""
        return _EndOfTraining(self, self.network_source(dataset, context), dataset, real)

    def synthetic_images(
        self, images: Tensor, images_per_class: int, spec: DatasetSpec, context: DistillContext
    ) -> SyntheticImages:
        """The images, and what is to be learned with them: labels, the inner learning rate."""
        synthetic = super().synthetic_images(images, images_per_class, spec, context)
        groups: list[dict[str, object]] = [{"params": [synthetic.images]}]
        logits = rate = None
        if context.labels == "learned":
            logits = initial_label_logits(synthetic.classes, spec.num_classes)
            groups.append({"params": [logits]})
        if self.learn_inner_learning_rate:
            rate = torch.tensor(self.inner_learning_rate, device=images.device, requires_grad=True)
            groups.append({"params": [rate], "lr": self.learning_rate_learning_rate})
        return replace(
            synthetic, label_logits=logits, learning_rate=rate, optimiser=self.optimiser(groups)
        )

    def learning_rate_rule(self, synthetic: SyntheticImages) -> LearningRateRule:
        """The inner training, for the 1000 passes at which the authors' evaluation looks too."""
        rate = synthetic.learning_rate
        per_class = self.batch_per_class or synthetic.images_per_class * self.decode_factor**2
        return LearningRateRule(
            optimiser=self.inner_optimiser,
            learning_rate=self.inner_learning_rate if rate is None else float(rate.detach()),
            momentum=0.0,
            weight_decay=0.0,
            batch_size=per_class * synthetic.spec.num_classes,
            schedule="constant",
            num_epochs=1000,
        )


class _EndOfTraining(NetworkObjective):
    def __init__(
        self,
        distiller: MetaLearning,
        source: NetworkSource,
        dataset: ImageDataset,
        real: RealImages,
    ) -> None:
        super().__init__(source)
        self._distiller = distiller
        self._dataset = dataset
        self._real = real
        self._mean_norm: Tensor | None = None

    def step(self, synthetic: SyntheticImages, seed: int) -> float:
        number = self._distiller.num_initialisations
        synthetic.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for index in range(number):
            loss, gradients = self._looked_through(synthetic, derive_seed(seed, index))
            total += float(loss) / number
            for learned, gradient in zip(synthetic.parameters, gradients, strict=True):
                part = gradient / number
                learned.grad = part if learned.grad is None else learned.grad + part
        if not total < float("inf"):
            raise DivergedError("the loss at the end of the inner training is not finite")
        mean_norm = self._clip(synthetic.images)
        synthetic.step()
        self._mean_norm = mean_norm
        if synthetic.learning_rate is not None:
            with torch.no_grad():
                least = _LEAST_RATE * self._distiller.inner_learning_rate
                synthetic.learning_rate.clamp_min_(least)
        return total

    def _looked_through(self, synthetic: SyntheticImages, seed: int) -> tuple[Tensor, list[Tensor]]:
        """The loss after one inner training, and its gradient for everything that is learned."""
        distiller = self._distiller
        network = self.source.draw(derive_seed(seed, "network"))
        generator = make_generator(derive_seed(seed, "batches"))
        weights = flatten_parameters(network.requires_grad_(False))
        rate = torch.tensor(distiller.inner_learning_rate, device=weights.device)
        latest = distiller.unroll - distiller.window  # step at which the window may open
        before = InnerTraining(
            network=network,
            start=weights if distiller.inner_optimiser == "sgd" else initial_adam_state(weights),
            learning_rate=rate if synthetic.learning_rate is None else synthetic.learning_rate,
            num_steps=int(torch.randint(latest + 1, (1,), generator=generator)),
            batch=lambda step: self._batch(synthetic, derive_seed(seed, "step", step)),
            inputs=synthetic.parameters,
            optimiser=distiller.inner_optimiser,
        )
        window = replace(
            before,
            start=before.end(),
            first_step=before.num_steps,
            num_steps=distiller.window,
        )
        real_images, real_labels = self._real.mixed_batch(generator)
        real_images = self._augmented(real_images, derive_seed(seed, "real"))

        def loss_of(parameters: Tensor) -> Tensor:
            return F.cross_entropy(forward(network, parameters, real_images), real_labels)

        if distiller.gradient == "recomputed":
            return window.recomputed(loss_of)
        return window.unrolled(loss_of)

    def _batch(self, synthetic: SyntheticImages, seed: int) -> tuple[Tensor, Tensor]:
        """What one inner step trains on; the same seed gives the same."""
        images, labels = synthetic.training_images(), synthetic.labels
        per_class = self._distiller.batch_per_class
        if per_class is not None:
            generator = make_generator(derive_seed(seed, "images"))
            num_classes = synthetic.spec.num_classes
            order = torch.rand(num_classes, len(images) // num_classes, generator=generator)
            within = order.argsort(dim=1)[:, :per_class]
            first = torch.arange(num_classes)[:, None] * order.shape[1]
            chosen = (first + within).flatten().to(images.device)
            images, labels = images[chosen], labels[chosen]
        return self._augmented(images, derive_seed(seed, "augmentation")), labels

    def _augmented(self, images: Tensor, seed: int) -> Tensor:
        generator = make_generator(seed, images.device)
        return siamese_augment(images, self._distiller.augment, generator, shared=False)

    def _clip(self, images: Tensor) -> Tensor:
        """Shorten the gradient of the images if it is unusually long; returns the new mean norm."""
        norm = required(images.grad, "the gradient of the images").norm()
        mean = norm if self._mean_norm is None else torch.lerp(norm, self._mean_norm, _NORM_DECAY)
        torch.nn.utils.clip_grad_norm_([images], max_norm=float(self._distiller.clip * mean))
        return mean

    def state(self) -> dict[str, Tensor]:
        kept = {} if self._mean_norm is None else {"mean_norm": self._mean_norm}
        return {**kept, **super().state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        if "mean_norm" in state:
            self._mean_norm = state["mean_norm"].to(self._dataset.images.device)
