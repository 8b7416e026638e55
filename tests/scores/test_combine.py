import statistics
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from nas_proxy.errors import ConfigError, StudyError
from nas_proxy.scores.combine import RankMean, ScoreSettings, SingleSignal, make_score
from nas_proxy.scores.signals import TRAINED_SIGNALS, higher_is_better
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status

# Eighths are exact in binary, and close values stay far enough apart to be told from rounding.
VALUES = st.integers(-80, 80).map(lambda eighths: eighths / 8)
SAMPLES = st.lists(VALUES, min_size=4, max_size=12)


def complete(**signals):
    fidelity = Fidelity("d", 1, 1, 8)
    return Evaluation(Architecture("s", 0), fidelity, 0, Status.COMPLETE, signals=signals)


def failed(reason):
    return replace(complete(), status=Status.FAILED, reason=reason)


def by_accuracy(values):
    return RankMean(("val_accuracy",), [complete(val_accuracy=value) for value in values])


def rank_by_counting(sample, value):
    """The docstring of RankMean, member by member."""
    last = len(sample) - 1
    if value in sample:
        return (sum(v < value for v in sample) + (sample.count(value) - 1) / 2) / last
    below = [v for v in sample if v < value]
    above = [v for v in sample if v > value]
    if below and above:
        low, high = max(below), min(above)
        start, end = rank_by_counting(sample, low), rank_by_counting(sample, high)
        return start + (end - start) * (value - low) / (high - low)
    edge = max(below) if below else min(above)
    lower, _, upper = statistics.quantiles(sample, n=4, method="inclusive")
    distance = abs(value - edge) / ((upper - lower) or 1)
    beyond = distance / (1 + distance) / last
    return rank_by_counting(sample, edge) + (beyond if below else -beyond)


# --- one rank ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "rank"),
    [(1, 1), (5, 0), (3, 1 / 2), (1.5, 7 / 8), (0, 1 + 1 / 12), (7, -1 / 8)],
)
def test_rank_by_hand(loss, rank):
    # Lower is better; the quartiles are 2 and 4, so the loss 0 lies half their distance beyond 1.
    score = RankMean(("val_loss",), [complete(val_loss=value) for value in (3, 5, 1, 4, 2)])
    assert score.of(complete(val_loss=loss)) == pytest.approx(rank, abs=1e-12)


@given(sample=SAMPLES, value=VALUES)
def test_rank_is_that_of_counting(sample, value):
    score = by_accuracy(sample).of(complete(val_accuracy=value))
    assert score == pytest.approx(rank_by_counting(sample, value), abs=1e-12)


@given(sample=SAMPLES)
def test_order_of_the_reference_does_not_matter(sample):
    probes = [-11, 0, 0.3, 11]
    ranks = [
        [by_accuracy(order).of(complete(val_accuracy=probe)) for probe in probes]
        for order in (sample, sample[::-1], sorted(sample))
    ]
    assert ranks[0] == ranks[1] == ranks[2]


@pytest.mark.parametrize("sample", [[1, 2, 3, 4], [1, 1, 1, 1], [0, 5, 5, 5, 9], [1, 1, 1, 2]])
@pytest.mark.parametrize("far", [10.0, 1e6, 1e30])
def test_beyond_the_ends_it_gains_less_than_one_member_is_worth(sample, far):
    score, worth = by_accuracy(sample), 1 / (len(sample) - 1)
    best, worst = (score.of(complete(val_accuracy=edge(sample))) for edge in (max, min))
    assert best < score.of(complete(val_accuracy=far)) <= best + worth
    assert worst > score.of(complete(val_accuracy=-far)) >= worst - worth


def test_tied_members_share_their_mean_rank():
    score = by_accuracy([1, 2, 2, 2, 3])
    assert score.of(complete(val_accuracy=2)) == pytest.approx(0.5)
    assert score.of(complete(val_accuracy=1.5)) == pytest.approx(0.25)
    # A lone best and a shared best: sharing is worth less.
    shared = by_accuracy([1, 2, 3, 3, 3])
    assert shared.of(complete(val_accuracy=3)) == pytest.approx((2 + 3 + 4) / 3 / 4)


