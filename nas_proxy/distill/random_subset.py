"""Real images drawn at random: what every distilled set must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from nas_proxy.core.costs import CostMeter
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.splits import draw_per_class
from nas_proxy.distill.common.coreset import CoresetDistiller
from nas_proxy.distill.measured import distill_and_label
from nas_proxy.interfaces import DistillContext, DistillTask
from nas_proxy.registry import DISTILLERS
from nas_proxy.reproducibility import make_generator
from nas_proxy.teachers.settings import LabelSettings
from nas_proxy.teachers.teacher import Teacher
from nas_proxy.types import ImageDataset


@DISTILLERS.register("random_subset")
@dataclass(frozen=True, kw_only=True)
class RandomSubset(CoresetDistiller):
    """The same number of random images of each class, with their own labels."""

    typical_cost = "seconds"
    summary = "random real images of each class; the control"

    def select(self, task: DistillTask, teachers: Sequence[Teacher]) -> Tensor:
        """Draw the images; with the same seed, those that other methods start from."""
        indices = draw_per_class(task.dataset, task.images_per_class, task.generator)
        task.context.progress(1, 1)
        return indices


def random_control(
    proxy_dataset: ProxyDataset,
    labels: LabelSettings,
    dataset: ImageDataset,
    *,
    seed: int,
    context: DistillContext,
) -> ProxyDataset:
    """What a proxy data set must beat: as many random images with the same labels.

    Args:
        proxy_dataset: To be compared with: as many stored images, the same augmentation.
        labels: What labels it was given.
        dataset: The search-training images.
        seed: Decides which images.
        context: Where the teachers are.
    """
    task = DistillTask(
        dataset=dataset,
        images_per_class=proxy_dataset.images_per_class,
        generator=make_generator(seed),
        context=replace(context, costs=CostMeter()),
    )
    subset = RandomSubset(augmentation=proxy_dataset.augmentation)
    return distill_and_label(subset, task, labels)
