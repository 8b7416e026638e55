"""Gradient norm: how strongly the weights are pulled at the first step of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nas_proxy.registry import SCORES
from nas_proxy.scores._loss_gradients import LayerwiseGradientScore


@SCORES.register("grad_norm")
@dataclass(frozen=True, kw_only=True)
class GradNorm(LayerwiseGradientScore):
    """Sum over the layers of the norm of the loss's gradient by the layer's weights.

    The norm is the Euclidean one, of all weights of a layer together.
    """

    summary: ClassVar[str] = "norm of the loss's gradient, summed over layers"
    paper: ClassVar[str] = "Abdelfattah et al., Zero-cost proxies for lightweight NAS, ICLR 2021"

    def measure_layer(self, weight: Tensor, gradient: Tensor) -> float:
        """The norm of the gradient."""
        return float(gradient.double().norm())
