"""Where a cheap score may cut: the formula against simulation, and what a sample allows."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_proxy.statistics.cuts import NO_CUT, Cut, kept_share, learn_cut, share_to_keep


def pairs(rng, correlation, n):
    """Score and reference of so many architectures, `(2, n)`."""
    truth, noise = rng.normal(size=(2, n))
    return np.stack([correlation * truth + math.sqrt(1 - correlation**2) * noise, truth])


@pytest.mark.parametrize("correlation", [-0.4, 0.0, 0.5, 0.9])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
def test_the_formula_is_what_a_simulation_gives(correlation, share):
    score, truth = pairs(np.random.default_rng(1), correlation, 100_000)
    best = truth > np.quantile(truth, 0.9)
    simulated = (score[best] > np.quantile(score, 1 - share)).mean()
    assert kept_share(share, correlation) == pytest.approx(simulated, abs=0.01)


def test_a_better_score_needs_a_smaller_share_and_a_useless_one_all():
    shares = [share_to_keep(rho, 0.9) for rho in (0.97, 0.9, 0.7, 0.4, 0.1, 0.0, -0.5)]
    assert shares == sorted(shares)
    assert shares[0] < 0.15
    assert shares[-2:] == [1.0, 1.0]
    assert share_to_keep(0.8, 0.95) > share_to_keep(0.8, 0.8)


def test_the_share_is_the_smallest_that_keeps_so_much():
    for rho in (0.3, 0.8):
        share, r = share_to_keep(rho, 0.9), 2 * math.sin(math.pi / 6 * rho)
        assert kept_share(share, r) == pytest.approx(0.9, abs=1e-6)


@pytest.mark.parametrize(("correlation", "keep"), [(0.95, 0.9), (0.8, 0.9), (0.8, 0.7), (0.3, 0.9)])
def test_learned_cuts_keep_what_was_stated_of_architectures_never_seen(correlation, keep):
    rng, kept, shares = np.random.default_rng(2), [], []
    for _ in range(60):
        cut = learn_cut(*pairs(rng, correlation, 48), None, keep)
        score, truth = pairs(rng, correlation, 2000)
        best = score[truth > np.quantile(truth, 0.9)]
        kept.append(np.mean([cut.passes(each) for each in best]))
        shares.append(cut.share)
    assert np.mean(kept) >= keep
    if correlation > 0.9:
        assert np.mean(shares) < 0.35  # and it pays
    if correlation < 0.5:
        assert np.mean(shares) > 0.85  # a weak score in front loses nothing


def test_what_is_not_shown_to_rank_cuts_nothing():
    rng = np.random.default_rng(3)
    assert learn_cut(np.zeros(30), rng.normal(size=30), None, 0.9) == NO_CUT
    assert learn_cut(*pairs(rng, 0.99, 9), None, 0.9) == NO_CUT  # too few for an interval
    assert learn_cut(*pairs(rng, -0.9, 48), None, 0.9) == NO_CUT


@settings(max_examples=60, deadline=None)
@given(st.integers(10, 60), st.floats(0, 0.99), st.integers(0, 2**32))
def test_no_cut_loses_one_of_the_samples_own_best(n, correlation, seed):
    score, truth = pairs(np.random.default_rng(seed), correlation, n)
    cut = learn_cut(score, truth, None, 0.9)
    best = np.argsort(-truth)[: math.ceil(n / 10)]
    assert all(cut.passes(score[index]) for index in best)
    assert 0 < cut.share <= 1


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.9])
def test_a_given_share_is_expected_to_pass(share):
    rng, passed = np.random.default_rng(4), []
    for _ in range(200):
        cut = learn_cut(rng.exponential(size=30), rng.normal(size=30), share, 0.9)
        passed.append(1.0 if cut.score is None else math.exp(-cut.score))  # of the distribution
    assert np.mean(passed) >= share - 0.015
    assert np.mean(passed) < share + 1.5 / 31


def test_ties_with_the_last_that_passes_pass_too():
    cut = learn_cut(np.array([1.0, 1, 1, 0]), np.arange(4.0), 0.2, 0.9)
    assert cut == Cut(1 / 5, 1.0)
    assert cut.passes(1.0)
    assert not cut.passes(math.nextafter(1.0, 0))
    assert learn_cut(np.arange(4.0), np.arange(4.0), 1.0, 0.9) == NO_CUT
