"""Images that are finished part after part, and survive a kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.transforms import chunk_length, normalise
from nas_proxy.interfaces import Distiller, DistillTask
from nas_proxy.reproducibility import content_hash
from nas_proxy.teachers.teacher import Teacher
from nas_proxy.types import DatasetSpec

_IMAGES = "finished.images"


class FinishedImages:
    """The images of a distillation that works in parts, which need nothing of each other.

    They have 8 bits per value, as the published ones, which are files: a quarter of the memory,
    and of the checkpoint.

    Args:
        shape: Of all images, `(n, c, h, w)`.
        checkpointer: Where they are kept; what it holds is taken up again.

    Attributes:
        num_parts: Parts that are finished.
        unfinished: What the checkpoint holds of the part after them, by name.
    """

    def __init__(self, shape: tuple[int, ...], checkpointer: Checkpointer) -> None:
        self._images = torch.empty(shape, dtype=torch.uint8)
        self._num_images = 0
        self._checkpointer = checkpointer
        self.num_parts = 0
        self.unfinished: dict[str, Tensor] = {}
        found = checkpointer.load()
        if found is not None:
            self.num_parts = found.step
            self.unfinished = dict(found.tensors)
            self._append(self.unfinished.pop(_IMAGES))

    def add(self, images: Tensor) -> None:
        """Append the images of the next part, uint8 `(k, c, h, w)`, and save if it is time to."""
        self._append(images)
        self.num_parts += 1
        self.unfinished = {}
        self.save_if_due({})

    def save_if_due(self, unfinished: Mapping[str, Tensor]) -> None:
        """Save, together with the state of the part after the finished ones, if it is time to.

        Raises:
            OSError: If the disk is full or the folder cannot be written.
        """
        self._checkpointer.save_if_due(self.num_parts, self._state(unfinished))

    def save(self, unfinished: Mapping[str, Tensor]) -> None:
        """The same now."""
        self._checkpointer.save(self.num_parts, self._state(unfinished))

    def all(self) -> Tensor:
        """The images in the order in which they were added, uint8; the checkpoint is removed."""
        if self._num_images != len(self._images):
            raise RuntimeError(f"{self._num_images} of {len(self._images)} images are finished")
        self._checkpointer.remove()
        return self._images

    def _append(self, images: Tensor) -> None:
        self._images[self._num_images : self._num_images + len(images)] = images
        self._num_images += len(images)

    def _state(self, unfinished: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {_IMAGES: self._images[: self._num_images], **unfinished}


def as_normalised(images: Tensor, spec: DatasetSpec, device: torch.device) -> Tensor:
    """`normalise` without further copies of all images: these may be gigabytes.

    Args:
        images: uint8 `(n, c, h, w)`, on any device.
        spec: Whose mean and deviation are taken.
        device: Of the result.
    """
    normalised = torch.empty(images.shape, device=device)
    length = chunk_length(images)
    for part, target in zip(images.split(length), normalised.split(length), strict=True):
        target.copy_(normalise(part.to(device), spec))
    return normalised


def finished_images(
    distiller: Distiller, task: DistillTask, teachers: Sequence[Teacher]
) -> FinishedImages:
    """What is finished of a distillation with these networks; see `Distiller.distill`.

    Raises:
        StudyError: If the checkpoint is damaged or belongs to another distillation.
    """
    spec = task.dataset.spec
    key = content_hash(
        distiller.name, asdict(distiller), spec.source_hash, task.images_per_class,
        task.generator.initial_seed(), [teacher.id for teacher in teachers],
    )  # fmt: skip
    shape = (spec.num_classes * task.images_per_class, *spec.image_shape)
    return FinishedImages(shape, Checkpointer(task.context.checkpoint, key))
