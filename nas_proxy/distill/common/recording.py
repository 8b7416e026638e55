"""From images and labels to a proxy data set that says what made it and what that cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from torch import Tensor

from nas_proxy.core.environment import PeakMemory, hardware, versions
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.interfaces import Distiller, DistillTask
from nas_proxy.teachers.teacher import Teacher


class Recording:
    """One distillation: the clock runs from here on.

    Make it after the teachers have been obtained: their cost is counted by itself.

    Args:
        distiller: What makes the set.
        task: What it is made of; the set records the seed of its generator.
    """

    def __init__(self, distiller: Distiller, task: DistillTask) -> None:
        self._distiller = distiller
        self._task = task
        self._memory = PeakMemory(task.context.device)
        self._started = time.perf_counter()
        self.earlier_seconds = 0.0

    @property
    def seconds(self) -> float:
        """Wall-clock seconds so far; with `earlier_seconds` of a run that was killed."""
        return self.earlier_seconds + time.perf_counter() - self._started

    def proxy_dataset(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        augmentation: Augmentation,
        networks: Sequence[Teacher] = (),
        costs: Mapping[str, float] | None = None,
    ) -> ProxyDataset:
        """The finished set; whatever else it must say is added with `dataclasses.replace`.

        Args:
            images: Normalised float32.
            labels: One for each training image.
            augmentation: What to apply when training on the images.
            networks: Trained networks that had a part in it.
            costs: Seconds of further preparations, by what they were spent on.
        """
        return ProxyDataset(
            images=images.detach(),
            labels=labels.detach(),
            spec=self._task.dataset.spec,
            method=self._distiller.name,
            parameters=asdict(self._distiller),
            images_per_class=self._task.images_per_class,
            seed=self._task.generator.initial_seed(),
            augmentation=augmentation,
            networks=tuple(network.record() for network in networks),
            costs={
                "distilling": self.seconds,
                **{network.cost_name: network.train_seconds for network in networks},
                **(costs or {}),
            },
            peak_memory_mib=self._memory.mib,
            hardware=hardware(self._task.context.device),
            versions=versions(),
        )
