"""Gradient matching: synthetic images that push a network as the real ones do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import LearningRateRule
from nas_proxy.data.transforms import normalise
from nas_proxy.distill.common.random_networks import RandomNetworkDistiller
from nas_proxy.distill.common.synthetic import RealImages, SyntheticImages, cache_sized_parts
from nas_proxy.errors import ConfigError
from nas_proxy.networks.base import Network, has_batchnorm
from nas_proxy.options import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from nas_proxy.registry import DISTILLERS
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import recalibrate_norms
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet

Metric = Literal["cosine", "mse", "l1"]

_NORM_IMAGES_PER_CLASS = 16  # of which batch norms take their statistics, as published

# images per class: (outer loop, inner loop), as published
_PUBLISHED_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}


@DISTILLERS.register("gradient_matching")
@dataclass(frozen=True, kw_only=True)
class GradientMatching(RandomNetworkDistiller):
    """DC, and DSA with `augment`: equal gradients along the training of many networks.

    The defaults are DC's; `idc` gives the settings of IDC.

    Networks with batch norm are matched as published: with the statistics of a few real images of
    each class, which stay as they are while gradients are compared.

    Attributes:
        metric: Distance of two gradients: `cosine`, one minus the cosine for each output row;
            `mse`, the sum of squared differences; `l1`, that of absolute ones.
        match_classifier: Whether the weights of the last layer are matched too.
        synthetic_batch_size: Synthetic images of each class in an update, drawn at random; None
            takes all.
        clip_pixels: Bring pixels back into the range of real ones before each network.
        outer_loop: Updates of the images per network. None: as published for the number of images
            per class, or that number itself where nothing is published.
        network_trains_on: What the network trains on after each update.
        inner_loop: Epochs of that training on `synthetic` images. None: as published, or 500
            divided by the images per class.
        real_steps: Steps of that training on `real` images.
        network_batch_size: Of that training, and of the training on the finished images.
        network_learning_rate: Of that training: gradient descent at a constant rate.
        network_momentum: Of that training; lasts from update to update on `real` images.
        network_weight_decay: Of that training.
        network_augmentation: What networks get that train, then and on the finished images; None:
            the families of `augment`.
    """

    family = "parameter matching, one step"
    typical_cost = "hours on a GPU; about 15 s per update of the images on one CPU core"
    summary = "matches gradients along training (DC; DSA with augment; IDC)"
    paper = (
        "Zhao, Mopuri and Bilen, Dataset Condensation with Gradient Matching, ICLR 2021; "
        "Zhao and Bilen, Differentiable Siamese Augmentation, ICML 2021; "
        "Kim et al., Efficient Synthetic-Data Parameterization, ICML 2022"
    )

    differentiates_twice = True

    num_steps: PositiveInt = 1000
    image_learning_rate: PositiveFloat = 0.1
    init: Literal["real", "noise"] = "noise"
    metric: Metric = "cosine"
    match_classifier: bool = True
    synthetic_batch_size: PositiveInt | None = None
    clip_pixels: bool = False
    outer_loop: PositiveInt | None = None
    network_trains_on: Literal["synthetic", "real"] = "synthetic"
    inner_loop: PositiveInt | None = None
    real_steps: PositiveInt = 32
    network_batch_size: PositiveInt = 256
    network_learning_rate: PositiveFloat = 0.01
    network_momentum: Fraction = 0.0
    network_weight_decay: NonNegativeFloat = 0.0
    network_augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        """Refuse what is not defined for whitened images."""
        super().__post_init__()
        if self.zca is not None and (self.clip_pixels or self.network_trains_on == "real"):
            option = "clip_pixels" if self.clip_pixels else "network_trains_on: real"
            raise ConfigError(f"{option} does not go with zca; leave one of them out")

    @classmethod
    def idc(cls, images_per_class: int) -> GradientMatching:
        """IDC on CIFAR-10, as its authors' code sets it up (67.5 % at 10 images per class).

        Their learning rate, 0.005 for 10 images per class and in proportion to their number, is
        for pixels in [0, 1]; ours is for normalised ones, whose deviation was about a quarter.
        Theirs leaves half of the training batches without CutMix, ours none, and their evaluation
        also scales and rotates. ImageNet takes `decode_factor: 3` and `metric: l1`.
        """
        return cls(
            num_steps=2000,
            image_learning_rate=0.08 * images_per_class / 10,
            init="real",
            decode_factor=2,
            augment="color_crop_cutout",
            augment_jointly=True,
            real_batch_size=64,
            metric="mse",
            match_classifier=False,
            synthetic_batch_size=128,
            clip_pixels=True,
            outer_loop=100,
            network_trains_on="real",
            real_steps=32,
            network_batch_size=64,
            network_momentum=0.9,
            network_weight_decay=5e-4,
            network_augmentation=Augmentation(crop=0.125, flip=True, dsa="color", cutmix=1.0),
        )

    def loops(self, images_per_class: int) -> tuple[int, int]:
        """The outer and the inner loop in force."""
        otherwise = (images_per_class, max(1, 500 // images_per_class))
        outer, inner = _PUBLISHED_LOOPS.get(images_per_class, otherwise)
        return self.outer_loop or outer, self.inner_loop or inner

    def training_augmentation(self) -> Augmentation:
        """What the networks of the distillation trained with."""
        return self.network_augmentation or super().training_augmentation()

    def learning_rate_rule(self, synthetic: SyntheticImages) -> LearningRateRule:
        """The field's rule, in batches of `network_batch_size`."""
        return replace(super().learning_rate_rule(synthetic), batch_size=self.network_batch_size)

    def iterate(
        self, synthetic: SyntheticImages, real: RealImages, network: Network, seed: int
    ) -> float:
        """Follow one network through its training and match its gradients on the way."""
        outer, inner = self.loops(synthetic.images_per_class)
        generator = make_generator(derive_seed(seed, "batches"))
        losses: list[float] = []

        def update() -> None:
            update_seed = derive_seed(seed, len(losses))
            if has_batchnorm(network):
                self._settle_norms(network, real, generator)
            loss = self._matching_loss(synthetic, real, network, generator, seed=update_seed)
            synthetic.descend(loss)
            losses.append(float(loss.detach()))

        if self.clip_pixels:
            _clip(synthetic)
        update()
        if self.network_trains_on == "real":
            self._train_on_real(network, real, seed, num_updates=outer - 1, update=update)
        else:
            for number in range(outer - 1):
                self._train_on_synthetic(network, synthetic, derive_seed(seed, number), inner)
                update()
        return sum(losses) / len(losses)

    def _settle_norms(self, network: Network, real: RealImages, generator: torch.Generator) -> None:
        """Evaluation mode, with the statistics of real images of all classes."""
        spec = real.dataset.spec
        images = [
            real.batch(c, generator)[:_NORM_IMAGES_PER_CLASS] for c in range(spec.num_classes)
        ]
        sizes = torch.tensor([*map(len, images)], device=images[0].device)
        labels = torch.arange(spec.num_classes, device=sizes.device).repeat_interleave(sizes)
        shown = TrainingSet(torch.cat(images), labels, spec)
        draw = make_generator(0, sizes.device)  # all are shown, where there are 512 or fewer
        recalibrate_norms(network, shown, self._training(num_steps=1), draw)
        network.eval()

    def _train_on_real(
        self,
        network: Network,
        real: RealImages,
        seed: int,
        *,
        num_updates: int,
        update: Callable[[], None],
    ) -> None:
        """One training, so that its momentum lasts, with updates of the images on the way."""

        def now_and_then(step: int, indices: Tensor, logits: Tensor) -> None:
            if step % self.real_steps == 0:
                update()

        if num_updates > 0:
            settings = self._training(num_steps=self.real_steps * num_updates)
            generator = make_generator(derive_seed(seed, "training"), real.dataset.images.device)
            train(network, TrainingSet.of(real.dataset), settings, generator, now_and_then)

    def _train_on_synthetic(
        self, network: Network, synthetic: SyntheticImages, seed: int, num_epochs: int
    ) -> None:
        images = synthetic.training_images().detach()
        training_set = TrainingSet(images, synthetic.classes, synthetic.spec)
        generator = make_generator(derive_seed(seed, "training"), images.device)
        train(network, training_set, self._training(num_epochs=num_epochs), generator)

    def _matching_loss(
        self,
        synthetic: SyntheticImages,
        real: RealImages,
        network: Network,
        generator: torch.Generator,
        *,
        seed: int,
    ) -> Tensor:
        weights = list(network.parameters())
        if not self.match_classifier:
            last = [id(weight) for weight in network.classifier.parameters()]
            weights = [weight for weight in weights if id(weight) not in last]
        total = torch.zeros((), device=synthetic.images.device)
        for label in range(synthetic.spec.num_classes):
            real_images = real.batch(label, generator)
            synthetic_images = synthetic.of_class(label)
            if self.synthetic_batch_size is not None:
                order = torch.randperm(len(synthetic_images), generator=generator)
                chosen = order[: self.synthetic_batch_size].to(synthetic_images.device)
                synthetic_images = synthetic_images[chosen]
            real_images, synthetic_images = self.augmented_pair(
                real_images, synthetic_images, derive_seed(seed, "augmentation", label)
            )
            target = _real_gradients(network, real_images, label, weights)
            loss = _loss(network, synthetic_images, label)
            gradients = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
            total = total + gradient_distance(gradients, target, self.metric)
        return total

    def _training(
        self, *, num_steps: int | None = None, num_epochs: int | None = None
    ) -> TrainSettings:
        return TrainSettings(
            num_steps=num_steps,
            num_epochs=num_epochs,
            batch_size=self.network_batch_size,
            learning_rate=self.network_learning_rate,
            schedule="constant",
            momentum=self.network_momentum,
            nesterov=False,
            weight_decay=self.network_weight_decay,
            augmentation=self.training_augmentation(),
            precision="float32",
        )


