"""log-SynFlow: how much signal the weights carry from input to output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nas_proxy.errors import EvaluationError
from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.registry import SCORES
from nas_proxy.scores._positive_flow import positive_flow


@SCORES.register("log_synflow")
@dataclass(frozen=True, kw_only=True)
class LogSynFlow(ZeroCostScore):
    """Sum over the weights of |w| log(1 + |dR/dw|), with R the sum of the logits.

    R is taken on one image of ones, with every weight made positive and every norm bypassed. The
    logarithm, FreeREA's addition to SynFlow (Tanaka et al., NeurIPS 2020), keeps the gradients of
    the last layers, which grow exponentially with depth, from drowning the rest. Weights that no
    signal reaches add nothing; the values that FreeREA's authors published give them some.
    """

    summary: ClassVar[str] = "signal that positive weights carry from input to output"
    paper: ClassVar[str] = "Cavagnero et al., FreeREA, WACV 2023"

    def measure(self, network: nn.Module, images: Tensor) -> float:
        """Score one network; of `images`, only the shape and the device matter.

        Raises:
            EvaluationError: If the network is so deep that the sum leaves float64's range.
        """
        flow = positive_flow(network, images)
        parameters = [weight for weight in network.parameters() if weight.requires_grad]
        # Weights that the logits do not depend on have no gradient and add log(1) = 0.
        gradients = torch.autograd.grad(flow, parameters, allow_unused=True)
        score = sum(
            float((weight.detach() * gradient.abs().log1p()).sum())
            for weight, gradient in zip(parameters, gradients, strict=True)
            if gradient is not None
        )
        if not math.isfinite(score):
            raise EvaluationError("log_synflow: the gradients leave the range of float64")
        return score
