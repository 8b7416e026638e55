"""SNIP: how much the loss would change if single weights were left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.options import PositiveInt
from nas_proxy.registry import SCORES
from nas_proxy.scores.loss_gradients import loss_gradients


@SCORES.register("snip")
@dataclass(frozen=True, kw_only=True)
class SNIP(ZeroCostScore):
    """Sum over the weights of |w dL/dw|, with L the cross-entropy of one batch.

    To first order, |w dL/dw| is what leaving the weight out does to the loss. The weights are
    those of convolutions and linear layers.

    Attributes:
        num_images: Images of the batch, the first ones given; all when fewer are given.
    """

    num_images: PositiveInt = 64

    summary: ClassVar[str] = "how much the loss would change without single weights"
    paper: ClassVar[str] = "Lee et al., SNIP, ICLR 2019; Abdelfattah et al., ICLR 2021"

    def measure_labelled(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        """Score one network; scores of different images do not compare.

        Raises:
            EvaluationError: If no gradient reaches any weight, or one is not finite.
        """
        images, labels = images[: self.num_images], labels[: self.num_images]
        pairs = loss_gradients(network, images, labels, score=self.name)
        return sum(float((w.detach() * gradient).double().abs().sum()) for w, gradient in pairs)
