"""Looks at a growing sample: error over all of them, against theory and simulation."""

import numpy as np
import pytest
from scipy import special, stats

from nas_proxy.statistics.intervals import CONFIDENCE
from nas_proxy.statistics.ranks import estimate, spearman
from nas_proxy.statistics.sequential import (
    ERROR,
    FIRST_LOOK,
    crossing_bounds,
    look_confidences,
    look_sizes,
    spent,
)
from nas_proxy.validate import settings


def test_sizes_grow_to_the_maximum_and_a_larger_one_goes_through_the_same():
    for maximum in (12, 13, 40, 72, 100, 1000):
        sizes = look_sizes(maximum)
        assert (sizes[0], sizes[-1]) == (FIRST_LOOK, maximum)
        assert np.all(np.diff(sizes) > 0)
        assert sizes[:-1] == look_sizes(2000)[: len(sizes) - 1]


def test_no_confidence_depends_on_the_maximum():
    few, many = look_confidences(look_sizes(72)), look_confidences(look_sizes(100))
    assert few == pytest.approx(many[: len(few)])
    assert all(CONFIDENCE < each < 1 for each in many)


def test_bounds_are_those_of_the_published_table():
    """Lan and DeMets' O'Brien-Fleming function, five equal looks, 2.5 % to one side."""
    share = [2 * stats.norm.sf(2.2414 / np.sqrt(each / 5)) for each in range(1, 6)]
    found = crossing_bounds([1, 2, 3, 4, 5], np.diff([0, *share]).tolist())
    assert found == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=2e-3)


def test_a_random_walk_crosses_as_often_as_is_spent():
    sizes = look_sizes(60)
    bounds = special.ndtri((1 + np.array(look_confidences(sizes))) / 2)
    information = np.array(sizes) - 3.0
    steps = np.random.default_rng(0).normal(size=(40_000, len(sizes)))
    walks = np.cumsum(steps * np.sqrt(np.diff([0, *information])), axis=1)
    crossed = (walks / np.sqrt(information) > bounds).any(axis=1).mean()
    assert crossed == pytest.approx(ERROR * spent(60), abs=3 * np.sqrt(ERROR / 40_000))


def test_what_is_spent_grows_and_never_reaches_all():
    shares = [spent(size) for size in (12, 20, 100, 10_000)]
    assert 0 < shares[0] < shares[1] < shares[2] < shares[3] < 1


def test_intervals_over_all_looks_hold_the_truth():
    """Further populations and 2,000 samples each: `benchmarks/sequential_coverage.py`."""
    rho, sizes, rng = 0.7, look_sizes(24), np.random.default_rng(3)
    pearson = 2 * np.sin(np.pi / 6 * rho)
    missed = 0
    for _ in range(60):
        reference, noise = rng.normal(size=(2, sizes[-1]))
        scores = pearson * reference + np.sqrt(1 - pearson**2) * noise
        looks = zip(sizes, look_confidences(sizes), strict=True)
        found = [estimate(spearman, scores[:n], reference[:n], confidence=c) for n, c in looks]
        assert all(each.low <= each.value <= each.high for each in found)
        missed += any(not each.low <= rho <= each.high for each in found)
    assert missed <= 8  # 5 % are 3; more than 8 have a chance of .2 %


def test_the_first_look_is_the_one_that_configurations_are_read_with():
    assert settings.FIRST_LOOK == FIRST_LOOK
