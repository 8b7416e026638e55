"""GraSP: whether the weights keep the gradient flowing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nas_proxy.errors import EvaluationError
from nas_proxy.registry import SCORES
from nas_proxy.scores._loss_gradients import OneBatchScore, loss_gradients


@SCORES.register("grasp")
@dataclass(frozen=True, kw_only=True)
class GraSP(OneBatchScore):
    """The sum over the weights of -w (H g), with g and H the loss's gradient and Hessian.

    It has either sign: the squared norm of the gradient falls by twice this number, times epsilon,
    when all weights grow by a factor of 1 + epsilon. The weights are those of convolutions and
    linear layers; the loss is the cross-entropy of one batch. It costs about three times a
    gradient. The orientation is that of Abdelfattah et al.
    """

    summary: ClassVar[str] = "how much the weights keep the gradient flowing"
    paper: ClassVar[str] = "Wang et al., GraSP, ICLR 2020; Abdelfattah et al., ICLR 2021"

    def measure_batch(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        """Score one network; see `OneBatchScore.measure_batch`.

        Raises:
            EvaluationError: If no gradient reaches any weight, or a derivative is not finite.
        """
        pairs = loss_gradients(network, images, labels, score=self.name, create_graph=True)
        weights = [weight for weight, _ in pairs]
        with torch.enable_grad():
            alignment = torch.stack([(g.detach() * g).sum() for _, g in pairs]).sum()
        products = torch.autograd.grad(alignment, weights, materialize_grads=True)  # H g
        score = -sum(
            float((weight.detach() * product).double().sum())
            for weight, product in zip(weights, products, strict=True)
        )
        if not math.isfinite(score):
            raise EvaluationError("grasp: the second derivatives of the loss are not finite")
        return score
