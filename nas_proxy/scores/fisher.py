"""Fisher: how much the loss would change if single channels were left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nas_proxy.errors import EvaluationError
from nas_proxy.registry import SCORES
from nas_proxy.scores._loss_gradients import OneBatchScore, classification_loss, require_signal
from nas_proxy.scores.layers import forward_hooks, weighted_layers


@SCORES.register("fisher")
@dataclass(frozen=True, kw_only=True)
class Fisher(OneBatchScore):
    """Sum over the weights of what leaving their output channel out does to the loss.

    For a channel that is the mean over the images of (sum over pixels of a dL/da)^2 / 2, with a
    the output of the convolution or linear layer and L the cross-entropy of one batch. A channel
    counts once for each of its weights, as in the zero-cost suite of Abdelfattah et al.
    """

    summary: ClassVar[str] = "how much the loss would change without single channels"
    paper: ClassVar[str] = "Turner et al., BlockSwap, ICLR 2020; Abdelfattah et al., ICLR 2021"

    def measure_batch(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        """Score one network; see `OneBatchScore.measure_batch`.

        Raises:
            EvaluationError: If no gradient reaches any weighted layer, or one is not finite.
        """
        outputs: list[tuple[Any, Tensor]] = []

        def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            outputs.append((layer, output))
            return output.clone()  # an activation in place must not alter what is recorded

        layers = weighted_layers(network)
        with forward_hooks(layers, record):
            loss = classification_loss(network, images, labels)
        if not outputs:
            raise EvaluationError("fisher: the network has no convolution and no linear layer")
        gradients = torch.autograd.grad(
            loss, [output for _, output in outputs], materialize_grads=True
        )
        require_signal(gradients, score=self.name)
        return sum(
            _saliency(layer, (output.detach() * gradient).double())
            for (layer, output), gradient in zip(outputs, gradients, strict=True)
        )


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
