"""The number of parameters: the row that every other ranking must beat."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from nas_proxy.registry import SCORES
from nas_proxy.scores._sharing import CountingPass, Read, SharingScore


@SCORES.register("num_params")
@dataclass(frozen=True, kw_only=True)
class NumParams(SharingScore):
    """How many numbers training would adjust."""

    summary: ClassVar[str] = "number of parameters"

    def shares(self) -> Hashable:
        """All that count."""
        return CountingPass

    def new_pass(self) -> CountingPass:
        """See `SharingScore.new_pass`."""
        return CountingPass()

    def join(self, shared: CountingPass) -> Read:
        """Counts the elements of all parameters; one that is used twice counts once."""
        return lambda: float(sum(parameter.numel() for parameter in shared.network.parameters()))
