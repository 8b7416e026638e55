"""Rank statistics between a score and a reference, with their intervals.

Every statistic takes scores and reference values along the last axis, higher is better, and works
on stacks of samples at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
from numpy.typing import NDArray

from nas_proxy.statistics.intervals import CONFIDENCE, Ends, fisher, jackknife, wilson
from nas_proxy.statistics.intervals import Values as Values  # offered here, where it is used most
from nas_proxy.statistics.words import decimal

Function = Callable[[Values, Values], Values]
Interval = Callable[[float, Values, float], Ends]  # value, values without each one, confidence

MIN_ARCHITECTURES = 3  # below it a correlation says nothing
MIN_FOR_INTERVAL = 10  # below it no interval holds what it promises
_BATCH = 4_000_000  # numbers at once
_COLLINEAR = 1e-10  # share of a sum of squares that is rounding: one swap among 1,000 leaves more


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
        """As in `.81 [.70, .88]`; an interval never reads as a point: `1.00 [.99, 1.00]`."""
        if self.low is None or self.high is None:
            return f"{decimal(self.value)} (no interval)"
        low, high = decimal(self.low), decimal(self.high)
        if low == high and self.low < self.high:
            low = decimal(math.floor(100 * self.low) / 100)
        return f"{decimal(self.value)} [{low}, {high}]"


@dataclass(frozen=True)
class Statistic:
    """A figure of a ranking, and the interval that holds for it.

    Attributes:
        function: Takes scores, `(..., n)`, or `(m, ..., n)` for a statistic of several, and the
            reference, `(..., n)`; NaN where it is not defined.
        interval: None if no interval is known that holds what it promises.
        without_each: The figure without each architecture, `(n,)`, of scores `(n,)` or `(m, n)`;
            None: `function`, n times.
    """

    function: Function
    interval: Interval | None
    without_each: Function | None = None

    def __call__(self, scores: Values, reference: Values) -> Values:
        """The figure of each sample of a stack."""
        return self.function(scores, reference)

    def left_out(self, scores: Values, reference: Values) -> Values:
        """The figure of one sample without each of its architectures, `(n,)`."""
        if self.without_each is not None:
            return self.without_each(scores, reference)
        n = reference.shape[-1]
        others = np.arange(n - 1)
        found = []
        for lacking in np.array_split(np.arange(n), -(-n * n // _BATCH)):
            kept = others + (others >= lacking[:, None])
            found.append(self.function(scores[..., kept], reference[kept]))
        return np.concatenate(found)


@dataclass(frozen=True)
class _Fisher:
    """See `intervals.fisher`.

    Attributes:
        one_swap: What one swap of neighbours takes from the perfect correlation of n without ties.
        least_spread: See there.
        among_ties: What it takes from Spearman's rho of the sample at least, where ties make
            neighbours lie further apart.
    """

    one_swap: Callable[[float], float]
    least_spread: float
    among_ties: float = 0.0

    def __call__(self, value: float, left_out: Values, confidence: float) -> Ends:
        n = len(left_out)
        limits = [1 - max(self.one_swap(num), self.among_ties) for num in (n, n - 1)]
        return fisher(
            value,
            left_out,
            limits=(limits[0], limits[1]),
            least_spread=self.least_spread,
            confidence=confidence,
        )

    def on(self, scores: Values, reference: Values) -> _Fisher:
        """The interval that counts the ties of a sample, `(n,)` each."""
        sides = [_centred_ranks(scores), _centred_ranks(reference)]
        gaps = [np.diff(np.unique(side)).min() for side in sides]
        spreads = [np.sqrt((side**2).sum()) for side in sides]
        return replace(self, among_ties=float(np.prod(gaps) / np.prod(spreads)))


def _spearman(scores: Values, reference: Values) -> Values:
    return _correlation(_centred_ranks(scores), _centred_ranks(reference))


_RHO = _Fisher(lambda n: 12 / (n * (n * n - 1)), least_spread=0.7)

spearman = Statistic(_spearman, _RHO)
"""Spearman's rho; ties get their mean rank; NaN where one side is constant."""


