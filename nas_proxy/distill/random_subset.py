"""Real images drawn at random: what every distilled set must beat."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.environment import hardware, versions
from nas_proxy.interfaces import DistillContext, Distiller
from nas_proxy.registry import DISTILLERS
from nas_proxy.types import ImageDataset


@DISTILLERS.register("random_subset")
@dataclass(frozen=True, kw_only=True)
class RandomSubset(Distiller):
    """The same number of random images of each class, with their own labels.

    Attributes:
        augmentation: What the set asks for when a network trains on it.
    """

    summary = "random real images of each class; the control"

    augmentation: Augmentation = Augmentation()

    def distill(
        self,
        dataset: ImageDataset,
        images_per_class: int,
        *,
        generator: torch.Generator,
        context: DistillContext,
    ) -> ProxyDataset:
        """Draw the images; see `Distiller.distill`. Needs no checkpoint: it takes no time."""
        images, labels = self.initialise(dataset, images_per_class, generator)
        context.progress(1, 1)
        return ProxyDataset(
            images=images,
            labels=labels,
            spec=dataset.spec,
            method=self.name,
            parameters=asdict(self),
            images_per_class=images_per_class,
            seed=generator.initial_seed(),
            augmentation=self.augmentation,
            hardware=hardware(context.device),
            versions=versions(),
        )
