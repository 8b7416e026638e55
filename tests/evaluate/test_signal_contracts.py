"""Contracts over every signal of a training and every way to combine signals."""

from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from scipy import stats

from nas_proxy.errors import StudyError
from nas_proxy.scores.combine import ScoreSettings, make_score
from nas_proxy.scores.signals import TRAINED_SIGNALS, higher_is_better
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status
from tests.evaluate.helpers_fakes import ARCHITECTURE, evaluator

COMBINERS = get_args(get_type_hints(ScoreSettings)["combine"])
NOWHERE = Fidelity("made up", 1, 1, 8)


def evaluations(num, noise=0.0, **constant):
    """Made-up evaluations whose two signals follow the truth, and the truth."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=num)
    made = [
        Evaluation(
            Architecture("made up", [index]),
            NOWHERE,
            0,
            Status.COMPLETE,
            signals={
                "val_loss": float(-value + noise * rng.normal()),
                "naswot": float(value**3 + noise * rng.normal()),
                **constant,
            },
        )
        for index, value in enumerate(truth)
    ]
    return made, {e.architecture: float(value) for e, value in zip(made, truth, strict=True)}


def settings(combine, *signals):
    return ScoreSettings(signals=signals[:1] if combine == "single" else signals, combine=combine)


@pytest.mark.parametrize("signal", TRAINED_SIGNALS)
def test_every_trained_signal_is_measured_and_finite(signal):
    made = evaluator()
    evaluation_data = made.evaluation_data
    teacher = torch.full((len(evaluation_data.measured_on.labels), 3), 1 / 3)
    watched = replace(
        evaluation_data,
        fit_on=evaluation_data.training_set,
        teacher_probabilities=teacher,
        averages=True,
    )
    trained = replace(made.settings, num_steps=4, checkpoints=(50,))
    evaluation = replace(made, evaluation_data=watched, settings=trained).evaluate(ARCHITECTURE, 0)
    assert evaluation.complete, evaluation.reason
    assert np.isfinite(evaluation.signals[signal])
    assert isinstance(higher_is_better(signal), bool)


@pytest.mark.parametrize("combine", COMBINERS)
def test_what_follows_the_truth_ranks_like_it(combine):
    known, truth = evaluations(60, noise=0.05)
    score = make_score(settings(combine, "val_loss", "naswot"), known[:40], truth)
    fresh = known[40:]
    rho = stats.spearmanr([score.of(e) for e in fresh], [truth[e.architecture] for e in fresh])[0]
    assert rho > 0.9
    assert [score.of(e) for e in fresh] == [score.of(e) for e in fresh]


@pytest.mark.parametrize("combine", COMBINERS)
def test_failures_in_the_sample_change_nothing(combine):
    known, truth = evaluations(40)
    failed = replace(known[0], status=Status.FAILED, signals={}, reason="made up")
    with_failure = make_score(settings(combine, "val_loss", "naswot"), [failed, *known[1:]], truth)
    without = make_score(settings(combine, "val_loss", "naswot"), known[1:], truth)
    assert with_failure.of(known[5]) == pytest.approx(without.of(known[5]))


@pytest.mark.parametrize("combine", COMBINERS)
def test_ties_get_one_score(combine):
    known, truth = evaluations(40)
    twin = replace(known[3], architecture=Architecture("made up", ["twin"]))
    score = make_score(settings(combine, "val_loss", "naswot"), known, truth)
    assert score.of(twin) == pytest.approx(score.of(known[3]))


@pytest.mark.parametrize("combine", [name for name in COMBINERS if name != "single"])
def test_a_constant_signal_among_others_does_not_disturb(combine):
    known, truth = evaluations(40, val_accuracy=0.1)
    score = make_score(settings(combine, "val_accuracy", "val_loss"), known, truth)
    alone = [e.signals["val_loss"] for e in known]
    assert stats.spearmanr([score.of(e) for e in known], alone)[0] < -0.99


def test_a_model_of_nothing_but_constant_signals_is_refused():
    known, truth = evaluations(40, val_accuracy=0.1, flops=7.0)
    with pytest.raises(StudyError, match="same value"):
        make_score(settings("calibrated", "val_accuracy", "flops"), known, truth)


@pytest.mark.parametrize("combine", [name for name in COMBINERS if name != "calibrated"])
def test_nothing_but_constant_signals_ties_everything(combine):
    known, truth = evaluations(40, val_accuracy=0.1, flops=7.0)
    score = make_score(settings(combine, "val_accuracy", "flops"), known, truth)
    assert len({score.of(e) for e in known}) == 1


@pytest.mark.parametrize("combine", [name for name in COMBINERS if name != "single"])
def test_too_small_a_sample_is_refused(combine):
    known, truth = evaluations(3)
    with pytest.raises(StudyError):
        make_score(settings(combine, "val_loss", "naswot"), known, truth)