def spearman_within(strata: Sequence[int]) -> Statistic:
    """Correlation of ranks that are taken within each stratum; of a single one Spearman's rho.

    Strata may have been measured on different scales: an architecture is compared with those of
    its own stratum alone. NaN where one side is constant within each of them.

    Args:
        strata: Their lengths, in the order of the last axis.
    """
    starts, total = np.cumsum(strata)[:-1], sum(strata)

    def ranked(values: Values) -> Values:
        parts = np.split(values, starts, axis=-1)
        return np.concatenate([_centred_ranks(p) for p in parts if p.shape[-1]], axis=-1)

    def without_each(scores: Values, reference: Values) -> Values:
        found = []
        for position in range(total):
            kept = np.delete(np.arange(total), position)
            stratum = int(np.searchsorted(starts, position, side="right"))
            fewer = [num - (each == stratum) for each, num in enumerate(strata)]
            found.append(spearman_within(fewer)(scores[kept], reference[kept]))
        return np.array(found)

    def one_swap(n: float) -> float:
        lengths = [num * n / total for num in strata]
        return 12 / sum(num * (num * num - 1) for num in lengths)

    return Statistic(
        lambda scores, reference: _correlation(ranked(scores), ranked(reference)),
        _Fisher(one_swap, least_spread=0.7),
        without_each,
    )


def _kendall(scores: Values, reference: Values) -> Values:
    return _tau(*(sums.sum(axis=-1) for sums in _agreements(scores, reference)))


def _kendall_without_each(scores: Values, reference: Values) -> Values:
    """Every pair that an architecture is part of stands twice in the sum over all."""
    return _tau(*(sums.sum() - 2 * sums for sums in _agreements(scores, reference)))


def _agreements(scores: Values, reference: Values) -> list[Values]:
    """Of each architecture with all others: agreements of both sides, and ties on either."""
    x = np.sign(scores[..., :, None] - scores[..., None, :])
    y = np.sign(reference[..., :, None] - reference[..., None, :])
    return [(x * y).sum(axis=-1), (x * x).sum(axis=-1), (y * y).sum(axis=-1)]


def _tau(both: Values, first: Values, second: Values) -> Values:
    return _divide(both, np.sqrt(first * second))


kendall = Statistic(
    _kendall, _Fisher(lambda n: 4 / (n * (n - 1)), least_spread=0.45), _kendall_without_each
)
"""Kendall's tau-b, which corrects for ties; NaN where one side is constant."""


def precision_at(k: int) -> Statistic:
    """Share of the k best by score that are among the k best by reference."""

    def statistic(scores: Values, reference: Values) -> Values:
        picked, best = _best(scores, k), _best(reference, k)
        shared: Values = (picked[..., :, None] == best[..., None, :]).sum(axis=(-2, -1)) / k
        return shared

    return Statistic(
        statistic, lambda value, left_out, confidence: wilson(round(value * k), k, confidence)
    )


def regret_at(k: int) -> Statistic:
    """What is lost by training only the k best by score: in the unit of the reference.

    It has no interval: a maximum is no smooth function of the sample, and no part of a sample
    holds anything better than its best (`benchmarks/interval_coverage.py`).
    """

    def statistic(scores: Values, reference: Values) -> Values:
        reached = np.take_along_axis(reference, _best(scores, k), axis=-1).max(axis=-1)
        lost: Values = reference.max(axis=-1) - reached
        return lost

    return Statistic(statistic, None)


def ndcg_at(k: int) -> Statistic:
    """Normalised discounted cumulative gain of the k best by score: are the best ones first?

    The gain of an architecture is its rank by reference, 0 for the worst and 1 for the best, with
    the mean rank for ties; position j counts `1 / log2(1 + j)`; the order of the reference itself
    has 1. A random order has about one half, not 0. NaN where the reference is constant. It has no
    interval: the jackknife's is too narrow on small samples.
    """
    discounts = 1 / np.log2(np.arange(2, k + 2))

    def statistic(scores: Values, reference: Values) -> Values:
        last = np.array(reference.shape[-1] - 1.0)
        gains = _divide(scipy.stats.rankdata(reference, axis=-1) - 1, last)
        reached, possible = (
            (np.take_along_axis(gains, _best(values, k), axis=-1) * discounts).sum(axis=-1)
            for values in (scores, reference)
        )
        differs = reference.max(axis=-1) > reference.min(axis=-1)
        return np.where(differs, _divide(reached, possible), np.nan)

    return Statistic(statistic, None)


def _partial_spearman(values: Values, reference: Values) -> Values:
    """Spearman's rho between a score and the reference at equal covariates, such as size.

    Everything is turned into ranks (so the covariates' logarithms would give the same), what a
    linear function of the covariates' ranks explains is taken away from both sides, and the rests
    are correlated. Covariates that say the same count once; a constant one is no covariate.

    Args:
        values: The score and then its covariates, `(1 + num_covariates, ..., n)`.
        reference: `(..., n)`.

    Returns:
        NaN where the covariates determine the score or the reference, and where fewer than three
        more architectures than covariates leave nothing to correlate.
    """
    sides = np.stack([_centred_ranks(values[0]), _centred_ranks(reference)], axis=-1)
    covariates = np.moveaxis(_centred_ranks(values[1:]), 0, -1)
    n, num_covariates = covariates.shape[-2:]
    if n < num_covariates + 3:
        return np.full(sides.shape[:-2], np.nan)
    transposed = np.swapaxes(covariates, -1, -2)
    inverse = np.linalg.pinv(transposed @ covariates, rcond=_COLLINEAR, hermitian=True)
    rests = sides - covariates @ (inverse @ (transposed @ sides))
    left, total = (rests**2).sum(axis=-2), (sides**2).sum(axis=-2)
    left = np.where(left > _COLLINEAR * total, left, np.nan)
    return _divide(rests.prod(axis=-1).sum(axis=-1), np.sqrt(left.prod(axis=-1)))


