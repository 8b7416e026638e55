"""Looking again and again at a growing sample, with an interval that holds over all looks.

At each look the interval has a confidence of its own, so high that the chance that any of the looks
misses stays what one look alone may have (repeated confidence intervals; Jennison and Turnbull,
"Interim analyses: the repeated confidence interval approach", JRSS B 1989). The chance of error is
spent look by look (Lan and DeMets, "Discrete sequential boundaries for clinical trials", Biometrika
1983), here by how large the sample is and not by which share of some maximum it is: no confidence
depends on the maximum, which may therefore be raised when nothing is settled yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import scipy

from nas_proxy.statistics.intervals import Values, normal_quantile

FIRST_LOOK = 12  # members of the sample; an interval of fewer is too wide to settle anything
_STEP, _GROWTH = 2, 8  # from look to look: two more, or an eighth
# To each side. Of small samples Student's t of a jackknife errs more often than it says: with these
# 1.75 %, what is exactly at a threshold is taken for better in 1.4 to 2.5 % of cases
# (results/benchmarks/sequential_coverage.json).
ERROR = 0.0175
_UNSPENT = 10.0  # at n, this share of n is left of it
_LOST = 3  # members that Fisher's z of a correlation loses
_FARTHEST = 8.0  # standard deviations
_PLACES, _WEIGHTS = np.polynomial.legendre.leggauss(160)


def look_sizes(maximum: int) -> tuple[int, ...]:
    """Sizes of the sample at which it is looked at: 12, then two or an eighth more each time.

    Args:
        maximum: The last look's, at least 12.
    """
    sizes = [FIRST_LOOK]
    while sizes[-1] < maximum:
        sizes.append(min(sizes[-1] + max(_STEP, sizes[-1] // _GROWTH), maximum))
    return tuple(sizes)


def spent(size: int) -> float:
    """Share of the chance of error that is spent when the sample has this size, in (0, 1)."""
    return 1 - _UNSPENT / size


@cache
def look_confidences(sizes: tuple[int, ...]) -> tuple[float, ...]:
    """Of the interval at each look, both sides together.

    Args:
        sizes: Of the sample at each look, growing, at least 12.
    """
    return spending_confidences(sizes, spent, ERROR)


def spending_confidences(
    sizes: Sequence[int], share: Callable[[int], float], error: float
) -> tuple[float, ...]:
    """The same for any way to spend a chance of error.

    Args:
        sizes: Of the sample at each look, growing.
        share: What is spent of the error when the sample has a size, growing, from 0 to 1.
        error: To one side, over all looks.
    """
    errors = np.diff([0.0, *(error * share(size) for size in sizes)])
    bounds = crossing_bounds([size - _LOST for size in sizes], errors.tolist())
    return tuple(1 - 2 * float(scipy.special.ndtr(-bound)) for bound in bounds)


def crossing_bounds(information: Sequence[float], errors: Sequence[float]) -> list[float]:
    """How far a normal statistic may go at each look before it counts as an error.

    By recursive numerical integration (Armitage, McPherson and Rowe, "Repeated significance tests
    on accumulating data", JRSS A 1969): the statistic times the root of the information is a random
    walk, whose density is followed where no look has gone too far yet.

    Args:
        information: At each look, growing; one over the variance, up to a factor.
        errors: Chance that a look is the first to go too far, to one side.

    Returns:
        In standard deviations, one for each look.
    """
    found = [-normal_quantile(errors[0])]
    places, weights = _nodes(found[0])
    inside = _normal_density(places) * weights  # where no look has gone too far yet
    for before, now, error in zip(information, information[1:], errors[1:], strict=False):
        # The statistic is a share of the last one and what is new.
        kept, new = np.sqrt(before / now), np.sqrt(1 - before / now)

        def excess(bound: float) -> float:
            beyond = inside @ scipy.special.ndtr((kept * places - bound) / new)  # noqa: B023
            return float(beyond - error)  # noqa: B023

        found.append(float(scipy.optimize.brentq(excess, 0.0, _FARTHEST)))
        nodes, weights = _nodes(found[-1])
        steps = (nodes[:, None] - kept * places) / new
        places, inside = nodes, _normal_density(steps) @ inside / new * weights
    return found


def _nodes(bound: float) -> tuple[Values, Values]:
    """Places below a bound and their weights in an integral (Gauss and Legendre)."""
    half = (bound + _FARTHEST) / 2
    return half * (_PLACES + 1) - _FARTHEST, half * _WEIGHTS


def _normal_density(values: Values) -> Values:
    density: Values = np.exp(-(values**2) / 2) / np.sqrt(2 * np.pi)
    return density
