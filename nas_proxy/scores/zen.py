"""Zen-score: how much a network's features change with its input, whatever its norms hide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nas_proxy.errors import EvaluationError
from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.options import PositiveFloat, PositiveInt
from nas_proxy.registry import SCORES
from nas_proxy.scores.layers import forward_hooks, norms, weighted_layers


@SCORES.register("zen")
@dataclass(frozen=True, kw_only=True)
class Zen(ZeroCostScore):
    """Logarithm of the change of the features when noise is added to Gaussian noise.

    All weights are drawn from a standard normal distribution and biases are zero. The change is
    the sum of absolute differences, averaged over images. A norm hides how much its input varies;
    the logarithm of the deviation that it divides by is therefore added for each norm. Published
    for batch norm, this is done for layer, instance and group norm alike; a norm with a constant
    input has nothing to hide. The deviation is the batch's own, as in the paper; NASLib reads
    running variances after two passes, in which their initial value still weighs four fifths.
    Features are what goes into the last global pooling (`nn.AdaptiveAvgPool2d`) or, without one,
    into the last linear layer.

    Attributes:
        num_images: Images of noise; only the shape of the given images matters.
        num_repeats: Draws of weights and noise, whose scores are averaged.
        noise: Deviation of what is added to the images; gamma or alpha in the paper.
    """

    num_images: PositiveInt = 16
    num_repeats: PositiveInt = 2
    noise: PositiveFloat = 0.01

    summary: ClassVar[str] = "how much features change with their input, norms undone"
    paper: ClassVar[str] = "Lin et al., Zen-NAS, ICCV 2021"

    def measure(self, network: nn.Module, images: Tensor) -> float:
        """Score one network; draws its weights from torch's global generator.

        Raises:
            EvaluationError: If the network has neither global pooling nor a linear layer, its
                features do not depend on the image, or their size leaves float32's range.
        """
        network.train()
        shape = (self.num_images, *images.shape[1:])
        with torch.no_grad():
            scores = [self._score_once(network, shape, images) for _ in range(self.num_repeats)]
        return sum(scores) / len(scores)

    def _score_once(self, network: nn.Module, shape: tuple[int, ...], like: Tensor) -> float:
        _draw_weights(network)
        # Drawn on the CPU and moved, like the weights: the same on every device.
        first, second = (torch.randn(shape).to(like) for _ in range(2))
        hidden_scales: list[float] = []

        def note_scale(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            variance = _hidden_variance(norm, inputs[0])
            if variance > 0:
                hidden_scales.append(math.log(variance) / 2)

        with forward_hooks(norms(network), note_scale):
            features = _last_features(network, first)
        moved = _last_features(network, first + self.noise * second)
        change = float((features - moved).double().abs().flatten(1).sum(dim=1).mean())
        if not math.isfinite(change + sum(hidden_scales)):
            raise EvaluationError("zen: the features leave the range of float32")
        if change == 0:
            raise EvaluationError(
                "zen: the features do not depend on the image, the network is disconnected"
            )
        return math.log(change) + sum(hidden_scales)


def _draw_weights(network: nn.Module) -> None:
    for layer in weighted_layers(network):
        layer.weight.copy_(torch.randn(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.zero_()


def _last_features(network: nn.Module, images: Tensor) -> Tensor:
    """What goes into the last global pooling or else into the last linear layer, `(n, ...)`."""
    found: dict[type[nn.Module], Tensor] = {}

    def note_input(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[nn.Linear if isinstance(layer, nn.Linear) else nn.AdaptiveAvgPool2d] = inputs[0]

    layers = [m for m in network.modules() if isinstance(m, (nn.AdaptiveAvgPool2d, nn.Linear))]
    with forward_hooks(layers, note_input):
        network(images)
    features = found.get(nn.AdaptiveAvgPool2d, found.get(nn.Linear))
    if features is None:
        raise EvaluationError(
            "zen: the network has neither global pooling (nn.AdaptiveAvgPool2d) nor a linear "
            "layer, whose input could be compared"
        )
    return features


def _hidden_variance(norm: Any, features: Tensor) -> float:
    """The variance that a norm divides by, averaged over what it divides apart."""
    if isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        parts = features.flatten(-len(norm.normalized_shape))
    elif isinstance(norm, nn.GroupNorm):
        parts = features.reshape(len(features), norm.num_groups, -1)
    elif isinstance(norm, nn.modules.instancenorm._InstanceNorm):
        parts = features.flatten(2)
    else:
        parts = features.transpose(0, 1).flatten(1)
    return float(parts.double().var(dim=-1, correction=0).mean())
