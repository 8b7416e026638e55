import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas_proxy.statistics import intervals, ranks
from nas_proxy.statistics.ranks import Estimate, estimate
from nas_proxy.statistics.words import decimal

TIED = st.integers(0, 6).map(float)
NUMBERS = st.floats(-1e6, 1e6)


def pairs(values=TIED, min_size=3, max_size=20):
    return st.lists(st.tuples(values, values), min_size=min_size, max_size=max_size).map(
        lambda rows: np.array(rows).T
    )


def judged(statistic, scores, reference, **more):
    return estimate(statistic, np.array(scores), np.array(reference), **more)


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


def naive_left_out(statistic, scores, reference):
    """Written out, one architecture after the other."""
    return [
        float(statistic(np.delete(scores, i, axis=-1), np.delete(reference, i)))
        for i in range(reference.shape[-1])
    ]


@pytest.mark.parametrize(
    "statistic",
    [ranks.spearman, ranks.kendall, ranks.precision_at(4), ranks.ndcg_at(4)],
    ids=["spearman", "kendall", "precision", "ndcg"],
)
@given(columns=pairs(min_size=5))
def test_each_architecture_is_left_out_once(statistic, columns):
    found = statistic.left_out(*columns)
    assert found.tolist() == pytest.approx(naive_left_out(statistic, *columns), nan_ok=True)


def test_each_is_left_out_of_several_scores_and_of_strata():
    rng = np.random.default_rng(0)
    scores, reference = rng.normal(size=(3, 12)), rng.normal(size=12)
    for statistic in (ranks.partial_spearman, ranks.spearman_difference):
        found = statistic.left_out(scores, reference)
        assert found.tolist() == pytest.approx(naive_left_out(statistic, scores, reference))
    within = ranks.spearman_within([5, 6, 1])
    found = within.left_out(scores[0], reference)
    for position, fewer in ((2, [4, 6, 1]), (4, [4, 6, 1]), (5, [5, 5, 1]), (11, [5, 6])):
        others = np.delete(np.arange(12), position)
        expected = ranks.spearman_within(fewer)(scores[0][others], reference[others])
        assert found[position] == pytest.approx(float(expected))


def test_leaving_out_does_not_depend_on_how_much_fits_at_once(monkeypatch):
    scores, reference = bivariate(np.random.default_rng(1), 30, 0.5)
    whole = ranks.spearman.left_out(scores, reference)
    monkeypatch.setattr(ranks, "_BATCH", 100)
    assert ranks.spearman.left_out(scores, reference).tolist() == whole.tolist()


def test_interval_of_a_difference_is_the_jackknifes():
    """Against pseudo-values, the other way to write it."""
    rng = np.random.default_rng(5)
    scores, reference = rng.normal(size=(2, 30)), rng.normal(size=30)
    found = judged(ranks.spearman_difference, scores, reference)
    left_out = np.array(naive_left_out(ranks.spearman_difference, scores, reference))
    pseudo = 30 * found.value - 29 * left_out
    half = stats.t.ppf(0.975, 28) * pseudo.std(ddof=1) / math.sqrt(30)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))


@pytest.mark.parametrize("statistic", [ranks.spearman, ranks.kendall])
def test_interval_of_a_correlation_is_the_jackknifes_on_fishers_z(statistic):
    scores, reference = bivariate(np.random.default_rng(6), 30, 0.7)
    found = judged(statistic, scores, reference)
    z = np.arctanh(naive_left_out(statistic, scores, reference))
    half = stats.t.ppf(0.975, 28) * 29 / math.sqrt(30) * z.std(ddof=1)
    middle = math.atanh(found.value)
    assert (found.low, found.high) == pytest.approx(tuple(np.tanh([middle - half, middle + half])))


@pytest.mark.parametrize("n", [10, 60])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_sample_is_no_point(n, sign):
    """It counts as one swap of neighbours short of perfect, with the least error that is taken."""
    rising = np.arange(float(n))
    swapped = rising.copy()
    swapped[[4, 5]] = swapped[[5, 4]]
    for statistic, least in ((ranks.spearman, 0.7), (ranks.kendall, 0.45)):
        found = judged(statistic, sign * rising, rising)
        ends = sorted([sign * found.low, sign * found.high])
        half = stats.t.ppf(0.975, n - 2) * least / math.sqrt(n - 3)
        expected = math.tanh(math.atanh(float(statistic(swapped, rising))) - half)
        assert found.value == sign
        assert ends == pytest.approx([expected, 1])


