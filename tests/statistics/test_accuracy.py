"""Intervals against SciPy's own, computed another way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas_proxy.statistics.accuracy import SeedMean, difference, over_images, over_seeds, percent
from nas_proxy.statistics.ranks import Estimate

ACCURACIES = st.lists(st.floats(0.1, 0.99), min_size=2, max_size=6).filter(
    lambda values: np.std(values) > 1e-3
)


@given(ACCURACIES.filter(lambda values: len(values) > 2))
def test_over_seeds_is_students_interval(values: list[float]) -> None:
    found = over_seeds(SeedMean.of(values))
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert found.value == pytest.approx(np.mean(values))
    assert found.low == pytest.approx(max(0.0, expected.low))
    assert found.high == pytest.approx(min(1.0, expected.high))


@given(ACCURACIES, ACCURACIES)
def test_difference_is_welchs_interval(first: list[float], second: list[float]) -> None:
    found = difference(SeedMean.of(first), SeedMean.of(second))
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    other = difference(SeedMean.of(second), SeedMean.of(first))
    assert other.value == pytest.approx(-found.value)
    assert other.low == pytest.approx(-found.high)  # type: ignore[operator]


@given(st.integers(0, 300), st.integers(1, 300))
def test_over_images_is_wilsons_interval(num_correct: int, num_images: int) -> None:
    num_correct = min(num_correct, num_images)
    found = over_images(num_correct, num_images)
    z, share = stats.norm.ppf(0.975), num_correct / num_images
    centre = (share + z**2 / (2 * num_images)) / (1 + z**2 / num_images)
    spread = share * (1 - share) / num_images + z**2 / (4 * num_images**2)
    half = z / (1 + z**2 / num_images) * np.sqrt(spread)
    ends = (max(0, centre - half), min(1, centre + half))
    assert (found.low, found.high) == pytest.approx(ends, abs=1e-9)


def test_one_seed_has_no_interval() -> None:
    one, two = SeedMean.of([0.9]), SeedMean.of([0.8, 0.9])
    assert over_seeds(one) == Estimate(0.9, None, None)
    assert difference(one, two).low is None
    assert difference(two, one).high is None
    assert percent(over_seeds(one)) == "90.0 % (no interval)"


def test_seeds_that_agree_exactly_show_nothing_of_others() -> None:
    same = SeedMean.of([0.9, 0.9, 0.9])
    assert over_seeds(same) == Estimate(0.9, None, None)
    assert difference(same, SeedMean.of([0.8, 0.8, 0.8])).low is None


def test_two_seeds_have_no_interval_but_may_be_told_from_two_others() -> None:
    assert over_seeds(SeedMean.of([0.3, 0.5])) == Estimate(0.4, None, None)
    assert difference(SeedMean.of([0.3, 0.5]), SeedMean.of([0.8, 0.9])).low is not None


def test_students_interval_ends_at_0_and_100() -> None:
    assert percent(over_seeds(SeedMean.of([0.1, 0.5, 0.9]))) == "50.0 % [0.0, 100.0]"
    assert percent(over_seeds(SeedMean.of([0.97, 0.98, 0.99]))) == "98.0 % [95.5, 100.0]"
    assert percent(over_seeds(SeedMean.of([0.01, 0.02, 0.03]))) == "2.0 % [0.0, 4.5]"
