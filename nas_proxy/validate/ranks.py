"""Rank statistics between a score and a reference, with bootstrap intervals.

Every function takes scores and reference values along the last axis, higher is better, and works
on stacks of resamples at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]
Statistic = Callable[[Values, Values], Values]

CONFIDENCE = 0.95
MIN_ARCHITECTURES = 3  # below it a correlation says nothing
MIN_FOR_INTERVAL = 6  # below it the bootstrap's few different resamples make any interval a fiction


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval.

    Attributes:
        value: On the sample itself.
        low: Lower end of the interval; None where no interval can be given.
        high: Upper end.
    """

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """As in `.81 [.70, .88]`."""
        if self.low is None or self.high is None:
            return f"{decimal(self.value)} (no interval)"
        return f"{decimal(self.value)} [{decimal(self.low)}, {decimal(self.high)}]"


def decimal(value: float) -> str:
    """Two decimals without a leading zero: `.81`, `-.05`, `1.00`."""
    text = f"{round(value, 2) + 0.0:.2f}"  # plus zero: no -.00
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def spearman(scores: Values, reference: Values) -> Values:
    """Spearman's rho; ties get their mean rank; NaN where one side is constant."""
    x, y = stats.rankdata(scores, axis=-1), stats.rankdata(reference, axis=-1)
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    norm = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    return _divide((x * y).sum(axis=-1), norm)


def kendall(scores: Values, reference: Values) -> Values:
    """Kendall's tau-b, which corrects for ties; NaN where one side is constant."""
    x = np.sign(scores[..., :, None] - scores[..., None, :])
    y = np.sign(reference[..., :, None] - reference[..., None, :])
    norm = np.sqrt((x * x).sum(axis=(-2, -1)) * (y * y).sum(axis=(-2, -1)))
    return _divide((x * y).sum(axis=(-2, -1)), norm)


def precision_at(k: int) -> Statistic:
    """Share of the k best by score that are among the k best by reference."""

    def statistic(scores: Values, reference: Values) -> Values:
        picked, best = _best(scores, k), _best(reference, k)
        shared: Values = (picked[..., :, None] == best[..., None, :]).sum(axis=(-2, -1)) / k
        return shared

    return statistic


def regret_at(k: int) -> Statistic:
    """What is lost by training only the k best by score: in the unit of the reference."""

    def statistic(scores: Values, reference: Values) -> Values:
        reached = np.take_along_axis(reference, _best(scores, k), axis=-1).max(axis=-1)
        lost: Values = reference.max(axis=-1) - reached
        return lost

    return statistic


def estimate(
    statistic: Statistic,
    scores: Values,
    reference: Values,
    *,
    num_resamples: int,
    rng: np.random.Generator,
) -> Estimate | None:
    """A statistic with its percentile bootstrap interval over architectures.

    Args:
        statistic: One of this module's.
        scores: `(n,)`, or `(m, n)` for a statistic of several scores; all finite.
        reference: `(n,)`, of the same architectures.
        num_resamples: Of the architectures, not of seeds.
        rng: The only source of randomness.

    Returns:
        None if there are fewer than three architectures or the statistic is not defined on them
        (a score that is the same for all ranks nothing). No interval below six architectures.
    """
    if reference.shape[-1] < MIN_ARCHITECTURES:
        return None
    value = float(statistic(scores, reference))
    if not np.isfinite(value):
        return None
    if reference.shape[-1] < MIN_FOR_INTERVAL:
        return Estimate(value, None, None)

    def resampled(indices: Values, axis: int = -1) -> Values:
        chosen = indices.astype(np.intp)
        return statistic(scores[..., chosen], reference[chosen])

    with warnings.catch_warnings():  # a constant distribution is an answer here, not a fault
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        distribution = stats.bootstrap(
            (np.arange(reference.shape[-1]),),
            resampled,
            n_resamples=num_resamples,
            batch=max(1, 4_000_000 // reference.shape[-1] ** 2),  # tau needs n x n numbers each
            method="percentile",
            rng=rng,
        ).bootstrap_distribution
    defined = distribution[np.isfinite(distribution)]  # a resample may repeat one architecture
    if len(defined) < num_resamples / 2:
        return Estimate(value, None, None)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def spearman_difference(scores: Values, reference: Values) -> Values:
    """Rho of the first score minus rho of the second; `scores` is `(2, ..., n)`."""
    return spearman(scores[0], reference) - spearman(scores[1], reference)


def num_architectures_to_tell(difference: Estimate, n: int) -> int | None:
    """How many architectures would make the interval of a difference of this size exclude zero.

    Its end that faces zero comes nearer with the square root of n. None if the difference is zero.
    """
    if difference.low is None or difference.high is None or difference.value == 0:
        return None
    value = abs(difference.value)
    reach = value - difference.low if difference.value > 0 else value + difference.high
    return int(n * (reach / value) ** 2) + 1


def _best(values: Values, k: int) -> NDArray[np.intp]:
    """Indices of the k largest; ties go to the earlier, and the order of drawing is random."""
    return np.argsort(-values, axis=-1, kind="stable")[..., :k]


def _divide(numerator: Values, denominator: Values) -> Values:
    with np.errstate(invalid="ignore", divide="ignore"):
        quotient: Values = numerator / denominator
    return quotient
