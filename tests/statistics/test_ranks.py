import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas_proxy.statistics import ranks
from nas_proxy.statistics.ranks import Estimate, estimate
from nas_proxy.statistics.words import decimal

TIED = st.integers(0, 6).map(float)
NUMBERS = st.floats(-1e6, 1e6)


def pairs(values=TIED, min_size=3, max_size=20):
    return st.lists(st.tuples(values, values), min_size=min_size, max_size=max_size).map(
        lambda rows: np.array(rows).T
    )


def judged(statistic, scores, reference, *, seed=0, num_resamples=200):
    rng = np.random.default_rng(seed)
    return estimate(
        statistic, np.array(scores), np.array(reference), num_resamples=num_resamples, rng=rng
    )


def bivariate(rng, n, correlation):
    reference = rng.normal(size=n)
    noise = math.sqrt(1 - correlation**2) * rng.normal(size=n)
    return correlation * reference + noise, reference


# --- the statistics ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:An input array is constant")
@pytest.mark.parametrize(
    ("ours", "theirs"), [(ranks.spearman, stats.spearmanr), (ranks.kendall, stats.kendalltau)]
)
@given(columns=pairs() | pairs(NUMBERS))
def test_correlations_are_scipys(ours, theirs, columns):
    assert float(ours(*columns)) == pytest.approx(
        theirs(*columns).statistic, abs=1e-12, nan_ok=True
    )


@pytest.mark.parametrize("statistic", [ranks.spearman, ranks.kendall])
def test_correlation_of_a_constant_is_undefined(statistic):
    constant, rising = np.full(5, 0.1), np.arange(5.0)
    assert np.isnan(statistic(constant, rising))
    assert np.isnan(statistic(rising, constant))
    assert statistic(rising, rising) == 1
    assert statistic(-rising, rising) == -1


def naive_best(values, k):
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]


@given(columns=pairs() | pairs(NUMBERS), data=st.data())
def test_precision_and_regret_are_those_of_sorting(columns, data):
    scores, reference = columns
    k = data.draw(st.integers(1, len(scores)))
    picked, best = naive_best(scores, k), naive_best(reference, k)
    shared = len(set(picked) & set(best)) / k
    assert float(ranks.precision_at(k)(scores, reference)) == pytest.approx(shared)
    lost = max(reference) - max(reference[i] for i in picked)
    assert float(ranks.regret_at(k)(scores, reference)) == pytest.approx(lost)
    assert lost >= 0


def test_precision_and_regret_by_hand():
    accuracies = np.array([70.0, 93.0, 91.0, 88.0, 94.0])
    scores = np.array([0.9, 0.8, 0.3, 0.1, 0.2])  # picks the first two; the best are 1 and 4
    assert ranks.precision_at(2)(scores, accuracies) == 0.5
    assert ranks.regret_at(2)(scores, accuracies) == 1.0
    assert ranks.regret_at(1)(scores, accuracies) == 24.0
    assert ranks.precision_at(5)(scores, accuracies) == 1.0


@pytest.mark.parametrize(
    "statistic",
    [ranks.spearman, ranks.kendall, ranks.precision_at(3), ranks.regret_at(3)],
    ids=["spearman", "kendall", "precision", "regret"],
)
def test_stacks_are_judged_one_by_one(statistic):
    rng = np.random.default_rng(0)
    scores, reference = (rng.integers(0, 5, (2, 4, 9)).astype(float) for _ in range(2))
    together = statistic(scores, reference)
    assert together.shape == (2, 4)
    for index in np.ndindex(2, 4):
        assert together[index] == pytest.approx(float(statistic(scores[index], reference[index])))


# --- intervals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statistic", [ranks.spearman, ranks.kendall, ranks.precision_at(4), ranks.regret_at(4)]
)
def test_interval_is_that_of_resampling_pairs(statistic):
    """Against a bootstrap written out; both have the noise of their own draws."""
    scores, reference = bivariate(np.random.default_rng(5), 30, 0.7)
    found = judged(statistic, scores, reference, num_resamples=4000)
    rng = np.random.default_rng(9)
    values = []
    for _ in range(2000):
        drawn = rng.integers(0, 30, 30)
        values.append(float(statistic(scores[drawn], reference[drawn])))
    assert found.value == pytest.approx(float(statistic(scores, reference)))
    low, high = np.percentile(values, [2.5, 97.5])
    assert found.low == pytest.approx(low, abs=0.05)
    assert found.high == pytest.approx(high, abs=0.05)


