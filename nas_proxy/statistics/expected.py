"""What a sample of a given size will be able to say, before anything of it is measured.

By Fisher's z with the variance (1 + rho^2 / 2) / (n - 3) of Spearman's rho (Bonett and Wright,
"Sample size requirements for estimating Pearson, Kendall and Spearman correlations", Psychometrika
2000), and Student's quantile as in the intervals themselves. Below n = 30 the jackknife's intervals
of a correlation above .9 are a little wider than that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from nas_proxy.statistics.intervals import CONFIDENCE, Ends, normal_quantile, quantile
from nas_proxy.statistics.ranks import MIN_FOR_INTERVAL

_RANKS = 1.06  # times the variance of values: Fieller et al., Biometrika 1957
_POWER = 0.8
_STEP = 0.001  # to which a difference is searched for
_WALKS = 4_000  # which tell a mean size to half an architecture
_MOST = 10_000  # architectures beyond which nobody looks


def expected_interval(rho: float, n: int, confidence: float = CONFIDENCE) -> Ends:
    """The interval of a correlation that comes out as it is.

    Args:
        rho: In (-1, 1).
        n: Architectures, at least 4.
        confidence: Of both sides together.
    """
    middle, half = math.atanh(rho), quantile(confidence, n) * _error(rho, n)
    return math.tanh(middle - half), math.tanh(middle + half)


def chance_above(rho: float, n: int, threshold: float, confidence: float = CONFIDENCE) -> float:
    """With which probability the interval of a true correlation ends above a threshold.

    Args:
        rho: The true one, in (-1, 1).
        n: Architectures; below ten there is no interval, and no chance.
        threshold: In (-1, 1).
        confidence: Of both sides together.
    """
    if n < MIN_FOR_INTERVAL:
        return 0.0
    distance = (math.atanh(rho) - math.atanh(threshold)) / _error(rho, n)
    return _normal_share(distance - quantile(confidence, n))


def needed_above(rho: float, threshold: float, chance: float = _POWER) -> int | None:
    """The fewest architectures whose interval ends above a threshold with this probability.

    Args:
        rho: The true correlation.
        threshold: In (-1, 1).
        chance: The probability.

    Returns:
        None if more than 10,000 are needed, or the correlation is not above the threshold.
    """
    sizes = count(MIN_FOR_INTERVAL)
    found = next(n for n in sizes if n > _MOST or chance_above(rho, n, threshold) >= chance)
    return None if found > _MOST else found


@dataclass(frozen=True)
class ExpectedStop:
    """Where looking again and again is expected to end.

    Attributes:
        size: Of the sample, on average; rounded.
        chance: With which probability the interval ends above the threshold at one of the looks.
    """

    size: int
    chance: float


def expected_stop(
    rho: float, threshold: float, sizes: Sequence[int], confidences: Sequence[float]
) -> ExpectedStop:
    """When a growing sample is expected to settle on which side of a threshold a correlation is.

    Fisher's z, times what is known of it, walks at random as the sample grows; many such walks are
    followed until an interval leaves the threshold out, or the looks end. Real validations take up
    to five more, for intervals of small samples by the jackknife are wider (see above).

    Args:
        rho: The true correlation, in (-1, 1).
        threshold: In (-1, 1).
        sizes: Of the sample at each look, growing.
        confidences: Of the interval at each look, both sides together.
    """
    information = np.array([1 / _error(rho, n) ** 2 for n in sizes])
    drift = math.atanh(rho) - math.atanh(threshold)
    steps = np.diff(information, prepend=0.0)
    noise = np.random.default_rng(0).normal(size=(_WALKS, len(sizes))) * np.sqrt(steps)
    distance = (drift * information + noise.cumsum(axis=1)) / np.sqrt(information)
    bounds = [quantile(c, n) for c, n in zip(confidences, sizes, strict=True)]
    is_out = np.abs(distance) > np.array(bounds)
    ends = np.where(is_out.any(axis=1), is_out.argmax(axis=1), len(sizes) - 1)
    above = is_out.any(axis=1) & (distance[np.arange(_WALKS), ends] > 0)
    return ExpectedStop(round(float(np.array(sizes)[ends].mean())), float(above.mean()))


def smallest_difference(rho: float, n: int, power: float = _POWER) -> float | None:
    """By how much a ranking must be worse than one of rho for a sample to show it.

    Both rank the same architectures against the same reference, and their errors are taken to be
    independent, so that they agree with one another by the product of their correlations. The
    variance is that of two dependent correlations (Olkin and Siotani, 1976) for ranks.

    Args:
        rho: The better ranking's correlation, in (0, 1).
        n: Architectures.
        power: With which probability the interval of the difference excludes zero.

    Returns:
        The difference of the two correlations; None if no ranking with a correlation above -1
        is worse enough, or there is no interval.
    """
    if n < MIN_FOR_INTERVAL:
        return None
    surely = quantile(CONFIDENCE, n) + normal_quantile(power)
    for step in range(1, int((1 + rho) / _STEP)):
        difference = step * _STEP
        if difference >= surely * _difference_error(rho, rho - difference, n):
            return difference
    return None


def _difference_error(one: float, other: float, n: int) -> float:
    """Standard error of the difference of two correlations with the same reference."""
    between = one * other
    covariance = (
        0.5 * (2 * between - one * other) * (1 - one**2 - other**2 - between**2) + between**3
    )
    variance = (1 - one**2) ** 2 + (1 - other**2) ** 2 - 2 * covariance
    return math.sqrt(_RANKS * max(0.0, variance) / (n - 3))


def _error(rho: float, n: int) -> float:
    """Standard error of Fisher's z."""
    return math.sqrt((1 + rho**2 / 2) / (n - 3))


def _normal_share(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))
