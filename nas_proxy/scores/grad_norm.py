"""Gradient norm: how strongly the weights are pulled at the first step of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.options import PositiveInt
from nas_proxy.registry import SCORES
from nas_proxy.scores.loss_gradients import loss_gradients


@SCORES.register("grad_norm")
@dataclass(frozen=True, kw_only=True)
class GradNorm(ZeroCostScore):
    """Sum over the layers of the Euclidean norm of the loss's gradient by the layer's weights.

    The layers are convolutions and linear layers; the loss is the cross-entropy of one batch.

    Attributes:
        num_images: Images of the batch, the first ones given; all when fewer are given.
    """

    num_images: PositiveInt = 64

    summary: ClassVar[str] = "norm of the loss's gradient, summed over layers"
    paper: ClassVar[str] = "Abdelfattah et al., Zero-cost proxies for lightweight NAS, ICLR 2021"

    def measure_labelled(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        """Score one network; scores of different images do not compare.

        Raises:
            EvaluationError: If no gradient reaches any weight, or one is not finite.
        """
        images, labels = images[: self.num_images], labels[: self.num_images]
        pairs = loss_gradients(network, images, labels, score=self.name)
        return sum(float(gradient.double().norm()) for _, gradient in pairs)
