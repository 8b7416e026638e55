"""Floating-point operations of one forward pass: what one prediction costs."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from nas_proxy.registry import SCORES
from nas_proxy.scores._sharing import CountingPass, Read, SharingScore


@SCORES.register("flops")
@dataclass(frozen=True, kw_only=True)
class Flops(SharingScore):
    """Operations of the convolutions and matrix products for one image.

    A multiply-add counts as two, as in `torch.utils.flop_counter`; published tables of "FLOPs"
    often count it once. Norms, activations and pooling are not counted, nor is what a network
    holds but does not compute.
    """

    summary: ClassVar[str] = "floating-point operations for one image; a multiply-add is two"

    def shares(self) -> Hashable:
        """All that count."""
        return CountingPass

    def new_pass(self) -> CountingPass:
        """See `SharingScore.new_pass`."""
        return CountingPass()

    def join(self, shared: CountingPass) -> Read:
        """Counts in evaluation mode."""
        shared.wants_flops = True
        return lambda: shared.flops
