"""The number of layers: how deep or how branched a network is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.registry import SCORES
from nas_proxy.scores.layers import forward_hooks, weighted_layers


@SCORES.register("num_layers")
@dataclass(frozen=True, kw_only=True)
class NumLayers(ZeroCostScore):
    """Convolutions and linear layers that one forward pass goes through, in all its branches.

    A layer that is used twice counts twice; one that the network holds but does not use is not
    counted.
    """

    summary: ClassVar[str] = "convolutions and linear layers of one forward pass"

    def measure(self, network: nn.Module, images: Tensor) -> float:
        """Count in evaluation mode."""
        num_layers = 0

        def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal num_layers
            num_layers += 1

        network.eval()
        with torch.no_grad(), forward_hooks(weighted_layers(network), count):
            # Two images: torch refuses group norm on a single image of a single pixel.
            network(images[:2])
        return float(num_layers)
