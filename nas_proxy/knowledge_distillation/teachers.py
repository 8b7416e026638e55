"""Who teaches a student: trained networks, and the student's own earlier generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from nas_proxy.errors import DataError
from nas_proxy.train.measuring import forward
from nas_proxy.train.settings import TrainSettings


class TeacherNetwork(Protocol):
    """One trained network, in evaluation mode and frozen; `teachers.teacher.Teacher` is one."""

    @property
    def network(self) -> nn.Module:
        """Maps what `as_trained` gives to logits."""

    @property
    def description(self) -> str:
        """What it is, in words."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """What its logits stand for, in order."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Of the images that the network is given."""

    def as_trained(self, images: Tensor) -> Tensor:
        """The student's images as those that it was trained on: size and normalisation."""


@dataclass(frozen=True, eq=False)
class Generation:
    """An earlier generation of the student.

    Attributes:
        network: Trained, in evaluation mode and frozen.
        class_names: Of its logits.
        input_shape: Of its images, which are the student's.
    """

    network: nn.Module
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]

    @property
    def description(self) -> str:
        """What it is, in words."""
        return "the earlier generation"

    def as_trained(self, images: Tensor) -> Tensor:
        """The images as they are."""
        return images


@dataclass(frozen=True, eq=False)
class Teachers:
    """All that teach one student.

    Attributes:
        trained: Networks in the order of `KnowledgeDistillationSettings.all_teachers`, on the
            student's device.
        val_accuracies: Theirs on the search-validation images, where teachers are weighted by it;
            else empty.
        val_losses: The same for the cross-entropy.
        earlier: The student's earlier generation; None in the first.
    """

    trained: tuple[TeacherNetwork, ...] = ()
    val_accuracies: tuple[float, ...] = ()
    val_losses: tuple[float, ...] = ()
    earlier: TeacherNetwork | None = None

    def after(self, generation: TeacherNetwork) -> Teachers:
        """The same with a generation of the student behind them."""
        return replace(self, earlier=generation)

    def check_classes(self, class_names: tuple[str, ...]) -> None:
        """Make sure that all of them know the classes that the student has to tell.

        Raises:
            DataError: If one does not; the message names the classes of both.
        """
        for teacher in self.trained:
            if teacher.class_names != class_names:
                raise DataError(
                    f"the teacher {teacher.description} tells the classes "
                    f"{_listed(teacher.class_names)}, but the student has to tell "
                    f"{_listed(class_names)}; name a teacher of these classes"
                )


@torch.no_grad()
def ask(teacher: TeacherNetwork, images: Tensor, settings: TrainSettings) -> Tensor:
    """A teacher's logits for a student's images, in the precision of the student's training.

    Args:
        teacher: On the device of the images.
        images: As the student is given them, `(n, c, h, w)`.
        settings: Of the student's training.
    """
    channels_last = settings.uses_channels_last(teacher.network, images.device)
    return forward(
        teacher.network, teacher.as_trained(images), settings, channels_last=channels_last
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
