"""Partial correlation and nDCG, each against another way to compute it."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import ndcg_score

from nas_proxy.statistics import ranks
from nas_proxy.statistics.intervals import jackknife
from nas_proxy.statistics.ranks import estimate


def partial(score, reference, *covariates):
    return float(ranks.partial_spearman(np.array([score, *covariates]), np.array(reference)))


def rho(x, y):
    return float(stats.spearmanr(x, y).statistic)


def from_pairs(xy, xz, yz):
    """The known formula for one covariate, from the three correlations of pairs."""
    return (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))


def sample(seed, n=60):
    """A score and a reference that have much of two sizes in common, and something beside."""
    rng = np.random.default_rng(seed)
    params, skill = rng.normal(size=(2, n))
    flops = params + 0.8 * rng.normal(size=n)
    score = params + 0.5 * flops + 0.7 * skill + rng.normal(size=n)
    reference = params + skill + 0.5 * rng.normal(size=n)
    return score, reference, params, flops


# --- partial correlation ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_one_covariate_is_the_known_formula(seed):
    score, reference, params, _ = sample(seed)
    expected = from_pairs(rho(score, reference), rho(score, params), rho(reference, params))
    assert partial(score, reference, params) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_two_covariates_are_the_formula_twice(seed):
    score, reference, params, flops = sample(seed)
    given_params = {
        (name, other): from_pairs(rho(x, y), rho(x, params), rho(y, params))
        for (name, x), (other, y) in itertools.combinations(
            {"score": score, "reference": reference, "flops": flops}.items(), 2
        )
    }
    expected = from_pairs(
        given_params["score", "reference"],
        given_params["score", "flops"],
        given_params["reference", "flops"],
    )
    assert partial(score, reference, params, flops) == pytest.approx(expected)
    assert partial(score, reference, flops, params) == pytest.approx(expected)


def test_it_is_a_matter_of_ranks():
    score, reference, params, flops = sample(1)
    found = partial(score, reference, params, flops)
    logs = partial(np.exp(score), reference, np.exp(params), flops**3)
    assert logs == pytest.approx(found)
    assert partial(score, reference, -params, flops) == pytest.approx(found)
    assert partial(-score, reference, params, flops) == pytest.approx(-found)


def test_bigger_is_better_has_nothing_left():
    """A score and a reference that are two noisy views of size agree, but not at equal size."""
    rng = np.random.default_rng(0)
    found, raw = [], []
    for _ in range(200):
        params = rng.normal(size=80)
        score, reference = params + rng.normal(size=(2, 80))
        found.append(partial(score, reference, params))
        raw.append(rho(score, reference))
    assert np.mean(raw) > 0.4
    assert abs(np.mean(found)) < 0.05
    assert np.std(found) == pytest.approx(1 / math.sqrt(80 - 3), rel=0.25)


def test_interval_of_nothing_left_contains_zero_as_often_as_it_says():
    rng = np.random.default_rng(1)
    excluded = 0
    for _ in range(80):
        params = rng.normal(size=60)
        score, reference = params + rng.normal(size=(2, 60))
        found = estimate(
            ranks.partial_spearman,
            np.array([score, params, params + 0.5 * rng.normal(size=60)]),
            reference,
        )
        excluded += not found.low <= 0 <= found.high
    assert excluded <= 12  # 1 in 20 expected


def test_covariates_that_say_the_same_count_once():
    score, reference, params, _ = sample(2)
    alone = partial(score, reference, params)
    assert partial(score, reference, params, 3 * params + 1) == pytest.approx(alone)
    assert partial(score, reference, params, np.ones(60)) == pytest.approx(alone)
    assert partial(score, reference, np.ones(60)) == pytest.approx(rho(score, reference))


def test_what_size_determines_is_undefined():
    score, reference, params, flops = sample(3)
    assert np.isnan(partial(params, reference, params))
    assert np.isnan(partial(np.exp(params), reference, params, flops))
    assert np.isnan(partial(score, flops, params, flops))
    assert np.isnan(partial(np.ones(60), reference, params))


@pytest.mark.parametrize("seed", range(5))
def test_four_architectures_and_two_covariates_leave_one_direction(seed):
    """In which any two rests agree or disagree entirely."""
    four, eight = ([column[:n] for column in sample(seed)] for n in (4, 8))
    assert np.isnan(partial(*four))
    assert abs(partial(*eight)) < 1


def test_nearly_the_size_is_not_the_size():
    params = np.arange(1000.0)
    swapped = params.copy()
    swapped[[500, 501]] = swapped[[501, 500]]
    reference = np.random.default_rng(0).normal(size=1000)
    assert np.isfinite(partial(swapped, reference, params))


def test_stacks_are_judged_one_by_one():
    rng = np.random.default_rng(4)
    values, reference = rng.integers(0, 9, (3, 5, 12)).astype(float), rng.normal(size=(5, 12))
    together = ranks.partial_spearman(values, reference)
    assert together.shape == (5,)
    for index in range(5):
        assert together[index] == pytest.approx(partial(*[values[0, index], reference[index]],
                                                        *values[1:, index]))  # fmt: skip


# --- nDCG -------------------------------------------------------------------------------------


def test_ndcg_by_hand():
    accuracies = np.array([70.0, 94.0, 91.0, 88.0])  # gains 0, 1, 2/3, 1/3
    scores = np.array([0.1, 0.2, 0.9, 0.8])  # picks gains 2/3 and then 1/3
    discount = 1 / math.log2(3)
    expected = (2 / 3 + 1 / 3 * discount) / (1 + 2 / 3 * discount)
    assert ranks.ndcg_at(2)(scores, accuracies) == pytest.approx(expected)
    assert ranks.ndcg_at(1)(scores, accuracies) == pytest.approx(2 / 3)
    assert ranks.ndcg_at(4)(accuracies, accuracies) == pytest.approx(1)


@given(
    st.lists(st.tuples(st.floats(-10, 10), st.integers(0, 5)), min_size=3, max_size=20,
             unique_by=lambda pair: pair[0]),
    st.data(),
)  # fmt: skip
def test_ndcg_is_scikit_learns(pairs, data):
    scores, reference = np.array(pairs).T
    k = data.draw(st.integers(1, len(scores)))
    found = float(ranks.ndcg_at(k)(scores, reference))
    if reference.min() == reference.max():
        assert np.isnan(found)
        return
    gains = (stats.rankdata(reference) - 1) / (len(reference) - 1)
    # Its arguments are float32 inside; ranks keep what is different apart.
    order = stats.rankdata(scores, method="ordinal")
    assert found == pytest.approx(ndcg_score([gains], [order], k=k), abs=1e-9)


def test_random_order_has_one_half():
    rng = np.random.default_rng(5)
    scores, reference = rng.normal(size=(2, 4000, 50))
    found = ranks.ndcg_at(10)(scores, reference)
    assert found.shape == (4000,)
    assert found.mean() == pytest.approx(0.5 / 0.92, abs=0.03)  # the best ten's own gains: .92


def test_the_best_place_counts_most():
    reference = np.arange(10.0)
    good = reference.copy()
    at_the_top, below = good.copy(), good.copy()
    at_the_top[[9, 7]] = good[[7, 9]]
    below[[7, 5]] = good[[5, 7]]
    ndcg = ranks.ndcg_at(5)
    assert ndcg(at_the_top, reference) < ndcg(below, reference) < ndcg(good, reference) == 1


def test_the_jackknife_of_ndcg_holds_too_little_on_small_samples():
    """Why it has no interval: a good ranking of ten, and what such samples have on average."""
    rng, ndcg = np.random.default_rng(6), ranks.ndcg_at(2)
    reference = rng.normal(size=(2000, 10))
    scores = reference + 0.4 * rng.normal(size=reference.shape)
    true, held = ndcg(scores, reference).mean(), 0
    for x, y in zip(scores[:200], reference[:200], strict=True):
        low, high = jackknife(float(ndcg(x, y)), ndcg.left_out(x, y))
        held += low <= true <= high
    assert held / 200 < 0.88


# --- sizes of parts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fraction", "n", "num"), [(0.1, 63, 6), (0.2, 63, 13), (0.1, 3, 1), (1.0, 7, 7), (0.2, 0, 1)]
)
def test_best_part_is_rounded_and_never_empty(fraction, n, num):
    assert ranks.num_best(fraction, n) == num
