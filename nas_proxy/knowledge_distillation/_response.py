"""`response`: the student learns the teacher's answers.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015; and in its decoupled
form, Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nas_proxy.knowledge_distillation._term import Term, TermInputs, divergence


class Response(Term):
    """The divergence from the teacher's softened answer, times the temperature squared.

    Args:
        temperature: Divides the logits of both.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self._temperature = temperature

    def forward(self, inputs: TermInputs) -> Tensor:
        """See the class."""
        (teacher,) = inputs.teachers
        return soft_label_loss(inputs.student.logits, teacher.logits, self._temperature)


class DecoupledResponse(Term):
    """The same divergence in two parts: the true class against the others, and among the others.

    In Hinton's form the second is weighted by how unsure the teacher is; here by a constant.

    Args:
        temperature: Divides the logits of both.
        target_weight: Of the first part; the paper's alpha.
        non_target_weight: Of the second part; the paper's beta.
    """

    def __init__(self, temperature: float, target_weight: float, non_target_weight: float) -> None:
        super().__init__()
        self._temperature = temperature
        self._weights = (target_weight, non_target_weight)

    def forward(self, inputs: TermInputs) -> Tensor:
        """See the class; labels are classes, `(n,)`."""
        (teacher,) = inputs.teachers
        parts = decoupled_losses(
            inputs.student.logits, teacher.logits, inputs.batch.labels, self._temperature
        )
        target, non_target = self._weights
        return target * parts[0] + non_target * parts[1]


def soft_label_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Hinton's loss: the squared temperature keeps the size of the gradient.

    Args:
        logits: The student's, `(n, num_classes)`.
        teacher_logits: Of the same shape.
        temperature: Divides both.
    """
    target = (teacher_logits / temperature).softmax(dim=1)
    return divergence(logits, target, temperature) * temperature**2


def decoupled_losses(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The two parts of the decoupled loss, of the target class and of the others.

    Args:
        logits: The student's, `(n, num_classes)`.
        teacher_logits: Of the same shape.
        labels: True classes, int64 `(n,)`.
        temperature: Divides both; the losses are multiplied by its square.
    """
    ours, theirs = (_decouple(each / temperature, labels) for each in (logits, teacher_logits))
    target, others = (
        torch.nn.functional.kl_div(a, b, reduction="batchmean", log_target=True)
        for a, b in zip(ours, theirs, strict=True)
    )
    return target * temperature**2, others * temperature**2


def _decouple(scaled: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of target against others `(n, 2)`, and among the others `(n, k - 1)`."""
    is_target = torch.zeros_like(scaled, dtype=torch.bool).scatter_(1, labels[:, None], True)
    others = scaled[~is_target].view(len(scaled), -1)
    against = torch.stack([scaled[is_target], others.logsumexp(dim=1)], dim=1)
    return against.log_softmax(dim=1), others.log_softmax(dim=1)
