"""Intervals that follow from the sample alone: from no seed, no resamples and no order of rows.

Each takes a figure of a whole sample, and most of them what the figure is without each member
(the jackknife; Tukey, "Bias and confidence in not-quite large samples", 1958).
"""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import NDArray

Values = NDArray[np.float64]
Ends = tuple[float, float]

CONFIDENCE = 0.95


def jackknife(value: float, left_out: Values, confidence: float = CONFIDENCE) -> Ends:
    """A figure plus and minus Student's t with n - 2 degrees of freedom times its error.

    Args:
        value: Of the whole sample.
        left_out: Without each of its members, `(n,)` with n of at least 3.
        confidence: In (0, 1), of both sides together.
    """
    half = quantile(confidence, len(left_out)) * _standard_error(left_out)
    return value - half, value + half


def fisher(
    value: float,
    left_out: Values,
    *,
    limits: tuple[float, float],
    least_spread: float,
    confidence: float = CONFIDENCE,
) -> Ends:
    """The same on Fisher's z of a correlation, which is nearly normal; it contains the value.

    A sample without any disagreement says that there is little, not that there is none. So its
    correlation counts as what one swap of neighbours would leave, and the error is never taken
    for less than that of a normal population with a high correlation.

    Args:
        value: Of the whole sample, in [-1, 1].
        left_out: Without each of its members, `(n,)` with n of at least 4.
        limits: The correlation after one swap, among n and among n - 1.
        least_spread: The error's lower bound, times the square root of n - 3.
        confidence: In (0, 1), of both sides together.
    """
    n, (whole, fewer) = len(left_out), limits
    error = _standard_error(np.arctanh(np.clip(left_out, -fewer, fewer)))
    error = max(error, least_spread / math.sqrt(n - 3))
    middle, half = math.atanh(min(max(value, -whole), whole)), quantile(confidence, n) * error
    return min(value, math.tanh(middle - half)), max(value, math.tanh(middle + half))


def wilson(count: int, n: int, confidence: float = CONFIDENCE) -> Ends:
    """Of a share of n independent ones, which also holds at none and at all."""
    z, share = normal_quantile((1 + confidence) / 2), count / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    return max(0.0, low), min(1.0, high)


def p_value(value: float, high: float, n: int, confidence: float = CONFIDENCE) -> float:
    """Of a difference that is none, by its `jackknife` interval.

    Args:
        value: The difference.
        high: Upper end of its interval.
        n: Members of the sample.
        confidence: Of the interval.

    Returns:
        The probability of a difference as large, to either side; 1 for no difference at all.
    """
    if value == 0:
        return 1.0
    error = (high - value) / quantile(confidence, n)
    return 2 * float(scipy.special.stdtr(n - 2, -abs(value) / error)) if error else 0.0


def quantile(confidence: float, n: int) -> float:
    """Student's, to both sides, of a sample of n with two parameters."""
    return float(scipy.special.stdtrit(n - 2, (1 + confidence) / 2))


def normal_quantile(probability: float) -> float:
    """What a standard normal value stays below with this probability."""
    return float(scipy.special.ndtri(probability))


def _standard_error(left_out: Values) -> float:
    n = len(left_out)
    return float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()))