def gradient_distance(
    gradients: Sequence[Tensor | None], target: Sequence[Tensor | None], metric: Metric = "cosine"
) -> Tensor:
    """How far two gradients are apart, summed over the weight tensors of a network.

    Args:
        gradients: One tensor for each parameter of a network; None for one that it does not use.
        target: The same, matched.
        metric: `cosine` is one minus the cosine, summed over output rows (DC, equation 10); `mse`
            and `l1` are sums over all weights (IDC).

    Returns:
        A scalar. Vectors (biases and norms' parameters) do not count, as in the published code.
    """
    used = [goal for goal in target if goal is not None]
    distance = torch.zeros((), device=used[0].device)
    for gradient, goal in zip(gradients, target, strict=True):
        if gradient is not None and goal is not None and goal.ndim > 1:
            distance = distance + _distance(gradient.flatten(1), goal.flatten(1), metric)
    return distance


def _distance(rows: Tensor, goal_rows: Tensor, metric: Metric) -> Tensor:
    if metric == "mse":
        return (rows - goal_rows).square().sum()
    if metric == "l1":
        return (rows - goal_rows).abs().sum()
    norms = rows.norm(dim=1) * goal_rows.norm(dim=1)
    cosines: Tensor = (rows * goal_rows).sum(dim=1) / (norms + 1e-6)
    return (1 - cosines).sum()


def _real_gradients(
    network: Network, images: Tensor, label: int, weights: Sequence[Tensor]
) -> list[Tensor | None]:
    total: list[Tensor | None] = []
    for part in cache_sized_parts(network, images):
        loss = _loss(network, part, label) * (len(part) / len(images))
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        pairs = zip(total or [None] * len(weights), gradients, strict=True)
        total = [b if a is None or b is None else a + b for a, b in pairs]
    return total


def _loss(network: Network, images: Tensor, label: int) -> Tensor:
    labels = torch.full((len(images),), label, device=images.device)
    return F.cross_entropy(network(images), labels)


def _clip(synthetic: SyntheticImages) -> None:
    """To the range of real images; what the optimiser remembers is left as it is."""
    ends = torch.tensor([0, 255], dtype=torch.uint8, device=synthetic.images.device)
    darkest, brightest = normalise(ends.view(2, 1, 1, 1), synthetic.spec)
    with torch.no_grad():
        synthetic.images.clamp_(min=darkest, max=brightest)
