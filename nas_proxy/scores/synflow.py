"""SynFlow: how much the weights of all paths from input to output add up to."""

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
from nas_proxy.scores.layers import weighted_layers


@SCORES.register("synflow")
@dataclass(frozen=True, kw_only=True)
class SynFlow(ZeroCostScore):
    """Logarithm of the sum of |w dR/dw| over the weights, with R the sum of the logits.

    R is taken on one image of ones, with every weight made positive and every norm bypassed. The
    sum grows exponentially with depth; its logarithm ranks alike and is a number that can be
    averaged and drawn. The weights are those of convolutions and linear layers.
    """

    summary: ClassVar[str] = "weights of all paths from input to output, multiplied and summed"
    paper: ClassVar[str] = "Tanaka et al., SynFlow, NeurIPS 2020; Abdelfattah et al., ICLR 2021"

    def measure(self, network: nn.Module, images: Tensor) -> float:
        """Score one network; of `images`, only the shape and the device matter.

        Raises:
            EvaluationError: If no signal passes from input to output, or if the network is so deep
                that the sum leaves float64's range.
        """
        flow = positive_flow(network, images)
        weights = [layer.weight for layer in weighted_layers(network)]
        if not weights:
            raise EvaluationError("synflow: the network has no convolution and no linear layer")
        gradients = torch.autograd.grad(flow, weights, materialize_grads=True)
        total = sum(
            float((weight * gradient).detach().abs().sum())
            for weight, gradient in zip(weights, gradients, strict=True)
        )
        if not math.isfinite(total):
            raise EvaluationError("synflow: the gradients leave the range of float64")
        if total == 0:
            raise EvaluationError(
                "synflow: no signal passes from the image to the logits, the network is "
                "disconnected"
            )
        return math.log(total)
