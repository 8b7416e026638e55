"""Images and labels to train on, real or distilled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.transforms import standardise, statistics_on
from nas_proxy.types import DatasetSpec, ImageDataset


class Labeller(Protocol):
    """Labels augmented images while a network trains on them."""

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised `(n, c, h, w)` to probabilities `(n, num_classes)`."""


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Images and labels to train on, real or distilled.

    Attributes:
        images: uint8 and not normalised, or float32 and normalised, `(n, c, h, w)`.
        labels: int64 `(n,)`, or float32 `(n, num_classes)`.
        spec: Their data set.
        augmentation: What they get when the settings do not say.
        temperature: Logits are divided by it before they meet `labels`, and the loss is multiplied
            by its square, which keeps the size of the gradient (Hinton et al. 2015).
        labeller: From augmented images to probabilities, which replace `labels`; None keeps them.
        order: Positions of what one pass goes through, where some images come more often than
            others, int64 `(m,)`; None: each once.
        views: Copies of each image in a batch, each augmented by its own draw: first all images
            once, then all of them again. More than one is for contrastive learning.
    """

    images: Tensor
    labels: Tensor
    spec: DatasetSpec
    augmentation: Augmentation = Augmentation()
    temperature: float = 1.0
    labeller: Labeller | None = None
    order: Tensor | None = None
    views: int = 1

    @classmethod
    def of(
        cls, dataset: ImageDataset | ProxyDataset, labeller: Labeller | None = None
    ) -> TrainingSet:
        """The images and labels of a real or a proxy data set."""
        if isinstance(dataset, ProxyDataset):
            return cls(
                dataset.training_images(),
                dataset.labels,
                dataset.spec,
                dataset.augmentation,
                dataset.labelling.temperature,
                labeller,
            )
        return cls(dataset.images, dataset.labels, dataset.spec)

    def __len__(self) -> int:
        return len(self.labels if self.order is None else self.order)

    @property
    def has_hard_labels(self) -> bool:
        """Whether each image is of one class, before anything is mixed."""
        return self.labels.ndim == 1 and self.labeller is None

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images and labels at `indices` of a pass."""
        if self.order is not None:
            indices = self.order[indices]
        images = self.images[indices]
        if images.dtype == torch.uint8:
            images = standardise(images, *self._statistics)
        return images, self.labels[indices]

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        """On the device of the images, so that a batch asks the CPU for nothing."""
        return statistics_on(self.images.device, self.spec)


def as_probabilities(labels: Tensor, spec: DatasetSpec) -> Tensor:
    """Hard labels `(n,)` or soft ones as float32 `(n, num_classes)`."""
    return labels if labels.ndim == 2 else F.one_hot(labels, spec.num_classes).float()
