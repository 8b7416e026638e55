"""How many architectures would settle a question, against simulation and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas_proxy.statistics import ranks
from nas_proxy.statistics.needed import Needed, to_reach, to_tell_apart
from nas_proxy.statistics.ranks import Estimate, estimate


@pytest.mark.parametrize(
    ("difference", "n", "even"),
    [
        (Estimate(0.1, -0.1, 0.3), 50, 201),  # twice as far to zero: four times as many
        (Estimate(-0.1, -0.3, 0.1), 50, 201),
        (Estimate(0.1, -0.2, 0.2), 10, 91),
        (Estimate(0.1, -0.01, 0.15), 60, 73),  # lopsided: the end that faces zero counts
        (Estimate(-0.1, -0.7, 0.01), 60, 73),
        (Estimate(0.1, 0.0, 0.2), 60, 61),
    ],
)
def test_to_tell_apart(difference, n, even):
    found = to_tell_apart(difference, n)
    assert found.even == pytest.approx(even, abs=1)
    t = stats.t.ppf(0.975, n - 2)
    assert found.likely == pytest.approx(even * ((t + stats.norm.ppf(0.8)) / t) ** 2, abs=3)


@given(
    value=st.floats(-0.99, 0.99),
    below=st.floats(0.01, 1),
    above=st.floats(0.01, 1),
    threshold=st.floats(-0.99, 0.99),
    n=st.integers(10, 500),
)
def test_so_many_would_exclude_the_threshold(value, below, above, threshold, n):
    swapped = 1 - 12 / (n * (n * n - 1))
    value = min(max(value, -swapped), swapped)
    low, high = (math.tanh(math.atanh(value) + by) for by in (-below, above))
    found = to_reach(Estimate(value, low, high), n, threshold)
    if abs(threshold) >= swapped:
        assert found is None
        return
    apart = math.atanh(value) - math.atanh(threshold)
    if abs(apart) < 1e-3:
        return
    facing = below if apart > 0 else above
    assert facing * math.sqrt(n / found.even) <= abs(apart) + 1e-3
    assert found.even == 1 or facing * math.sqrt(n / (found.even - 1)) >= abs(apart) - 1e-3
    assert found.likely >= found.even


@pytest.mark.exhaustive
def test_so_many_settle_a_difference_as_often_as_they_say():
    """Two scores of which one is better: the two numbers of the true difference, tried out."""
    rng = np.random.default_rng(0)

    def sample(n):
        reference = rng.normal(size=n)
        return reference + np.array([[0.6], [0.85]]) * rng.normal(size=(2, n)), reference

    true = np.mean([ranks.spearman_difference(*sample(20_000)) for _ in range(20)])
    measured = [estimate(ranks.spearman_difference, *sample(150)) for _ in range(50)]
    half = np.mean([each.high - each.value for each in measured])
    needed = to_tell_apart(Estimate(true, true - half, true + half), 150)
    for n, expected in ((needed.even, 0.5), (needed.likely, 0.8)):
        found = [estimate(ranks.spearman_difference, *sample(n)) for _ in range(150)]
        assert np.mean([each.low > 0 for each in found]) == pytest.approx(expected, abs=0.11)


@pytest.mark.parametrize("difference", [Estimate(0.0, -0.1, 0.1), Estimate(0.1, None, None)])
def test_nothing_to_tell(difference):
    assert to_tell_apart(difference, 50) is None
    assert to_reach(difference, 50, 0.0) is None


def test_nothing_settles_a_figure_that_is_the_threshold():
    assert to_reach(Estimate(0.1 + 0.2, 0.1, 0.5), 50, 0.3) is None


def test_a_perfect_correlation_needs_some_more():
    found = estimate(ranks.spearman, np.arange(10.0), np.arange(10.0))
    assert 12 < to_reach(found, 10, 0.97).even < to_reach(found, 10, 0.97).likely < 60
    assert to_reach(found, 10, 0.99) is None  # one swap among ten leaves less


def test_how_many_more():
    assert Needed(70, 120).beyond(60) == Needed(10, 60)
    assert Needed(50, 61).beyond(60) == Needed(1, 1)
