"""How many architectures would settle what a sample leaves open."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nas_proxy.statistics.intervals import CONFIDENCE, normal_quantile, quantile
from nas_proxy.statistics.ranks import Estimate

_SAME = 1e-9  # two figures that differ by less do so by rounding
_POWER = 0.8


@dataclass(frozen=True)
class Needed:
    """Architectures that settle a question if the figure itself stays where it is.

    Attributes:
        even: So many do with a probability of one half.
        likely: So many do with a probability of 80 %.
    """

    even: int
    likely: int

    def beyond(self, n: int) -> Needed:
        """How many more than n these are; at least one."""
        return Needed(max(1, self.even - n), max(1, self.likely - n))


def to_tell_apart(difference: Estimate, n: int, confidence: float = CONFIDENCE) -> Needed | None:
    """How many in all would make the interval of a difference exclude zero.

    Its end that faces zero comes nearer with the square root of n.

    Args:
        difference: With its interval.
        n: Architectures that it rests on.
        confidence: Of the interval.

    Returns:
        None if it has no interval or is zero itself.
    """
    return _needed(difference.value, difference.low, difference.high, 0.0, n, confidence)


def to_reach(
    correlation: Estimate, n: int, threshold: float, confidence: float = CONFIDENCE
) -> Needed | None:
    """How many in all would make the interval of a correlation exclude a threshold.

    As for a difference, on Fisher's z.

    Args:
        correlation: With its interval.
        n: Architectures that it rests on, at least 3.
        threshold: In (-1, 1).
        confidence: Of the interval.

    Returns:
        None if it has no interval, is the threshold itself, or the threshold is nearer to 1 than
        one swap of neighbours among so few.
    """
    swapped = 1 - 12 / (n * (n * n - 1))  # as the interval takes a perfect correlation
    if correlation.low is None or correlation.high is None or abs(threshold) >= swapped:
        return None
    value, low, high = (
        math.atanh(min(max(end, -swapped), swapped))
        for end in (correlation.value, correlation.low, correlation.high)
    )
    return _needed(value, low, high, math.atanh(threshold), n, confidence)


def _needed(
    value: float,
    low: float | None,
    high: float | None,
    threshold: float,
    n: int,
    confidence: float,
) -> Needed | None:
    distance = abs(value - threshold)
    if low is None or high is None or distance < _SAME:
        return None
    reach = (value - low if value > threshold else high - value) / distance
    t = quantile(confidence, n)
    surer = (t + normal_quantile(_POWER)) / t
    return Needed(int(n * reach**2) + 1, int(n * (reach * surer) ** 2) + 1)
