"""Fisher: how much the loss would change if single channels were left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from nas_proxy.errors import EvaluationError
from nas_proxy.registry import SCORES
from nas_proxy.scores._loss_gradients import OneBatchScore, require_signal
from nas_proxy.scores._sharing import Read, TrainingPass


@SCORES.register("fisher")
@dataclass(frozen=True, kw_only=True)
class Fisher(OneBatchScore):
    """Sum over the weights of what leaving their output channel out does to the loss.

    For a channel that is the mean over the images of (sum over pixels of a dL/da)^2 / 2, with a
    the output of the convolution or linear layer and L the cross-entropy of one batch. A channel
    counts once for each of its weights, as in the zero-cost suite of Abdelfattah et al.
    """

    looks_at_labels: ClassVar[bool] = True
    summary: ClassVar[str] = "how much the loss would change without single channels"
    paper: ClassVar[str] = "Turner et al., BlockSwap, ICLR 2020; Abdelfattah et al., ICLR 2021"

    def join(self, shared: TrainingPass) -> Read:
        """See `SharingScore.join`; no score where no gradient arrives, or one is not finite."""
        shared.wants_gradients = shared.wants_outputs = True

        def read() -> float:
            if not shared.outputs:
                raise EvaluationError("fisher: the network has no convolution and no linear layer")
            require_signal([gradient for _, _, gradient in shared.outputs], score=self.name)
            return sum(
                _saliency(layer, (output * gradient).double())
                for layer, output, gradient in shared.outputs
            )

        return read


def _saliency(layer: Any, products: Tensor) -> float:
    """One layer's part of the score.

    Args:
        layer: The convolution or linear layer.
        products: Its output times the gradient, `(n, c, h, w)`, or `(n, ..., c)` if it is linear.
    """
    by_channel = products.movedim(-1, 1) if isinstance(layer, nn.Linear) else products
    num_images, num_channels = by_channel.shape[:2]
    changes = by_channel.reshape(num_images, num_channels, -1).sum(dim=2)
    weights_per_channel: float = layer.weight.numel() / num_channels
    return float(changes.square().mean(dim=0).sum()) / 2 * weights_per_channel