def test_constant_reference_signal_puts_its_value_in_the_middle():
    score = by_accuracy([7, 7, 7, 7])
    assert score.of(complete(val_accuracy=7)) == 0.5
    above = [score.of(complete(val_accuracy=7 + step)) for step in (0.5, 1, 2, 400)]
    assert above == sorted(set(above))
    assert above[1] == pytest.approx(0.5 + 0.5 / 3)  # without quartiles the unit is 1


# --- several signals --------------------------------------------------------------------------


@given(
    reference=st.lists(st.tuples(VALUES, VALUES), min_size=4, max_size=10),
    loss=VALUES,
    accuracy=VALUES,
    step=st.integers(1, 80),
)
def test_better_in_one_signal_is_strictly_better(reference, loss, accuracy, step):
    score = RankMean(
        ("val_loss", "val_accuracy"),
        [complete(val_loss=first, val_accuracy=second) for first, second in reference],
    )
    before = score.of(complete(val_loss=loss, val_accuracy=accuracy))
    assert score.of(complete(val_loss=loss - step / 8, val_accuracy=accuracy)) > before
    assert score.of(complete(val_loss=loss, val_accuracy=accuracy + step / 8)) > before


@given(
    columns=st.lists(st.lists(VALUES, min_size=5, max_size=5), min_size=2, max_size=4),
    values=st.lists(VALUES, min_size=4, max_size=4),
)
def test_score_is_the_mean_of_the_ranks(columns, values):
    signals = ("val_accuracy", "val_loss", "train_loss_mean", "train_loss_tail")[: len(columns)]
    rows = zip(*columns, strict=True)
    reference = [complete(**dict(zip(signals, row, strict=True))) for row in rows]
    candidate = dict(zip(signals, values, strict=False))
    ranks = [
        rank_by_counting(column, candidate[signal])
        if signal == "val_accuracy"
        else rank_by_counting([-v for v in column], -candidate[signal])
        for signal, column in zip(signals, columns, strict=True)
    ]
    score = RankMean(signals, reference)
    assert score.signals == signals
    assert score.of(complete(**candidate)) == pytest.approx(statistics.fmean(ranks), abs=1e-12)


@given(values=st.lists(VALUES, min_size=4, max_size=4))
def test_each_kind_of_signal_has_half_of_the_vote(values):
    signals = ("naswot", "val_accuracy", "num_params", "zen")
    reference = [complete(**dict.fromkeys(signals, float(value))) for value in range(5)]
    candidate = dict(zip(signals, values, strict=True))
    ranks = {name: rank_by_counting(list(range(5)), value) for name, value in candidate.items()}
    trained = ranks.pop("val_accuracy")
    expected = (trained + statistics.fmean(ranks.values())) / 2
    found = RankMean(signals, reference).of(complete(**candidate))
    assert found == pytest.approx(expected, abs=1e-12)


def test_zero_cost_signal_beside_a_trained_one():
    reference = [complete(val_loss=-value, num_params=value**3) for value in range(5)]
    score = RankMean(("val_loss", "num_params"), reference)
    assert score.of(complete(val_loss=-4, num_params=8)) == pytest.approx((1 + 2 / 4) / 2)


def test_signals_that_were_not_asked_for_are_not_read():
    reference = [complete(val_accuracy=value, flops=-value) for value in range(4)]
    score = RankMean(("val_accuracy",), reference)
    assert score.of(complete(val_accuracy=3, flops=1e9)) == 1


def test_outlier_in_one_signal_does_not_outvote_the_other():
    reference = [complete(val_loss=value, val_accuracy=-value) for value in range(9)]
    score = RankMean(("val_loss", "val_accuracy"), reference)
    solid = score.of(complete(val_loss=1, val_accuracy=-1))
    assert solid > score.of(complete(val_loss=-1e12, val_accuracy=-8))


