"""`relational`: images lie to one another as they do for the teacher.

Park et al., "Relational Knowledge Distillation" (RKD), CVPR 2019: distances of pairs and angles of
triples of embeddings. Embeddings of teacher and student may have different lengths.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_proxy.errors import required
from nas_proxy.knowledge_distillation._term import Term, TermInputs

_SMALLEST = 1e-12  # square of a distance: the root has no gradient at zero


class Relational(Term):
    """Huber losses of the relative distances and of the cosines of the angles.

    A batch of n images needs memory for n * n embeddings.

    Args:
        distance_weight: Of the distances' loss.
        angle_weight: Of the angles' loss.
    """

    needs_embedding = True

    def __init__(self, distance_weight: float, angle_weight: float) -> None:
        super().__init__()
        self._distance_weight = distance_weight
        self._angle_weight = angle_weight

    def forward(self, inputs: TermInputs) -> Tensor:
        """See the class."""
        (teacher,) = inputs.teachers
        ours = required(inputs.student.record.embedding, "the student's embedding")
        theirs = required(teacher.record.embedding, "the teacher's embedding")
        between, between_theirs = (each[None] - each[:, None] for each in (ours, theirs))
        distances = F.smooth_l1_loss(_distances(between), _distances(between_theirs))
        angles = F.smooth_l1_loss(_cosines(between), _cosines(between_theirs))
        return self._distance_weight * distances + self._angle_weight * angles


def _distances(between: Tensor) -> Tensor:
    """Distances of all pairs in units of their mean, `(n, n)`, zero on the diagonal."""
    num = len(between)
    apart = ~torch.eye(num, dtype=torch.bool, device=between.device)
    distances = between.square().sum(dim=2).clamp_min(_SMALLEST).sqrt() * apart
    return distances / (distances.sum() / max(1, num * (num - 1))).clamp_min(_SMALLEST)


def _cosines(between: Tensor) -> Tensor:
    """Cosines of the angles at the first image of each triple, `(n, n, n)`."""
    # Images in one place have no direction, and none to be moved in: the gradient would be endless.
    is_apart = (between != 0).any(dim=2, keepdim=True)
    directions = F.normalize(between, dim=2) * is_apart
    return directions @ directions.transpose(1, 2)
