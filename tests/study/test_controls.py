"""What a validation holds a recipe against."""

import pytest

from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.reproducibility import make_generator
from nas_proxy.scores.calibrated import CalibratedScore
from nas_proxy.scores.combine import ScoreSettings
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.study.controls import control_score, other_scores
from nas_proxy.study.recipe import ActiveRecipe
from nas_proxy.types import Evaluation, Fidelity, Status

SPACE = ConvNetSpace(widths=(4, 8), depths=(1, 2))
ZERO_COST = ("naswot", "flops")


@pytest.fixture
def active() -> ActiveRecipe:
    """A recipe with a training, fitted to 24 architectures; its signals tell them apart."""
    known = [
        Evaluation(
            architecture,
            Fidelity("d", 1, 1, 8),
            0,
            Status.COMPLETE,
            signals={"val_loss": -float(at), "naswot": float(at), "flops": float(at % 7)},
        )
        for at, architecture in enumerate(draw_architectures(SPACE, 24, make_generator(0)))
    ]
    score = ScoreSettings(signals=("val_loss", *ZERO_COST), combine="calibrated")
    recipe = Recipe(name="short", train_on="full_data", score=score)
    references = {each.architecture: float(at) for at, each in enumerate(known)}
    return ActiveRecipe(recipe, known, references)


def test_zero_cost_signals_of_a_fitted_recipe_that_trains_are_fitted_alike(
    active: ActiveRecipe,
) -> None:
    name, score = control_score(active, SPACE, ZERO_COST, active.calibrated_on)
    assert name == ", calibrated alike"
    assert isinstance(score, CalibratedScore)
    assert score.signals == ZERO_COST
    best = max(active.calibrated_on, key=score.of)
    assert active.references[best.architecture] > 16


def test_its_own_signals_are_ranked_by_their_mean_too(active: ActiveRecipe) -> None:
    (name,) = other_scores(active, SPACE)
    assert name == "the same signals, rank mean"
