"""From images and labels to a proxy data set that says what made it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from torch import Tensor

from nas_proxy.core.costs import Timed
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.interfaces import DistillContext, Distiller, DistillTask
from nas_proxy.processes import Item, Items, Result, map_in_processes
from nas_proxy.teachers.teacher import Teacher


def recorded(
    distiller: Distiller,
    task: DistillTask,
    images: Tensor,
    labels: Tensor,
    *,
    augmentation: Augmentation,
    networks: Sequence[Teacher] = (),
) -> ProxyDataset:
    """The finished set; whatever else it must say is added with `dataclasses.replace`.

    Args:
        distiller: What made it, and with which options.
        task: What it was made of; the set records the seed of its generator.
        images: Normalised float32.
        labels: One for each training image.
        augmentation: What to apply when training on the images.
        networks: Trained networks that had a part in it.
    """
    return ProxyDataset(
        images=images.detach(),
        labels=labels.detach(),
        spec=task.dataset.spec,
        method=distiller.name,
        parameters=asdict(distiller),
        images_per_class=task.images_per_class,
        seed=task.generator.initial_seed(),
        augmentation=augmentation,
        networks=tuple(network.record() for network in networks),
    )


def map_in_workers(
    function: Callable[[Item], Result], items: Items[Item], context: DistillContext
) -> Iterator[Result]:
    """`map_in_processes` with the context's workers, whose seconds count as if one did it all."""
    if min(context.num_workers, len(items)) <= 1:
        return map_in_processes(function, items, 1)
    results = map_in_processes(
        Timed(function), items, context.num_workers, open_pool=context.open_pool
    )
    return context.costs.of_workers(results)
