"""Cascades in a race, and recipes whose stages do not fit together."""

import numpy as np
import pytest

from nas_proxy.calibrate.race import Race
from nas_proxy.calibrate.recipes import Recipe, RecipeStage, recipes_by_name, spelt_out
from nas_proxy.calibrate.settings import CalibrateSettings
from nas_proxy.errors import ConfigError
from nas_proxy.evaluate.cascade import in_stages
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.scores.combine import ScoreSettings
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status
from nas_proxy.validate.settings import Reference

FIDELITY = Fidelity("d", 1, 1, 8)
FREE = RecipeStage(train_on="nothing", score=ScoreSettings(signals=("num_params",)))
LONG = RecipeStage(train_on="full_data", score=ScoreSettings(signals=("val_accuracy",)))
TRAIN = TrainSettings(num_steps=1)


def part(architecture, signal, value, seconds):
    cost = {signal if signal == "num_params" else "training": seconds}
    return Evaluation(
        architecture, FIDELITY, 0, Status.COMPLETE, {signal: value}, signal_seconds=cost,
        seconds=seconds, core_seconds=seconds,
    )  # fmt: skip


def race(noise, *, share=None, n=48):
    """A cascade of a free stage that sees through noise, and a training that sees all."""
    rng = np.random.default_rng(0)
    stages = (FREE, RecipeStage(train_on="full_data", score=LONG.score, share=share))
    recipe = Recipe(name="cascade", stages=stages)
    settings = CalibrateSettings(
        reference=Reference(train=TRAIN), num_architectures=1000, recipes=(recipe,), threshold=0.2
    )
    found = Race(settings, n, None, lambda e: e.core_seconds)
    truth = {Architecture("s", i): float(v) for i, v in enumerate(rng.normal(size=n))}
    evaluations = {
        a: in_stages(
            [
                part(a, "num_params", quality + noise * rng.normal(), 1.0),
                part(a, "val_accuracy", quality, 100.0),
            ]
        )
        for a, quality in truth.items()
    }
    found.judge(truth, {"cascade": evaluations})
    (standing,) = found.standings()
    return found, standing, evaluations


def test_it_costs_the_stages_that_are_passed():
    ran, standing, evaluations = race(0.3, share=0.25)
    passed = sum(p.scores["cascade"] > 1 for p in ran.points())
    assert 0.15 < passed / 48 < 0.4
    assert standing.seconds_per_architecture == pytest.approx(1 + 100 * passed / 48)
    assert all(e.core_seconds == 101 for e in evaluations.values())


def test_a_weak_stage_in_front_costs_and_loses_nothing():
    ran, standing, _ = race(50.0)
    assert standing.seconds_per_architecture == pytest.approx(101)
    assert standing.spearman.value == pytest.approx(1)
    ran, standing, _ = race(0.05)
    assert standing.seconds_per_architecture < 45
    assert standing.spearman.value > 0.95


def test_what_later_stages_read_is_measured_where_it_is_trained():
    reads = ScoreSettings(
        signals=("val_loss", "num_params", "stage_2.fit_loss"), combine="rank_mean"
    )
    stages = (FREE, LONG, RecipeStage(train_on="full_data", score=reads))
    recipe = Recipe(name="x", stages=stages)
    assert recipe.measured == (("num_params",), ("val_accuracy", "fit_loss"), ("val_loss",))
    single = Recipe(name="y", train_on="full_data", score=LONG.score)
    assert single.parts == (single,)
    assert single.measured == (("val_accuracy",),)


@pytest.mark.parametrize(
    ("stages", "more", "message"),
    [
        ((FREE,), {}, "one stage only"),
        ((RecipeStage(train_on="nothing", score=FREE.score, share=0.5), LONG), {}, "share cuts"),
        ((FREE, LONG), {"train_on": "nothing"}, "stand in each of them"),
        ((FREE, LONG), {"train": TRAIN}, "stand in each of them"),
        ((), {"train_on": "full_data", "keep": 0.5}, "keep means nothing"),
    ],
)
def test_stages_that_do_not_fit_together_are_refused(stages, more, message):
    with pytest.raises(ValueError, match=message):
        Recipe(name="x", stages=stages, **more)


@pytest.mark.parametrize(
    ("signal", "message"),
    [("stage_3.val_loss", "comes no earlier"), ("stage_1.val_loss", "trains on nothing")],
)
def test_signals_that_no_earlier_stage_has_are_refused(signal, message):
    score = ScoreSettings(signals=("val_loss", signal), combine="rank_mean")
    stages = (FREE, RecipeStage(train_on="full_data", score=score), LONG)
    with pytest.raises(ValueError, match=message):
        Recipe(name="x", stages=stages)


def test_a_stage_that_trains_on_nothing_has_no_signal_of_a_training():
    with pytest.raises(
        ValueError, match="the stage trains on nothing, but its signal train_loss_mean"
    ):
        RecipeStage(train_on="nothing")


def test_the_recipes_that_have_stages():
    recipes = recipes_by_name(SEARCH_SPACES.get("nasbench201")(), TRAIN)
    cascade, labelled = recipes["cascade"], recipes["self_labelled"]
    assert [p.train.num_steps for p in cascade.parts[1:]] == [90, 360]
    assert [s.combine for s in cascade.cascade.scores] == ["calibrated"] * 3
    assert cascade.measured[1:] == (("val_loss",), ("val_loss",))
    assert cascade.cascade.shares == (None, None, None)
    assert cascade.needs_labels
    assert not labelled.needs_labels
    assert labelled.parts[-1].score.combine == "rank_mean"
    assert labelled.num_reference == 32
    assert labelled.parts[-1].train.space_fidelity == {"num_cells": 1}
    assert spelt_out(cascade, TRAIN).parts[0].train == TRAIN


def test_an_unknown_signal_is_named_as_such():
    with pytest.raises(ConfigError, match="did you mean 'val_loss'"):
        RecipeStage(train_on="full_data", score=ScoreSettings(signals=("val_lss",)))