@given(sample=SAMPLES, value=VALUES, num_failed=st.integers(1, 5))
def test_failed_members_are_left_out(sample, value, num_failed):
    reference = [complete(val_accuracy=v) for v in sample]
    mixed = [failed("diverged")] * num_failed + reference
    candidate = complete(val_accuracy=value)
    assert RankMean(("val_accuracy",), mixed).of(candidate) == by_accuracy(sample).of(candidate)


def test_too_few_members_are_refused_with_the_reasons():
    reference = [complete(val_loss=1.0)] * 3 + [failed("diverged"), failed("diverged")]
    reference.append(failed("does not fit in memory"))
    with pytest.raises(StudyError) as caught:
        RankMean(("val_loss",), reference)
    message = str(caught.value)
    assert "only 3 of 6 reference architectures" in message
    assert "(reasons: diverged; does not fit in memory)" in message
    RankMean(("val_loss",), [*reference, complete(val_loss=2.0)])  # four are enough


def test_empty_reference_is_refused():
    with pytest.raises(StudyError, match=r"only 0 of 0 .*none drawn"):
        make_score(ScoreSettings(signals=("val_loss", "flops"), combine="rank_mean"), [])


# --- one signal, directions and settings ------------------------------------------------------


@given(first=VALUES, second=VALUES)
def test_single_signal_is_higher_for_the_better(first, second):
    assume(first != second)
    better, worse = max(first, second), min(first, second)
    accuracy, loss = SingleSignal("val_accuracy"), SingleSignal("val_loss")
    assert accuracy.of(complete(val_accuracy=better)) > accuracy.of(complete(val_accuracy=worse))
    assert loss.of(complete(val_loss=worse)) > loss.of(complete(val_loss=better))


def test_single_needs_no_reference():
    score = make_score(ScoreSettings(signals=("train_loss_mean",)), [])
    assert score.signals == ("train_loss_mean",)
    assert score.of(complete(train_loss_mean=2.5, val_loss=9.0)) == -2.5


@pytest.mark.parametrize("signal", TRAINED_SIGNALS)
def test_losses_are_better_when_lower_and_accuracies_when_higher(signal):
    lower = "loss" in signal or signal == "generalisation_gap"
    assert higher_is_better(signal) is not lower


def test_direction_of_a_plugin_is_the_plugins(tmp_path):
    assert higher_is_better("naswot") is True
    file = tmp_path / "latency.py"
    file.write_text(
        "from nas_proxy.interfaces import ZeroCostScore\n"
        "class Latency(ZeroCostScore):\n"
        "    higher_is_better = False\n"
        "    def measure(self, network, images):\n"
        "        return 1.0\n"
    )
    signal = f"{file}:Latency"
    assert higher_is_better(signal) is False
    assert SingleSignal(signal).of(complete(**{signal: 3.0})) == -3.0


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [("val_los", "did you mean 'val_loss'"), ("nasw0t", "did you mean 'naswot'")],
)
def test_unknown_signal_names_the_nearest(asked, nearest):
    with pytest.raises(ConfigError, match=f"unknown signal '{asked}'; {nearest}"):
        higher_is_better(asked)


def test_unknown_signal_with_nothing_near_lists_trained_and_zero_cost_ones():
    with pytest.raises(ConfigError) as caught:
        higher_is_better("zzz")
    for known in (*TRAINED_SIGNALS, "num_params", "flops", "log_synflow", "naswot"):
        assert known in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"signals": ()}, "signals is empty"),
        ({"signals": ("flops", "flops"), "combine": "rank_mean"}, "twice"),
        ({"signals": ("flops", "val_loss")}, "several signals need combine: rank_mean"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ScoreSettings(**options)


@pytest.mark.parametrize(
    "section",
    [{"num_reference": 3}, {"num_reference": True}, {"combine": "mean"}, {"signal": "val_loss"}],
)
def test_values_out_of_range_and_unknown_keys_are_refused(section):
    with pytest.raises(ValidationError):
        TypeAdapter(ScoreSettings).validate_python(section)


def test_smallest_settings_are_accepted():
    section = {"signals": ["val_loss"], "combine": "rank_mean", "num_reference": 4}
    assert TypeAdapter(ScoreSettings).validate_python(section).num_reference == 4
