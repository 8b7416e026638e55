"""Accuracies with what is known of their noise: over seeds, over test images, against another's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from nas_proxy.statistics.intervals import CONFIDENCE, wilson
from nas_proxy.statistics.ranks import Estimate

_TAIL = (1 + CONFIDENCE) / 2
_MIN_SEEDS = 3  # two that are a tenth apart have an interval from 0 to 1


@dataclass(frozen=True)
class SeedMean:
    """A mean over seeds.

    Attributes:
        mean: In [0, 1] for an accuracy; a difference of such otherwise.
        standard_error: Of the mean; None with fewer than two values.
        values: What it is the mean of; empty for a difference.
    """

    mean: float
    standard_error: float | None
    values: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: Sequence[float]) -> SeedMean:
        """The mean of at least one value."""
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        if len(set(values)) == 1:  # not the 1e-17 that rounding leaves
            spread = spread and 0.0
        error = None if spread is None else spread / math.sqrt(len(values))
        return cls(float(np.mean(values)), error, tuple(values))

    def minus(self, other: SeedMean) -> SeedMean:
        """The difference of two independent means."""
        errors = (self.standard_error, other.standard_error)
        known = [error for error in errors if error is not None]
        error = math.hypot(*known) if len(known) == 2 else None
        return SeedMean(self.mean - other.mean, error)


def over_seeds(figure: SeedMean) -> Estimate:
    """The mean with Student's interval: what other seeds would give on these test images.

    There is none below three seeds, nor where all reach the same, which shows nothing of others;
    it ends at 0 and 1.
    """
    if len(figure.values) < _MIN_SEEDS or not figure.standard_error:
        return Estimate(figure.mean, None, None)
    half = scipy.stats.t.ppf(_TAIL, len(figure.values) - 1) * figure.standard_error
    return Estimate(figure.mean, max(0.0, figure.mean - half), min(1.0, figure.mean + half))


def over_images(num_correct: int, num_images: int) -> Estimate:
    """The share with Wilson's interval: what one network would reach on other test images.

    Args:
        num_correct: Images whose class was found.
        num_images: At least one.
    """
    return Estimate(num_correct / num_images, *wilson(num_correct, num_images))


def difference(first: SeedMean, second: SeedMean) -> Estimate:
    """The first mean minus the second, with Welch's interval over seeds.

    There is none where one of them has a single seed, nor where no seed differs from another.
    """
    apart = first.minus(second)
    if not apart.standard_error:
        return Estimate(apart.mean, None, None)
    half = scipy.stats.t.ppf(_TAIL, _welch_freedom(first, second)) * apart.standard_error
    return Estimate(apart.mean, apart.mean - half, apart.mean + half)


def _welch_freedom(first: SeedMean, second: SeedMean) -> float:
    """Degrees of freedom by Welch and Satterthwaite; some standard error is not zero."""
    pairs = [((f.standard_error or 0.0) ** 2, len(f.values) - 1) for f in (first, second)]
    total = sum(variance for variance, _ in pairs)
    return total**2 / sum(variance**2 / freedom for variance, freedom in pairs)


def percent(found: Estimate) -> str:
    """An accuracy such as `97.2 % [96.0, 98.1]`."""
    if found.low is None or found.high is None:
        return f"{100 * found.value:.1f} % (no interval)"
    return f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"
