"""Whether a score that predicts the reference states its uncertainty rightly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from nas_proxy.errors import required
from nas_proxy.statistics.intervals import wilson
from nas_proxy.statistics.ranks import MIN_ARCHITECTURES, Estimate, Values

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SHOWN_LEVELS = (0.5, 0.8, 0.95)  # where there is no room for all of them
_JUDGED_LEVEL = 0.8  # further out there are too few misses to count, further in too few to matter


@dataclass(frozen=True)
class Coverage:
    """How many references lie within intervals that should hold a given share of them.

    Attributes:
        expected: The share that is promised, in (0, 1).
        observed: The share that is found, with Wilson's 95 % interval.
    """

    expected: float
    observed: Estimate


@dataclass(frozen=True)
class Uncertainty:
    """Predictions and their stated standard deviations against the references.

    Attributes:
        n: Architectures that have all three.
        coverage: One for each of `LEVELS`.
        stated_deviation: Root mean square of the stated deviations, in the predictions' unit.
        error: Root mean square of the predictions' errors; as large if the deviations are right.
        words: What follows, one sentence.
    """

    n: int
    coverage: tuple[Coverage, ...]
    stated_deviation: float
    error: float
    words: str


def check_uncertainty(
    predictions: Values, deviations: Values, reference: Values
) -> Uncertainty | None:
    """Count how often the reference lies where the predictions say.

    A prediction and its deviation are read as a normal distribution: the interval of a level p is
    the prediction plus and minus as many deviations as hold p of it.

    Args:
        predictions: `(n,)`.
        deviations: `(n,)`, standard deviations, not negative.
        reference: `(n,)`, in the same unit as both.

    Returns:
        None below three architectures.
    """
    n = len(reference)
    if n < MIN_ARCHITECTURES:
        return None
    errors = np.abs(predictions - reference)
    coverage = tuple(
        Coverage(level, _share(int((errors <= _reach(level) * deviations).sum()), n))
        for level in LEVELS
    )
    return Uncertainty(
        n=n,
        coverage=coverage,
        stated_deviation=float(np.sqrt((deviations**2).mean())),
        error=float(np.sqrt((errors**2).mean())),
        words=_in_words(coverage, n),
    )


def _reach(level: float) -> float:
    """How many standard deviations to both sides of its mean hold this share of a normal."""
    return NormalDist().inv_cdf((1 + level) / 2)


def _share(count: int, n: int) -> Estimate:
    return Estimate(count / n, *wilson(count, n))


def _in_words(coverage: Sequence[Coverage], n: int) -> str:
    judged = next(entry for entry in coverage if entry.expected == _JUDGED_LEVEL)
    low = required(judged.observed.low, "the lower limit")
    high = required(judged.observed.high, "the upper limit")
    verdict = "The stated uncertainty is borne out"
    if high < judged.expected:
        verdict = "The score is surer of itself than it may be"
    elif low > judged.expected:
        verdict = "The score is more cautious than it need be"
    return (
        f"{verdict}: its {_percent(judged.expected)} % intervals hold "
        f"{_percent(judged.observed.value)} % [{_percent(low)}, {_percent(high)}] of the "
        f"references (n = {n})."
    )


def _percent(share: float) -> int:
    return round(100 * share)
