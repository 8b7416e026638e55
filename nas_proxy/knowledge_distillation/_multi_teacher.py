"""`multi_teacher`: the student learns what several teachers say together.

The mean of their probabilities, weighted by how good they are on the validation images, or for each
image by how well each knows its class: Zhang, Chen and Wang, "Confidence-Aware Multi-Teacher
Knowledge Distillation" (CA-MKD), ICASSP 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nas_proxy.errors import StudyError
from nas_proxy.knowledge_distillation._term import Term, TermInputs, class_losses, divergence


class MultiTeacher(Term):
    """The divergence from the weighted mean of the teachers' softened probabilities.

    Its gradient is that of the weighted sum of the divergences from each.

    Args:
        temperature: Divides all logits; the loss is multiplied by its square.
        weights: One for each teacher, which add up to one; None: by confidence, per image.
    """

    def __init__(self, temperature: float, weights: Sequence[float] | None) -> None:
        super().__init__()
        self._temperature = temperature
        self._weights = weights

    def forward(self, inputs: TermInputs) -> Tensor:
        """See the class."""
        logits = torch.stack([teacher.logits for teacher in inputs.teachers])
        if self._weights is None:
            weights = confidence_weights(logits, inputs.batch.labels)
        else:
            weights = logits.new_tensor(self._weights)[:, None]
        said = (logits / self._temperature).softmax(dim=2)
        target = (weights[:, :, None] * said).sum(dim=0)
        loss = divergence(inputs.student.logits, target, self._temperature)
        return loss * self._temperature**2


def confidence_weights(logits: Tensor, labels: Tensor) -> Tensor:
    """How much each teacher counts for each image: less, the less it knows the true class.

    Args:
        logits: Of two teachers or more, `(k, n, num_classes)`.
        labels: True classes `(n,)`, or probabilities `(n, num_classes)`.

    Returns:
        `(k, n)`; the columns add up to one. Of two teachers each has the other's share of the
        losses' exponentials; the exponentials' own weights are CA-MKD's.
    """
    losses = torch.stack([class_losses(each, labels) for each in logits])
    return (1 - losses.softmax(dim=0)) / (len(logits) - 1)


def accuracy_weights(val_accuracies: Sequence[float]) -> list[float]:
    """In proportion to the accuracies on the validation images.

    Raises:
        StudyError: If no teacher finds the class of any image.
    """
    if not any(val_accuracies):
        raise StudyError(
            "multi_teacher (val_accuracy) weighs teachers by their accuracy on the validation "
            "images, but that of all of them is 0; train them longer, or set variant: mean"
        )
    return [accuracy / sum(val_accuracies) for accuracy in val_accuracies]


def loss_weights(val_losses: Sequence[float]) -> list[float]:
    """In proportion to the mean probability, geometrically, that each gives the true classes."""
    weights: list[float] = (-torch.tensor(val_losses, dtype=torch.float64)).softmax(dim=0).tolist()
    return weights
