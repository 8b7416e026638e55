"""The number of layers: how deep or how branched a network is."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from nas_proxy.registry import SCORES
from nas_proxy.scores._sharing import CountingPass, Read, SharingScore


@SCORES.register("num_layers")
@dataclass(frozen=True, kw_only=True)
class NumLayers(SharingScore):
    """Convolutions and linear layers that one forward pass goes through, in all its branches.

    A layer that is used twice counts twice; one that the network holds but does not use is not
    counted.
    """

    summary: ClassVar[str] = "convolutions and linear layers of one forward pass"

    def shares(self) -> Hashable:
        """All that count."""
        return CountingPass

    def new_pass(self) -> CountingPass:
        """See `SharingScore.new_pass`."""
        return CountingPass()

    def join(self, shared: CountingPass) -> Read:
        """Counts in evaluation mode."""
        num_layers = 0

        def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal num_layers
            num_layers += 1

        shared.layer_hooks.append(count)
        return lambda: float(num_layers)
