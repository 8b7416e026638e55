"""GraSP: whether the weights keep the gradient flowing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from nas_proxy.errors import EvaluationError
from nas_proxy.registry import SCORES
from nas_proxy.scores._loss_gradients import OneBatchScore, weight_gradients
from nas_proxy.scores._sharing import Read, TrainingPass


@SCORES.register("grasp")
@dataclass(frozen=True, kw_only=True)
class GraSP(OneBatchScore):
    """The sum over the weights of -w (H g), with g and H the loss's gradient and Hessian.

    It has either sign: the squared norm of the gradient falls by twice this number, times epsilon,
    when all weights grow by a factor of 1 + epsilon. The weights are those of convolutions and
    linear layers; the loss is the cross-entropy of one batch. It costs about three times a
    gradient. The orientation is that of Abdelfattah et al.
    """

    looks_at_labels: ClassVar[bool] = True
    summary: ClassVar[str] = "how much the weights keep the gradient flowing"
    paper: ClassVar[str] = "Wang et al., GraSP, ICLR 2020; Abdelfattah et al., ICLR 2021"

    def join(self, shared: TrainingPass) -> Read:
        """See `SharingScore.join`; no score where no gradient arrives, or one is not finite."""
        shared.wants_gradients = shared.wants_curvature = True

        def read() -> float:
            gradients = weight_gradients(shared, score=self.name)
            with torch.enable_grad():
                alignment = torch.stack([(g.detach() * g).sum() for g in gradients]).sum()
            products = torch.autograd.grad(  # H g
                alignment,
                shared.weights,
                retain_graph=shared.num_readers > 1,
                materialize_grads=True,
            )
            score = -sum(
                float((weight.detach() * product).double().sum())
                for weight, product in zip(shared.weights, products, strict=True)
            )
            if not math.isfinite(score):
                raise EvaluationError("grasp: the second derivatives of the loss are not finite")
            return score

        return read
