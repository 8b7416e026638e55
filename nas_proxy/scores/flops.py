"""Floating-point operations of one forward pass: what one prediction costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.registry import SCORES


@SCORES.register("flops")
@dataclass(frozen=True, kw_only=True)
class Flops(ZeroCostScore):
    """Operations of the convolutions and matrix products for one image.

    A multiply-add counts as two, as in `torch.utils.flop_counter`; published tables of "FLOPs"
    often count it once. Norms, activations and pooling are not counted, nor is what a network
    holds but does not compute.
    """

    summary: ClassVar[str] = "floating-point operations for one image; a multiply-add is two"

    def measure(self, network: nn.Module, images: Tensor) -> float:
        """Count in evaluation mode."""
        # Two images, halved: torch refuses group norm on a single image of a single pixel, which
        # deep networks come down to on small images.
        images = images[:2]
        network.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(images)
        return float(counter.get_total_flops()) / len(images)
