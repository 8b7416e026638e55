"""log-SynFlow: how much signal the weights carry from input to output."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from nas_proxy.errors import EvaluationError
from nas_proxy.registry import SCORES
from nas_proxy.scores._sharing import FlowPass, Read, SharingScore


@SCORES.register("log_synflow")
@dataclass(frozen=True, kw_only=True)
class LogSynFlow(SharingScore):
    """Sum over the weights of |w| log(1 + |dR/dw|), with R the sum of the logits.

    R is taken on one image of ones, with every weight made positive and every norm bypassed. The
    logarithm, FreeREA's addition to SynFlow (Tanaka et al., NeurIPS 2020), keeps the gradients of
    the last layers, which grow exponentially with depth, from drowning the rest. Weights that no
    signal reaches add nothing; the values that FreeREA's authors published give them some.
    """

    summary: ClassVar[str] = "signal that positive weights carry from input to output"
    paper: ClassVar[str] = "Cavagnero et al., FreeREA, WACV 2023"

    def shares(self) -> Hashable:
        """All that look at the positive flow."""
        return FlowPass

    def new_pass(self) -> FlowPass:
        """See `SharingScore.new_pass`."""
        return FlowPass()

    def join(self, shared: FlowPass) -> Read:
        """See `SharingScore.join`; no score if the network is too deep for float64."""

        def read() -> float:
            # Weights that the logits do not depend on have no gradient and add log(1) = 0.
            score = sum(
                float((weight * gradient.abs().log1p()).sum())
                for weight, gradient in shared.all_weights
                if gradient is not None
            )
            if not math.isfinite(score):
                raise EvaluationError("log_synflow: the gradients leave the range of float64")
            return score

        return read
