"""The number of parameters: the row that every other ranking must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.registry import SCORES


@SCORES.register("num_params")
@dataclass(frozen=True, kw_only=True)
class NumParams(ZeroCostScore):
    """How many numbers training would adjust."""

    summary: ClassVar[str] = "number of parameters"

    def measure(self, network: nn.Module, images: Tensor) -> float:
        """Count the elements of all parameters; one that is used twice counts once."""
        return float(sum(parameter.numel() for parameter in network.parameters()))
