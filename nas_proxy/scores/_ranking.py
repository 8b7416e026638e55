"""Ranks of one evaluation among others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas_proxy.scores.signals import higher_is_better
from nas_proxy.types import Evaluation


def oriented(evaluation: Evaluation, signal: str) -> float:
    """The value of a signal, with its sign turned where lower is better."""
    value = evaluation.signals[signal]
    return value if higher_is_better(signal) else -value


def rank_among(reference: NDArray[np.float64], value: float) -> float:
    """Rank of `value` among the ascending `reference`, `(n,)`; strictly increasing in `value`.

    0 is the worst of the reference, 1 its best, .5 where all of it is the same. Beyond them it
    goes on growing, but by no more than one member's worth: an outlier cannot outvote others.
    """
    levels, first, counts = np.unique(reference, return_index=True, return_counts=True)
    mid_ranks = (first + (counts - 1) / 2) / (len(reference) - 1)
    inside = np.interp(value, levels, mid_ranks)
    beyond = max(value - levels[-1], 0.0) - max(levels[0] - value, 0.0)
    lower, upper = np.percentile(reference, [25, 75])
    distance = beyond / (float(upper - lower) or 1.0)
    return float(inside + distance / (1 + abs(distance)) / (len(reference) - 1))
