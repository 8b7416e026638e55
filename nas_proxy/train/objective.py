"""What a training minimises: the cross-entropy of the labels unless it is told otherwise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Batch:
    """One step of a training, after the network has answered.

    Attributes:
        indices: Positions of the images in one pass over the training set, `(n,)`.
        images: As the network was given them: normalised and augmented, `(n, c, h, w)`; with
            several views of each image, `(views * n, c, h, w)`.
        labels: Classes `(n,)`, or probabilities `(n, num_classes)`; one for each of the images.
        logits: The network's answer in float32.
        temperature: Of the labels; see `TrainingSet`.
        smoothing: Share of a hard label that is spread over all classes.
    """

    indices: Tensor
    images: Tensor
    labels: Tensor
    logits: Tensor
    temperature: float = 1.0
    smoothing: float = 0.0

    @cached_property
    def cross_entropy(self) -> Tensor:
        """The ordinary loss: mean cross-entropy with the labels."""
        loss = F.cross_entropy(
            self.logits / self.temperature, self.labels, label_smoothing=self.smoothing
        )
        return loss * self.temperature**2


class Objective(nn.Module, ABC):
    """A loss. Its own parameters, such as a projection's, are trained with the network's.

    Attributes:
        averages_images: Whether it is the mean of one term for each image, so that a batch that
            does not fit into memory can be divided: the gradient is the mean of the parts'.
    """

    averages_images: ClassVar[bool] = False

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """What is to be minimised, a scalar in float32; gradients flow through `batch.logits`.

        What the network computes on the way can be had from forward hooks on it, which have run
        by now; in mixed precision it is bfloat16.
        """


class CrossEntropy(Objective):
    """The ordinary loss: mean cross-entropy with the labels."""

    averages_images = True

    def forward(self, batch: Batch) -> Tensor:
        """The batch's own cross-entropy."""
        return batch.cross_entropy


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Parameters that learn at one rate.

    Attributes:
        parameters: Of the network.
        learning_rate_factor: The settings' learning rate is multiplied by it.
    """

    parameters: Sequence[nn.Parameter]
    learning_rate_factor: float = 1.0