def test_interval_covers_the_true_correlation():
    """Bivariate normal, whose rho is known; the percentile interval is a little too short."""
    rng, covered, above = np.random.default_rng(1), 0, 0
    true = 6 / math.pi * math.asin(0.7 / 2)
    for _ in range(300):
        found = judged(ranks.spearman, *bivariate(rng, 50, 0.7), seed=rng, num_resamples=150)
        covered += found.low <= true <= found.high
        above += found.low > true
    # A right 95 % leaves these bounds once in a thousand times.
    assert 0.89 <= covered / 300 <= 0.985
    assert above / 300 < 0.07


def test_difference_of_equals_is_called_a_difference_one_time_in_twenty():
    rng, called = np.random.default_rng(2), 0
    for _ in range(150):
        _, reference = bivariate(rng, 50, 0)
        scores = [reference + rng.normal(size=50) for _ in range(2)]
        found = judged(ranks.spearman_difference, scores, reference, seed=rng)
        called += not found.low <= 0 <= found.high
    assert 1 <= called <= 18


def test_sign_of_the_difference():
    rng = np.random.default_rng(3)
    good, reference = bivariate(rng, 60, 0.9)
    bad = rng.normal(size=60)
    ahead = judged(ranks.spearman_difference, [good, bad], reference)
    expected = stats.stats.spearmanr(good, reference)[0] - stats.stats.spearmanr(bad, reference)[0]
    assert ahead.value == pytest.approx(expected)
    assert 0 < ahead.low < ahead.value < ahead.high
    behind = judged(ranks.spearman_difference, [bad, good], reference)
    assert behind.value == -ahead.value
    assert behind.high < 0
    even = judged(ranks.spearman_difference, [good, good], reference)
    assert (even.value, even.low, even.high) == (0, 0, 0)


def test_difference_is_resampled_in_pairs():
    """Two scores that share their noise are told apart far better than their own intervals say."""
    rng = np.random.default_rng(4)
    first, reference = bivariate(rng, 60, 0.6)
    second = first + 0.05 * rng.normal(size=60)
    one, other, difference = (
        judged(statistic, scores, reference)
        for statistic, scores in (
            (ranks.spearman, first),
            (ranks.spearman, second),
            (ranks.spearman_difference, [first, second]),
        )
    )
    assert difference.high - difference.low < 0.2 * (one.high - one.low + other.high - other.low)


@pytest.mark.parametrize("n", [6, 2100])  # the second one does not fit in one batch
def test_the_same_generator_gives_the_same_interval(n):
    rng = np.random.default_rng(6)
    scores, reference = bivariate(rng, n, 0.5)
    state = str(np.random.get_state(legacy=False))
    found = [
        judged(ranks.spearman, scores, reference, seed=seed, num_resamples=100)
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2]
    assert str(np.random.get_state(legacy=False)) == state


def test_interval_narrows_with_the_square_root_of_n():
    rng = np.random.default_rng(7)
    widths = []
    for n in (20, 180):
        found = [judged(ranks.spearman, *bivariate(rng, n, 0.5), seed=rng) for _ in range(12)]
        widths.append(np.mean([e.high - e.low for e in found]))
    assert widths[0] / widths[1] == pytest.approx(3, rel=0.15)


# --- where nothing can be said ----------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_say_nothing(n):
    rising = np.arange(float(n))
    assert judged(ranks.spearman, rising, rising) is None
    assert judged(ranks.spearman_difference, [rising, rising], rising) is None


def test_constant_scores_and_references_say_nothing():
    rising, constant = np.arange(6.0), np.ones(6)
    for statistic in (ranks.spearman, ranks.kendall):
        assert judged(statistic, constant, rising) is None
        assert judged(statistic, rising, constant) is None
    assert judged(ranks.spearman_difference, [rising, constant], rising) is None


@pytest.mark.parametrize("n", [3, 4, 5])
def test_a_handful_has_a_value_but_no_interval(n):
    values = np.arange(float(n))
    scores = values.copy()
    scores[[0, 1]] = scores[[1, 0]]
    found = judged(ranks.kendall, scores, values)
    assert found.value == pytest.approx(stats.kendalltau(scores, values).statistic)
    assert (found.low, found.high) == (None, None)


def test_six_have_an_interval():
    found = judged(ranks.kendall, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 3.0, 2.0, 4.0, 6.0, 5.0])
    assert -1 <= found.low <= found.value <= found.high <= 1


def test_no_interval_where_most_resamples_are_undefined():
    scores, reference = np.zeros(12), np.zeros(12)
    scores[0], reference[1] = 1, 1  # 4 of 10 resamples hold both
    found = judged(ranks.spearman, scores, reference)
    assert found.value == pytest.approx(-1 / 11)
    assert found.low is None
    assert found.high is None
    assert str(found) == "-.09 (no interval)"