@pytest.mark.parametrize("groups", [2, 4])
def test_a_perfect_sample_with_ties_is_as_uncertain_as_one_exchange_between_them(groups):
    """Twenty architectures with two values each way order one pair of groups, not twenty."""
    tied = np.repeat(np.arange(float(groups)), 20 // groups)
    exchanged = tied.copy()
    last, first = 20 // groups - 1, 20 // groups
    exchanged[[last, first]] = exchanged[[first, last]]
    found = judged(ranks.spearman, tied, tied)
    half = stats.t.ppf(0.975, 18) * 0.7 / math.sqrt(17)
    expected = math.tanh(math.atanh(float(ranks.spearman(exchanged, tied))) - half)
    assert (found.low, found.high) == pytest.approx((expected, 1))
    assert found.low < judged(ranks.spearman, np.arange(20.0), np.arange(20.0)).low


def test_no_interval_reads_as_a_point():
    rising = np.arange(20.0)
    assert str(judged(ranks.spearman, rising, rising)) == "1.00 [.99, 1.00]"


@given(columns=pairs(min_size=10, max_size=14))
def test_the_interval_contains_the_value(columns):
    for statistic in (ranks.spearman, ranks.kendall):
        found = judged(statistic, *columns)
        if found is not None and found.low is not None:
            assert -1 <= found.low <= found.value <= found.high <= 1


def test_neither_order_nor_a_generator_decides_an_interval():
    rng = np.random.default_rng(6)
    scores, reference = bivariate(rng, 40, 0.5)
    order = rng.permutation(40)
    state = str(np.random.get_state(legacy=False))
    first, again = (
        judged(ranks.spearman, scores, reference),
        judged(ranks.spearman, scores[order], reference[order]),
    )
    assert vars(again) == pytest.approx(vars(first), abs=1e-12)
    assert str(np.random.get_state(legacy=False)) == state


@pytest.mark.parametrize(("rho", "n"), [(0.0, 20), (0.5, 60), (0.8, 20), (0.93, 60), (0.97, 20)])
def test_interval_covers_the_true_correlation(rho, n):
    """Bivariate normal, whose rho is known; more cases: `benchmarks/interval_coverage.py`."""
    rng, covered, outside = np.random.default_rng(1), 0, [0, 0]
    for _ in range(300):
        found = judged(ranks.spearman, *bivariate(rng, n, 2 * math.sin(math.pi / 6 * rho)))
        covered += found.low <= rho <= found.high
        outside[found.low > rho] += not found.low <= rho <= found.high
    # A right 95 % leaves these bounds once in a thousand times.
    assert 0.91 <= covered / 300 <= 0.99
    assert max(outside) / 300 < 0.07


def test_more_confidence_is_a_wider_interval():
    scores, reference = bivariate(np.random.default_rng(2), 30, 0.6)
    usual = judged(ranks.spearman, scores, reference)
    surer = judged(ranks.spearman, scores, reference, confidence=0.999)
    assert surer.low < usual.low < usual.high < surer.high


def test_difference_of_equals_is_called_a_difference_one_time_in_twenty():
    rng, called = np.random.default_rng(2), 0
    for _ in range(300):
        _, reference = bivariate(rng, 50, 0)
        scores = [reference + rng.normal(size=50) for _ in range(2)]
        found = judged(ranks.spearman_difference, scores, reference)
        called += not found.low <= 0 <= found.high
    assert 3 <= called <= 27


def test_p_value_is_what_the_interval_says():
    rng = np.random.default_rng(3)
    scores, reference = rng.normal(size=(2, 25)), rng.normal(size=25)
    left_out = ranks.spearman_difference.left_out(scores, reference)
    value = float(ranks.spearman_difference(scores, reference))
    _, high = intervals.jackknife(value, left_out)
    p = intervals.p_value(value, high, 25)
    ends = intervals.jackknife(value, left_out, confidence=1 - p)
    assert min(abs(end) for end in ends) == pytest.approx(0, abs=1e-9)
    assert intervals.p_value(0.0, 0.0, 25) == 1
    assert intervals.p_value(0.2, 0.2, 25) == 0


@pytest.mark.parametrize("statistic", [ranks.regret_at(4), ranks.ndcg_at(4)])
def test_what_has_no_valid_interval_has_none(statistic):
    found = judged(statistic, *bivariate(np.random.default_rng(4), 60, 0.7))
    assert (found.low, found.high) == (None, None)


def test_precision_has_wilsons_interval():
    scores, reference = bivariate(np.random.default_rng(4), 60, 0.7)
    found = judged(ranks.precision_at(10), scores, reference)
    expected = stats.binomtest(round(10 * found.value), 10).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


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


def test_a_difference_is_that_of_pairs():
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


def test_interval_narrows_with_the_square_root_of_n():
    rng = np.random.default_rng(7)
    widths = []
    for n in (20, 180):
        found = [judged(ranks.spearman, *bivariate(rng, n, 0.5)) for _ in range(12)]
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


@pytest.mark.parametrize("n", [3, 6, 9])
def test_a_handful_has_a_value_but_no_interval(n):
    values = np.arange(float(n))
    scores = values.copy()
    scores[[0, 1]] = scores[[1, 0]]
    found = judged(ranks.kendall, scores, values)
    assert found.value == pytest.approx(stats.kendalltau(scores, values).statistic)
    assert (found.low, found.high) == (None, None)


def test_ten_have_an_interval():
    scores = np.arange(10.0)
    scores[[2, 7]] = scores[[7, 2]]
    found = judged(ranks.kendall, scores, np.arange(10.0))
    assert -1 < found.low < found.value < found.high < 1


def test_no_interval_where_the_figure_hangs_on_one_architecture():
    scores, reference = np.zeros(12), np.zeros(12)
    scores[0], reference[1] = 1, 1  # without either, one side is constant
    found = judged(ranks.spearman, scores, reference)
    assert found.value == pytest.approx(-1 / 11)
    assert found.low is None
    assert found.high is None
    assert str(found) == "-.09 (no interval)"


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
