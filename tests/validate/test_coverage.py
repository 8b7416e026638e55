"""Predicted intervals: how often they hold what they promise to."""

import numpy as np
import pytest
from scipy import stats

from nas_proxy.validate.coverage import LEVELS, SHOWN_LEVELS, check_uncertainty


def simulated(deviation_stated, n=4000, seed=0):
    """Predictions that err by 2, of architectures whose stated deviation is another."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(90, 5, size=n)
    predictions = reference + 2 * rng.normal(size=n)
    return check_uncertainty(predictions, np.full(n, deviation_stated), reference)


def at(found, level):
    return next(entry.observed for entry in found.coverage if entry.expected == level)


def test_right_deviations_hold_what_they_promise():
    found = simulated(2.0)
    assert [entry.expected for entry in found.coverage] == list(LEVELS)
    for level in LEVELS:
        assert at(found, level).value == pytest.approx(level, abs=0.025)
    assert found.error == pytest.approx(2.0, rel=0.05)
    assert (found.stated_deviation, found.n) == (2.0, 4000)
    assert found.words.startswith("The stated uncertainty is borne out: its 80 % intervals hold ")


@pytest.mark.parametrize(("stated", "words"), [(1.0, "surer of itself"), (4.0, "more cautious")])
def test_wrong_deviations_are_found_out(stated, words):
    found = simulated(stated)
    for level in SHOWN_LEVELS:
        reach = stats.norm.ppf((1 + level) / 2) * stated / 2
        assert at(found, level).value == pytest.approx(2 * stats.norm.cdf(reach) - 1, abs=0.025)
    assert words in found.words
    assert "n = 4000" in found.words


def test_few_architectures_do_not_convict():
    assert "borne out" in simulated(1.6, n=12).words


def test_each_architecture_has_its_own_deviation():
    rng = np.random.default_rng(1)
    deviations = rng.uniform(0.1, 10, size=3000)
    predictions = rng.normal(size=3000)
    reference = predictions + deviations * rng.normal(size=3000)
    for level in SHOWN_LEVELS:
        found = check_uncertainty(predictions, deviations, reference)
        assert at(found, level).value == pytest.approx(level, abs=0.03)


@pytest.mark.parametrize("inside", [0, 3, 17, 20])
def test_interval_of_a_share_is_wilsons(inside):
    reference = np.where(np.arange(20) < inside, 0.0, 100.0)
    found = at(check_uncertainty(np.zeros(20), np.ones(20), reference), 0.5)
    expected = stats.binomtest(inside, 20).proportion_ci(method="wilson")
    assert found.value == inside / 20
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_no_deviation_promises_the_value_itself():
    found = check_uncertainty(np.arange(4.0), np.zeros(4), np.array([0.0, 1.0, 2.0, 9.0]))
    assert at(found, 0.95).value == 0.75


@pytest.mark.parametrize("n", [0, 2])
def test_a_pair_says_nothing(n):
    assert check_uncertainty(np.zeros(n), np.ones(n), np.zeros(n)) is None
