"""The one number of a cascade, and who goes on, on made-up signals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_proxy.processes import pack, unpack
from nas_proxy.scores.cascade import CascadeScore, CascadeSettings, own_labels
from nas_proxy.scores.combine import ScoreSettings
from nas_proxy.scores.signals import is_trained, own_signal, signal_in_stage, stage_of
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status

FIDELITY = Fidelity("d", 1, 1, 8)
FREE = ScoreSettings(signals=("num_params",))
SHORT = ScoreSettings(signals=("val_accuracy",))
LONG = ScoreSettings(signals=("val_loss", "stage_2.val_accuracy"), combine="rank_mean")


def evaluation(number, values, *, num_stages=3):
    """An architecture whose score in each stage is the value there."""
    names = ("num_params", "stage_2.val_accuracy", "stage_3.val_loss")
    signals = dict(zip(names, values, strict=False))
    if "stage_3.val_loss" in signals:
        signals["stage_3.val_loss"] *= -1
    kept = dict(list(signals.items())[:num_stages])
    seconds = tuple([1.0] * len(kept))
    a = Architecture("s", number)
    return Evaluation(a, FIDELITY, 0, Status.COMPLETE, kept, stage_seconds=seconds)


def sample(n=40, *, noise=(1.0, 0.3, 0.1), seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    found = [
        evaluation(i, [quality + rng.normal() * each for each in noise])
        for i, quality in enumerate(truth)
    ]
    return found, {e.architecture: float(t) for e, t in zip(found, truth, strict=True)}


def cascade(*, scores=(FREE, SHORT, LONG), shares=(None, 0.5, 0.2), keep=0.9, **changes):
    found, truth = sample(**changes)
    return CascadeScore(CascadeSettings(scores, shares, keep), found, truth, None)


SCORE = cascade()
ALONE = cascade(scores=(FREE, SHORT), shares=(None, 0.5))
EVERYTHING = st.floats(allow_nan=False, allow_infinity=False)


def test_signals_of_stages_have_names_of_their_own():
    assert SCORE.signals == ("num_params", "stage_2.val_accuracy", "stage_3.val_loss")
    assert stage_of("stage_2.val_loss@50") == 2
    assert own_signal("stage_2.val_loss@50") == "val_loss@50"
    assert is_trained(signal_in_stage("val_loss", 12))
    for other in ("val_loss", "stage_0.val_loss", "stage_2.naswot", "stage_1.mine:Score"):
        assert stage_of(other) is None
        assert own_signal(other) == other


@settings(max_examples=80, deadline=None)
@given(st.lists(EVERYTHING, min_size=6, max_size=6))
def test_whatever_goes_on_ranks_above_whatever_does_not(values):
    first, second = evaluation(1, values[:3]), evaluation(2, values[3:])
    low, high = sorted((first, second), key=lambda e: SCORE.place(e).num_stages)
    reached = [SCORE.place(e).num_stages for e in (low, high)]
    if reached[0] < reached[1]:
        assert SCORE.of(low) < SCORE.of(high)
    for place in (SCORE.place(low), SCORE.place(high)):
        assert place.num_stages - 1 < place.score < place.num_stages


@settings(max_examples=80, deadline=None)
@given(EVERYTHING, EVERYTHING)
def test_the_order_within_a_stage_is_that_of_its_score(one, other):
    """Ended in the first stage, and gone on to the last: both unbounded."""
    least = ALONE.cuts[1].score
    for known in ("ended", "went on"):
        ends = known == "ended"
        values = [(v, 0.0) if ends else (least, v) for v in (one, other)]
        places = [ALONE.place(evaluation(i, v, num_stages=2)) for i, v in enumerate(values)]
        if ends and max(one, other) >= least:
            continue
        assert [p.num_stages for p in places] == [1 if ends else 2] * 2
        if one < other:
            assert places[0].score <= places[1].score
            if other - one > 1e-8 * max(abs(one), abs(other), 1.0):
                assert places[0].score < places[1].score


def test_outliers_do_not_tie():
    values = [1e300, 1e20, 1e20 * (1 + 1e-8), 1e9, 7.0]
    scores = [ALONE.of(evaluation(i, (1e9, v), num_stages=2)) for i, v in enumerate(values)]
    assert len(set(scores)) == len(values)
    assert list(np.argsort(scores)) == list(np.argsort(values))


def test_a_stage_is_read_only_if_the_cut_before_it_is_reached():
    least = SCORE.cuts[1].score
    just, below = evaluation(1, (least, -9, 0)), evaluation(2, (math.nextafter(least, -9), 99, 99))
    assert SCORE.place(just).num_stages == 2
    assert SCORE.place(below).num_stages == 1
    short = evaluation(1, (least,), num_stages=1)
    assert SCORE.goes_on(short)
    assert not SCORE.goes_on(evaluation(2, (math.nextafter(least, -9),), num_stages=1))
    assert not SCORE.goes_on(evaluation(1, (9, 9, 9)))  # there is no fourth


def test_what_ended_has_the_score_that_it_would_have_had_with_all_stages():
    found, _ = sample(seed=5)
    for each in found:
        reached = SCORE.place(each).num_stages
        names = list(each.signals)[:reached]
        ended = evaluation(0, (0, 0, 0), num_stages=reached)
        ended = type(each)(
            each.architecture, FIDELITY, 0, Status.COMPLETE, {n: each.signals[n] for n in names},
            stage_seconds=ended.stage_seconds,
        )  # fmt: skip
        assert SCORE.of(ended) == SCORE.of(each)


def test_a_weak_first_stage_lets_all_go_on_and_a_strong_one_few():
    weak = cascade(shares=(None, None, None), noise=(9.0, 0.3, 0.1), n=48)
    strong = cascade(shares=(None, None, None), noise=(0.1, 0.05, 0.02), n=48)
    assert weak.cuts[1].share > 0.9
    assert strong.cuts[1].share < 0.4


@pytest.mark.parametrize("noise", [(0.6, 0.3, 0.1), (0.3, 0.2, 0.1)])
def test_all_cuts_together_keep_what_was_stated(noise):
    kept = []
    for seed in range(10):
        score = cascade(shares=(None, None, None), noise=noise, n=48, seed=seed)
        found, truth = sample(200, noise=noise, seed=1000 + seed)
        best = sorted(found, key=lambda e: -truth[e.architecture])[:20]
        kept.append(np.mean([score.place(e).num_stages == 3 for e in best]))
    assert np.mean(kept) >= 0.9


def test_the_sample_is_placed_without_its_own_part():
    score = cascade(shares=(None, None, None), noise=(0.5, 0.3, 0.1))
    assert set(score.of_sample) == {Architecture("s", i) for i in range(40)}
    found, truth = sample(noise=(0.5, 0.3, 0.1))
    best = max(truth, key=truth.get)
    index = [e.architecture for e in found].index(best)
    others = [e for e in found if e.architecture != best]
    again = CascadeScore(
        CascadeSettings((FREE, SHORT, LONG), (None, None, None), 0.9), others, truth, None
    )
    # The rank mean of the last stage has seen it; the cuts have not.
    assert score.of_sample[best].num_stages == again.place(found[index]).num_stages


def test_labels_of_its_own_are_the_last_stages_score():
    found, _ = sample()
    labels = own_labels((FREE, SHORT, ScoreSettings(signals=("val_loss",))), found)
    assert labels == {e.architecture: -e.signals["stage_3.val_loss"] for e in found}


def test_it_travels_and_is_known_again():
    read = unpack(pack(SCORE))  # as it goes to workers
    assert read == SCORE
    found, _ = sample(seed=9)
    assert [read.of(e) for e in found] == [SCORE.of(e) for e in found]
    assert cascade() == SCORE
    for other in ({"shares": (None, 0.5, 0.3)}, {"seed": 1}, {"keep": 0.8}):
        assert cascade(**other) != SCORE


def test_failed_members_of_the_sample_are_left_out():
    found, truth = sample()
    failed = Evaluation(Architecture("s", 99), FIDELITY, 0, Status.FAILED, reason="in stage 2: no")
    stages = CascadeSettings((FREE, SHORT, LONG), (None, 0.5, 0.2), 0.9)
    assert CascadeScore(stages, [*found, failed], truth, None) == SCORE
