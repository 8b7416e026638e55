"""What all methods share that choose real images instead of making new ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.splits import members_of_classes
from nas_proxy.data.transforms import normalise
from nas_proxy.distill.common.recording import recorded
from nas_proxy.interfaces import Distiller, DistillTask
from nas_proxy.teachers.teacher import Teacher, over_dataset
from nas_proxy.teachers.training import obtain_teachers
from nas_proxy.train.teacher_settings import DEFAULT_TEACHER, TeacherOption, TeacherSettings


@dataclass(frozen=True, kw_only=True)
class CoresetDistiller(Distiller):
    """A distiller whose result is some of the real images, with their own labels.

    Attributes:
        augmentation: What the set asks for when a network trains on it.
    """

    family = "coreset"

    augmentation: Augmentation = Augmentation()

    @abstractmethod
    def select(self, task: DistillTask, teachers: Sequence[Teacher]) -> Tensor:
        """Choose images.

        Args:
            task: Where to choose from, and how many of each class; each has at least as many.
            teachers: The trained networks that the property `teachers` names, in its order.

        Returns:
            Different indices, int64 `(num_classes * images_per_class,)`, class by class.
        """

    def distill(self, task: DistillTask) -> ProxyDataset:
        """Choose the images; see `Distiller.distill`.

        Keeps no checkpoint: choosing is short, and teachers are in the context's cache.
        """
        dataset = task.dataset
        members_of_classes(dataset, task.images_per_class)  # refuses before a teacher is trained
        teachers = obtain_teachers(self.teachers, dataset, task.context)
        indices = self.select(task, teachers).to(dataset.images.device)
        return recorded(
            self,
            task,
            normalise(dataset.images[indices], dataset.spec),
            dataset.labels[indices],
            augmentation=self.augmentation,
            networks=teachers,
        )


@dataclass(frozen=True, kw_only=True)
class EmbeddingCoreset(CoresetDistiller):
    """A coreset that looks at each class in the embedding of a trained network.

    Attributes:
        network: Whose embedding; a name, a file, or a section.
    """

    typical_cost = "a training of 20 epochs: minutes on a GPU, an hour on one CPU core"

    network: TeacherOption = DEFAULT_TEACHER

    @property
    def teachers(self) -> tuple[TeacherSettings, ...]:
        """The network that embeds."""
        return (self.network,)

    @abstractmethod
    def select_in_class(
        self, embeddings: Tensor, num_images: int, generator: torch.Generator
    ) -> Tensor:
        """Choose images of one class.

        Args:
            embeddings: Of all its images, `(n, d)`.
            num_images: How many to choose, at most n.
            generator: On the CPU; the only source of randomness.

        Returns:
            Different positions in `embeddings`, int64 `(num_images,)`.
        """

    def select(self, task: DistillTask, teachers: Sequence[Teacher]) -> Tensor:
        """Choose class after class; the embeddings of one class at a time are in memory."""
        (teacher,) = teachers
        dataset = task.dataset
        chosen = []
        for members in members_of_classes(dataset, task.images_per_class):
            images = dataset.subset(members.to(dataset.images.device))
            embeddings = over_dataset(teacher.embed, images)
            positions = self.select_in_class(embeddings, task.images_per_class, task.generator)
            chosen.append(members[positions.cpu()])
            task.context.progress(len(chosen), dataset.spec.num_classes, "classes")
        return torch.cat(chosen)
