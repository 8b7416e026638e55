"""Jacobian covariance: whether a network's slope at one image tells its slope at another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from nas_proxy.errors import EvaluationError
from nas_proxy.options import Bound
from nas_proxy.registry import SCORES
from nas_proxy.scores._loss_gradients import OneBatchScore
from nas_proxy.scores._sharing import Read, TrainingPass

_EPSILON = 1e-5  # k in the paper


@SCORES.register("jacobian_covariance")
@dataclass(frozen=True, kw_only=True)
class JacobianCovariance(OneBatchScore):
    """Minus the sum of log(v) + 1 / v over the eigenvalues v of the slopes' correlation matrix.

    The slope at an image is the derivative of the sum of its logits by its pixels. The score is
    highest, minus the number of images, when no two slopes correlate. The network runs in training
    mode, as published: fresh norms then use the batch's statistics.

    Attributes:
        num_images: Images to compare, the first ones given; all when fewer are given.
    """

    num_images: Annotated[int, Bound(ge=2)] = 64

    summary: ClassVar[str] = "how little the slopes at different images correlate"
    paper: ClassVar[str] = "Mellor et al., jacob_cov, 2020 (arXiv 2006.04647v1)"

    def join(self, shared: TrainingPass) -> Read:
        """See `SharingScore.join`.

        There is no score if the logits of an image do not depend on its pixels, or the slopes are
        not finite.
        """
        shared.wants_slopes = True

        def read() -> float:
            with torch.enable_grad():
                total = shared.logits.sum()
            (gradient,) = torch.autograd.grad(
                total, [shared.pixels], retain_graph=shared.num_readers > 1, materialize_grads=True
            )
            return _score(gradient.double().flatten(1))

        return read


def _score(slopes: Tensor) -> float:
    """Of float64 slopes, one row for each image."""
    if not bool(slopes.isfinite().all()):
        raise EvaluationError("jacobian_covariance: the slopes are not finite")
    if bool((slopes.amin(dim=1) == slopes.amax(dim=1)).any()):
        raise EvaluationError(
            "jacobian_covariance: the logits do not depend on the image, or alike on all "
            "pixels of it, so that its slope correlates with nothing"
        )
    eigenvalues = torch.linalg.eigvalsh(torch.corrcoef(slopes).cpu()) + _EPSILON
    return -float((eigenvalues.log() + 1 / eigenvalues).sum())
