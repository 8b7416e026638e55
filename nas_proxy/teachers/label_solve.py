"""The best labels for given images in closed form: label solve.

Nguyen, Chen and Lee, "Dataset Meta-Learning from Kernel Ridge-Regression", ICLR 2021: of all
labels of the few images, those from which kernel ridge regression predicts the labels of the many
best. Here the kernel is the inner product of embeddings, and as published the regression is between
centred labels: 1 / num_classes is taken from each, and added to what is solved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_proxy.errors import DivergedError, required


def ridge_predictor(support: Tensor, regularisation: float) -> Tensor:
    """The matrix `P` with predictions `embeddings @ P @ support_labels`, `(d, n)`.

    Hand in float64: the kernel's condition number is up to n / regularisation, and as soon as the
    images outnumber the embedding's dimensions it reaches that, which float32 cannot resolve.

    Args:
        support: Embeddings of the few images, `(n, d)`; differentiable.
        regularisation: Added to the diagonal of the kernel, as a share of its mean.

    Returns:
        Nothing finite if all embeddings are zero or one is not finite.
    """
    kernel = support @ support.T
    strength = regularisation * kernel.diagonal().mean()
    identity = torch.eye(len(kernel), device=kernel.device, dtype=kernel.dtype)
    solved: Tensor = torch.linalg.solve_ex(kernel + strength * identity, support).result
    return solved.T


def centred_labels(labels: Tensor, num_classes: int) -> Tensor:
    """What the regression is between: probabilities less 1 / num_classes, float64.

    Args:
        labels: int64 `(n,)`, or probabilities `(n, num_classes)`; differentiable.
        num_classes: Of all labels.

    Returns:
        `(n, num_classes)`; rows sum to zero.
    """
    probabilities = F.one_hot(labels, num_classes) if labels.ndim == 1 else labels
    return probabilities.double() - 1 / num_classes


class LabelEquations:
    """Least squares for labels, gathered batch by batch of the many images.

    What the few labels predict is linear in them, `design @ centred labels`, whatever embeddings
    stand behind it; several networks' predictions may be asked to be right at once.

    Args:
        num_labels: Labels to solve for, n.
        num_classes: Values in each.
        device: Where the equations are kept, `n * (n + num_classes)` numbers in float64.
    """

    def __init__(self, num_labels: int, num_classes: int, device: torch.device) -> None:
        self._num_classes = num_classes
        self._normal = torch.zeros(num_labels, num_labels, dtype=torch.float64, device=device)
        self._moment = torch.zeros(num_labels, num_classes, dtype=torch.float64, device=device)
        self._square = torch.zeros((), dtype=torch.float64, device=device)
        self._num_rows = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, design: Tensor, labels: Tensor) -> None:
        """Ask for `design @ centred labels` to be the centred `labels` of a batch.

        Args:
            design: float64, `(b, n)`.
            labels: int64 `(b,)`, or probabilities `(b, num_classes)`.
        """
        target = centred_labels(labels, self._num_classes)
        self._normal += design.T @ design
        self._moment += design.T @ target
        self._square += target.square().sum()
        self._num_rows += len(target)

    def solve(self, regularisation: float) -> Tensor:
        """The labels with the least squares, `(n, num_classes)`, float64.

        Args:
            regularisation: Added to the diagonal of the normal equations, as a share of its mean;
                it pulls labels towards 1 / num_classes.

        Returns:
            Any real numbers; each row sums to one.

        Raises:
            DivergedError: If the embeddings behind the equations are not finite, or all zero.
        """
        strength = regularisation * self._normal.diagonal().mean()
        identity = torch.eye(len(self._normal), dtype=torch.float64, device=self._normal.device)
        system = self._normal + strength * identity
        solved: Tensor = torch.linalg.solve_ex(system, self._moment).result
        if not bool(solved.isfinite().all()):
            raise DivergedError(
                "labels cannot be solved for: the embeddings of the images are not finite, or all "
                "of them are zero"
            )
        return solved + 1 / self._num_classes

    def loss(self, labels: Tensor) -> float:
        """Half of the squared error of `labels`, summed over classes, mean over the many images."""
        centred = labels.double() - 1 / self._num_classes
        explained = (centred * (self._normal @ centred - 2 * self._moment)).sum()
        return float((self._square + explained) / (2 * self._num_rows))

    def state(self) -> dict[str, Tensor]:
        """What has been gathered, for a checkpoint."""
        return {
            "equations.normal": self._normal,
            "equations.moment": self._moment,
            "equations.square": self._square,
            "equations.num_rows": self._num_rows,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Tensor], device: torch.device) -> LabelEquations:
        """The equations that gave `state`."""
        num_labels, num_classes = state["equations.moment"].shape
        equations = cls(num_labels, num_classes, device)
        for key, value in equations.state().items():
            value.copy_(state[key])
        return equations


def solve_labels(
    support: Tensor,
    target: Iterable[tuple[Tensor, Tensor]],
    *,
    regularisation: float = 1e-6,
) -> Tensor:
    """The labels of the support images that predict the target's labels with the least squares.

    Args:
        support: Embeddings of the few images, `(n, d)`.
        target: Batches of embeddings `(b, d)` of the many images and their labels as
            probabilities, `(b, num_classes)`.
        regularisation: As in `ridge_predictor`, and for the least squares in the same sense.

    Returns:
        Any real numbers, float32 `(n, num_classes)`; each row sums to one.

    Raises:
        DivergedError: If the embeddings are not finite, or those of the few images are all zero.
    """
    predictor = ridge_predictor(support.double(), regularisation)
    equations: LabelEquations | None = None
    for embeddings, labels in target:
        if equations is None:
            equations = LabelEquations(len(support), labels.shape[1], support.device)
        equations.add(embeddings.double() @ predictor, labels)
    return required(equations, "a batch of the target").solve(regularisation).float()


def project_to_simplex(labels: Tensor) -> Tensor:
    """The nearest probabilities to each row, `(n, num_classes)`, in the Euclidean sense.

    Duchi et al., "Efficient Projections onto the l1-Ball", ICML 2008.
    """
    ordered = labels.sort(dim=1, descending=True).values
    ranks = torch.arange(1, labels.shape[1] + 1, device=labels.device, dtype=labels.dtype)
    excess = ordered.cumsum(dim=1) - 1
    num_positive = (ordered * ranks > excess).sum(dim=1, keepdim=True)
    threshold = excess.gather(1, num_positive - 1) / num_positive
    return (labels - threshold).clamp_min(0)
