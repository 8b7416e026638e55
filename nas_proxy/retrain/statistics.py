"""How sure an accuracy is: over seeds, over test images, and against another network's."""

from __future__ import annotations

from scipy import stats

from nas_proxy.validate.ranks import CONFIDENCE, Estimate
from nas_proxy.worth.accuracy import Figure

_TAIL = (1 + CONFIDENCE) / 2


def over_seeds(figure: Figure) -> Estimate:
    """The mean with Student's interval: what other seeds would give on these test images.

    One seed has no interval; that of others ends at 0 and 1.
    """
    if figure.standard_error is None:
        return Estimate(figure.mean, None, None)
    half = stats.t.ppf(_TAIL, len(figure.values) - 1) * figure.standard_error
    return Estimate(figure.mean, max(0.0, figure.mean - half), min(1.0, figure.mean + half))


def over_images(num_correct: int, num_images: int) -> Estimate:
    """The share with Wilson's interval: what one network would reach on other test images.

    Args:
        num_correct: Images whose class was found.
        num_images: At least one.
    """
    found = stats.binomtest(num_correct, num_images).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(num_correct / num_images, float(found.low), float(found.high))


def difference(first: Figure, second: Figure) -> Estimate:
    """The first mean minus the second, with Welch's interval over seeds.

    There is none where one of them has a single seed.
    """
    apart = first.minus(second)
    if apart.standard_error is None:
        return Estimate(apart.mean, None, None)
    if apart.standard_error == 0:
        return Estimate(apart.mean, apart.mean, apart.mean)
    half = stats.t.ppf(_TAIL, _welch_freedom(first, second)) * apart.standard_error
    return Estimate(apart.mean, apart.mean - half, apart.mean + half)


def _welch_freedom(first: Figure, second: Figure) -> float:
    """Degrees of freedom by Welch and Satterthwaite; some standard error is not zero."""
    pairs = [((f.standard_error or 0.0) ** 2, len(f.values) - 1) for f in (first, second)]
    total = sum(variance for variance, _ in pairs)
    return total**2 / sum(variance**2 / freedom for variance, freedom in pairs)


def percent(found: Estimate) -> str:
    """An accuracy such as `97.2 % [96.0, 98.1]`."""
    if found.low is None or found.high is None:
        return f"{100 * found.value:.1f} % (no interval)"
    return f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"