def test_interval_leaves_out_undefined_resamples():
    scores = np.array([0, 0, 1.0, 0, 0, 0])  # a third of the resamples hold no 1
    found = judged(ranks.spearman, scores, np.arange(6.0))
    assert -1 <= found.low < found.value < found.high <= 1


# --- in words ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.81, ".81"), (-0.05, "-.05"), (1.0, "1.00"), (-1.0, "-1.00"), (0.0, ".00"),
        (-0.004, ".00"), (-0.0, ".00"), (0.004, ".00"), (0.999, "1.00"), (-0.996, "-1.00"),
        (0.994, ".99"), (10.05, "10.05"), (-20.5, "-20.50"), (100.0, "100.00"), (0.1, ".10"),
    ],
)  # fmt: skip
def test_decimal(value, text):
    assert decimal(value) == text


@given(st.floats(-200, 200))
def test_decimal_reads_back_to_the_rounded_value(value):
    text = decimal(value)
    assert float(text) == pytest.approx(round(value, 2), abs=0.0101)
    assert abs(float(text) - value) <= 0.005 + 1e-9
    assert not text.lstrip("-").startswith("0")
    assert not (text.startswith("-") and float(text) == 0)


def test_estimate_in_words():
    assert str(Estimate(0.811, 0.702, 0.876)) == ".81 [.70, .88]"
    assert str(Estimate(0.02, -0.1, 1.0)) == ".02 [-.10, 1.00]"


# --- how many would tell ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "n", "needed"),
    [
        (Estimate(0.1, -0.1, 0.3), 50, 201),  # twice as far to zero: four times as many
        (Estimate(-0.1, -0.3, 0.1), 50, 201),
        (Estimate(0.1, -0.2, 0.2), 10, 91),
        (Estimate(0.1, -0.01, 0.15), 60, 73),  # lopsided: the end that faces zero counts
        (Estimate(-0.1, -0.7, 0.01), 60, 73),
        (Estimate(0.1, 0.0, 0.2), 60, 61),
    ],
)
def test_num_architectures_to_tell(difference, n, needed):
    assert ranks.num_architectures_to_tell(difference, n) == pytest.approx(needed, abs=1)


@given(
    value=st.floats(-1, 1).filter(lambda v: abs(v) > 1e-3),
    below=st.floats(0, 1),
    above=st.floats(0, 1),
    n=st.integers(3, 500),
)
def test_so_many_would_exclude_zero_and_are_more_than_there_are(value, below, above, n):
    low, high = min(value, -below), max(value, above)  # an interval that contains zero
    low, high = (-below, high) if value > 0 else (low, above)
    needed = ranks.num_architectures_to_tell(Estimate(value, low, high), n)
    assert needed > n
    facing = low if value > 0 else high
    scaled = value + (facing - value) * math.sqrt(n / needed)
    assert scaled * value >= -1e-12
    fewer = value + (facing - value) * math.sqrt(n / max(1, needed - 2))
    assert fewer * value <= 1e-12


@pytest.mark.parametrize("difference", [Estimate(0.0, -0.1, 0.1), Estimate(0.1, None, None)])
def test_nothing_to_tell(difference):
    assert ranks.num_architectures_to_tell(difference, 50) is None


# Strata


def test_spearman_within_strata_forgives_their_scales():
    rng = np.random.default_rng(0)
    scores, reference = rng.normal(size=(2, 16))
    whole = ranks.spearman_within([16])(scores, reference)
    assert float(whole) == pytest.approx(stats.spearmanr(scores, reference).statistic)
    both = ranks.spearman_within([8, 8])(scores, reference)
    mean = np.mean(
        [stats.spearmanr(scores[p], reference[p]).statistic for p in (slice(8), slice(8, 16))]
    )
    assert float(both) == pytest.approx(mean)
    moved = np.concatenate([scores[:8], 100 + 5 * scores[8:]])
    assert float(ranks.spearman_within([8, 8])(moved, reference)) == pytest.approx(float(both))
    constant = np.repeat([1.0, 2.0], 8)
    assert np.isnan(ranks.spearman_within([8, 8])(constant, reference))


def test_each_stratum_is_drawn_from_by_itself_and_equal_seeds_draw_the_same():
    values = np.array([0.0, 1, 2, 10, 11])

    def drawn(seed, strata):
        return ranks.resampled(
            lambda scores, reference: (scores < 5).sum(axis=-1),
            values,
            values,
            num_resamples=200,
            rng=np.random.default_rng(seed),
            strata=strata,
        )

    assert set(drawn(0, [3, 2])) == {3}
    assert len(set(drawn(0, []))) > 2
    assert drawn(1, []).tolist() == drawn(1, []).tolist() != drawn(2, []).tolist()
