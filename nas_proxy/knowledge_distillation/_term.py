"""What every kind of distillation is: a loss of what student and teachers computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_proxy.knowledge_distillation.feature_maps import FeatureMap, Record
from nas_proxy.train.objective import Batch

UNLABELLED = -100
"""The label of an image without one; torch's cross-entropy leaves it out."""


@dataclass(frozen=True, eq=False)
class NetworkOutput:
    """What a network said of a batch.

    Attributes:
        logits: `(n, num_classes)`, float32.
        record: What it computed on the way, as far as it was asked for.
    """

    logits: Tensor
    record: Record


@dataclass(frozen=True, eq=False)
class TermInputs:
    """What a term looks at.

    Attributes:
        batch: The training's.
        student: Gradients flow through it.
        teachers: Those of the term, in order; no gradients.
    """

    batch: Batch
    student: NetworkOutput
    teachers: tuple[NetworkOutput, ...]


class Term(nn.Module, ABC):
    """One term of the loss. Its parameters are trained with the student's.

    Attributes:
        student_maps: Whose maps it needs.
        teacher_maps: The same of its teacher, if it has one.
        needs_embedding: Whether it looks at embeddings.
    """

    student_maps: tuple[FeatureMap, ...] = ()
    teacher_maps: tuple[FeatureMap, ...] = ()
    needs_embedding: bool = False

    @abstractmethod
    def forward(self, inputs: TermInputs) -> Tensor:
        """The loss before its weight, a scalar in float32: mean over the images."""


def divergence(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softened answer from `target`, mean over the images.

    Args:
        logits: `(n, num_classes)`.
        target: Probabilities of the same shape, softened already.
        temperature: Divides the logits.
    """
    return F.kl_div((logits / temperature).log_softmax(dim=1), target, reduction="batchmean")


def labels_loss(batch: Batch, *, partly_labelled: bool) -> Tensor:
    """The batch's cross-entropy, mean over the labelled images; 0 if there are none.

    Args:
        batch: Of the training.
        partly_labelled: Whether there are images without a label; to look costs a GPU time.
    """
    if not partly_labelled:
        return batch.cross_entropy
    labelled = batch.labels != UNLABELLED
    if not bool(labelled.any()):
        return batch.logits.new_zeros(())
    return replace(
        batch, logits=batch.logits[labelled], labels=batch.labels[labelled]
    ).cross_entropy


def class_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image, `(n,)`; labels are classes or probabilities."""
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")
