"""SynFlow: how much the weights of all paths from input to output add up to."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from nas_proxy.errors import EvaluationError
from nas_proxy.registry import SCORES
from nas_proxy.scores._sharing import FlowPass, Read, SharingScore


@SCORES.register("synflow")
@dataclass(frozen=True, kw_only=True)
class SynFlow(SharingScore):
    """Logarithm of the sum of |w dR/dw| over the weights, with R the sum of the logits.

    R is taken on one image of ones, with every weight made positive and every norm bypassed. The
    sum grows exponentially with depth; its logarithm ranks alike and is a number that can be
    averaged and drawn. The weights are those of convolutions and linear layers.
    """

    summary: ClassVar[str] = "weights of all paths from input to output, multiplied and summed"
    paper: ClassVar[str] = "Tanaka et al., SynFlow, NeurIPS 2020; Abdelfattah et al., ICLR 2021"

    def shares(self) -> Hashable:
        """All that look at the positive flow."""
        return FlowPass

    def new_pass(self) -> FlowPass:
        """See `SharingScore.new_pass`."""
        return FlowPass()

    def join(self, shared: FlowPass) -> Read:
        """See `SharingScore.join`.

        There is no score if no signal passes from input to output, or if the network is so deep
        that the sum leaves float64's range.
        """

        def read() -> float:
            if not shared.layer_weights:
                raise EvaluationError("synflow: the network has no convolution and no linear layer")
            total = sum(
                float((weight * gradient).abs().sum())
                for weight, gradient in shared.layer_weights
                if gradient is not None
            )
            if not math.isfinite(total):
                raise EvaluationError("synflow: the gradients leave the range of float64")
            if total == 0:
                raise EvaluationError(
                    "synflow: no signal passes from the image to the logits, the network is "
                    "disconnected"
                )
            return math.log(total)

        return read
