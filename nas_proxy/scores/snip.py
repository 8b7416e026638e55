"""SNIP: how much the loss would change if single weights were left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nas_proxy.registry import SCORES
from nas_proxy.scores._loss_gradients import LayerwiseGradientScore


@SCORES.register("snip")
@dataclass(frozen=True, kw_only=True)
class SNIP(LayerwiseGradientScore):
    """Sum over the weights of |w dL/dw|, with L the cross-entropy of one batch.

    To first order, |w dL/dw| is what leaving the weight out does to the loss.
    """

    summary: ClassVar[str] = "how much the loss would change without single weights"
    paper: ClassVar[str] = "Lee et al., SNIP, ICLR 2019; Abdelfattah et al., ICLR 2021"

    def measure_layer(self, weight: Tensor, gradient: Tensor) -> float:
        """The sum over the layer's weights."""
        return float((weight * gradient).double().abs().sum())