partial_spearman = Statistic(_partial_spearman, _RHO)


def difference_of(statistic: Statistic) -> Statistic:
    """The statistic of the first of two scores minus that of the second; they are `(2, ..., n)`."""

    def of(function: Function) -> Function:
        return lambda scores, reference: (
            function(scores[0], reference) - function(scores[1], reference)
        )

    return Statistic(
        of(statistic),
        jackknife,
        of(statistic.left_out),
    )


spearman_difference = difference_of(spearman)


def estimate(
    statistic: Statistic, scores: Values, reference: Values, *, confidence: float = CONFIDENCE
) -> Estimate | None:
    """A statistic with its interval over architectures, which the sample alone decides.

    Args:
        statistic: One of this module's.
        scores: `(n,)`, or `(m, n)` for a statistic of several; all finite.
        reference: `(n,)`, of the same architectures.
        confidence: Of the interval, both sides together.

    Returns:
        None if there are fewer than three architectures or the statistic is not defined on them
        (a score that is the same for all ranks nothing). No interval below ten architectures,
        where the statistic has none, or is not defined without one of them.
    """
    if reference.shape[-1] < MIN_ARCHITECTURES:
        return None
    value = float(statistic(scores, reference))
    if not np.isfinite(value):
        return None
    if statistic.interval is None or reference.shape[-1] < MIN_FOR_INTERVAL:
        return Estimate(value, None, None)
    left_out = statistic.left_out(scores, reference)
    if not np.isfinite(left_out).all():
        return Estimate(value, None, None)
    interval = statistic.interval
    if isinstance(interval, _Fisher):
        interval = interval.on(scores, reference)
    return Estimate(value, *interval(value, left_out, confidence))


def resampled(
    statistic: Function,
    scores: Values,
    reference: Values,
    *,
    num_resamples: int,
    rng: np.random.Generator,
    strata: Sequence[int] = (),
) -> Values:
    """A statistic on architectures that are drawn with replacement, as many as there are.

    Args:
        statistic: One of this module's.
        scores: `(n,)`, or `(m, n)` for a statistic of several.
        reference: `(n,)`, of the same architectures.
        num_resamples: How often they are drawn.
        rng: The only source of randomness; equal states draw the same architectures.
        strata: Lengths of parts in the order of the last axis, each of which is drawn from by
            itself; empty for one that holds all.

    Returns:
        `(num_resamples,)`, NaN where the statistic is not defined on what was drawn.
    """
    n = reference.shape[-1]
    lengths = strata or (n,)
    batch = max(1, _BATCH // n**2)  # tau needs n x n numbers each
    found = []
    for start in range(0, num_resamples, batch):
        size = min(batch, num_resamples - start)
        drawn = [rng.integers(0, length, (size, length)) for length in lengths]
        firsts = np.cumsum([0, *lengths[:-1]])
        chosen = np.concatenate([i + first for i, first in zip(drawn, firsts, strict=True)], axis=1)
        found.append(statistic(scores[..., chosen], reference[chosen]))
    return np.concatenate(found)


def num_best(fraction: float, n: int) -> int:
    """How many architectures the best part of n holds: at least one."""
    return max(1, round(fraction * n))


def _best(values: Values, k: int) -> NDArray[np.intp]:
    """Indices of the k largest; ties go to the earlier, and the order of drawing is random."""
    return np.argsort(-values, axis=-1, kind="stable")[..., :k]


def _centred_ranks(values: Values) -> Values:
    ranks = scipy.stats.rankdata(values, axis=-1)
    centred: Values = ranks - ranks.mean(axis=-1, keepdims=True)
    return centred


def _correlation(x: Values, y: Values) -> Values:
    """Of values whose mean is zero; NaN where one side is constant."""
    norm = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    return _divide((x * y).sum(axis=-1), norm)


def _divide(numerator: Values, denominator: Values) -> Values:
    with np.errstate(invalid="ignore", divide="ignore"):
        quotient: Values = numerator / denominator
    return quotient
