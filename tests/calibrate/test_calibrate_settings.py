"""The section `calibrate`, the recipes that ship, and what contradicts them."""

import math
from dataclasses import replace

import pytest
import yaml
from scipy import stats

from nas_proxy.calibrate.recipes import (
    NUM_DEFAULT,
    NUM_VAL_IMAGES,
    ZERO_COST,
    Recipe,
    default_recipes,
)
from nas_proxy.calibrate.settings import (
    CalibrateSettings,
    architectures_needed,
    bound_confidence,
    round_sizes,
    with_default_recipes,
)
from nas_proxy.errors import ConfigError
from nas_proxy.registry import SCORES, SEARCH_SPACES
from nas_proxy.scores.combine import ScoreSettings
from nas_proxy.study.config import check_config
from nas_proxy.study.plain_values import dump_options, read_options
from nas_proxy.train.settings import TrainSettings
from nas_proxy.validate.settings import Reference

REFERENCE = Reference(train=TrainSettings(num_steps=9))
CALIBRATE = {"reference": {"train": {"num_steps": 9}}}
CONFIG = {
    "study_name": "s",
    "data": {"name": "digits"},
    "distill": {"name": "random_subset", "images_per_class": 2},
    "space": {"name": "convnet", "widths": [8]},
    "train": {"num_steps": 3},
    "calibrate": CALIBRATE,
}
LIMIT = math.sqrt(0.986)  # one full training against another, on NAS-Bench-201; one is noisy
GUARD = {"guard": {"every": 2, "action": "recalibrate", "train": {"num_steps": 2}}}


def lower_bound(rho, n, num_recipes):
    """Fisher's z with Fieller's variance of Spearman's rho, at the confidence of the race."""
    num_rounds = next(k for k in range(1, 99) if 12 * 2 ** (k - 1) >= n)
    tail = 0.025 / (num_recipes * num_rounds)
    spread = stats.t.ppf(1 - tail, n - 2) * math.sqrt(1.06 / (n - 3))
    return math.tanh(math.atanh(rho) - spread)


# --- how many architectures -------------------------------------------------------------------


@pytest.mark.parametrize("num_recipes", [1, 10])
@pytest.mark.parametrize("threshold", [0.8, 0.9, 0.95, 0.98, 0.99])
def test_the_smallest_sample_is_the_first_that_could_pass(threshold, num_recipes):
    needed = architectures_needed(threshold, num_recipes)
    assert lower_bound(LIMIT, needed, num_recipes) >= threshold - 0.002
    assert needed == 10 or lower_bound(LIMIT, needed - 1, num_recipes) < threshold + 0.002


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.5])
def test_below_ten_there_is_no_interval(threshold):
    assert architectures_needed(threshold, 1) == 10
    with pytest.raises(ConfigError, match="greater than or equal to 10"):
        read_options(CalibrateSettings, {**CALIBRATE, "num_architectures": 9})


def test_more_recipes_and_more_looks_ask_for_more_confidence():
    assert bound_confidence(1, 1) == pytest.approx(0.95)
    assert bound_confidence(10, 3) == pytest.approx(1 - 0.05 / 30)
    assert architectures_needed(0.9, 10) > architectures_needed(0.9, 1)


def test_rounds_double_and_end_with_the_whole_sample():
    found = {num: round_sizes(num) for num in (10, 12, 13, 50, 96)}
    assert found == {
        10: (10,), 12: (12,), 13: (12, 13), 50: (12, 24, 48, 50), 96: (12, 24, 48, 96),
    }  # fmt: skip


@pytest.mark.parametrize("threshold", [0.9935, 0.999])
def test_a_threshold_that_not_even_a_ranking_without_noise_reaches_is_refused(threshold):
    with pytest.raises(ValueError, match=r"with one full training by about 0\.993 .* by 0\.986"):
        CalibrateSettings(reference=REFERENCE, num_architectures=10**6, threshold=threshold)


def test_a_sample_that_is_too_small_is_told_how_many_it_needs():
    needed = architectures_needed(0.95, NUM_DEFAULT)  # as many recipes as ship
    with pytest.raises(ValueError, match=f"takes at least {needed} architectures") as raised:
        CalibrateSettings(reference=REFERENCE, num_architectures=needed - 1, threshold=0.95)
    assert f"num_architectures is {needed - 1}" in str(raised.value)
    CalibrateSettings(reference=REFERENCE, num_architectures=needed, threshold=0.95)


# --- recipes ----------------------------------------------------------------------------------


def test_two_recipes_of_one_name_are_refused():
    twice = Recipe(name="a")
    with pytest.raises(ValueError, match="two recipes have the name 'a'"):
        CalibrateSettings(reference=REFERENCE, recipes=(twice, Recipe(name="b"), twice))


def test_a_recipe_without_training_has_no_signal_of_one():
    score = ScoreSettings(signals=("naswot", "val_loss@50"), combine="rank_mean")
    with pytest.raises(ValueError, match="trains on nothing, but its signal val_loss@50 needs"):
        Recipe(name="a", train_on="nothing", score=score)


def test_a_recipe_that_trains_for_nothing_is_refused():
    with pytest.raises(ValueError, match="has no signal of a training; set train_on: nothing"):
        Recipe(name="a", train_on="full_data", score=ScoreSettings(signals=("naswot",)))


TRAININGS = [
    TrainSettings(num_steps=7, image_size=8, num_seeds=2),
    TrainSettings(num_epochs=3, checkpoints=(50,), num_val_images=30),
]


@pytest.mark.parametrize("train", TRAININGS, ids=["steps", "epochs"])
@pytest.mark.parametrize("name", SEARCH_SPACES.names())
def test_the_default_recipes_fit_every_space(name, train):
    space = SEARCH_SPACES.get(name)()
    recipes = default_recipes(space, train)
    assert len({recipe.name for recipe in recipes}) == len(recipes)
    assert {recipe.train_on for recipe in recipes} == {"nothing", "full_data", "proxy"}
    assert {recipe.score.combine for recipe in recipes} == {"single", "rank_mean", "calibrated"}
    assert set(ZERO_COST) <= {signal for recipe in recipes for signal in recipe.score.signals}
    assert [len(recipe.stages) for recipe in recipes if recipe.stages] == [3]
    for recipe, part in [(whole, part) for whole in recipes for part in whole.parts]:
        trained = part.train
        if part.train_on == "nothing":
            assert trained is None
            continue
        reduced = replace(space, **dict(trained.space_fidelity))  # raises if it has no such option
        assert reduced.name == space.name
        # What the section train says of the fidelity stays as it is.
        for kept in ("image_size", "num_seeds", "checkpoints", "optimiser"):
            assert getattr(trained, kept) == getattr(train, kept)
        assert trained.num_val_images == (train.num_val_images or NUM_VAL_IMAGES)
        assert trained.num_epochs is None
        assert str(trained.num_steps) in recipe.name or recipe.stages
        assert part.score.use_encoding


def test_the_default_recipes_hold_every_score_alone_and_labels_without_any():
    recipes = default_recipes(SEARCH_SPACES.get("convnet")(), TRAININGS[0])
    by_name = {recipe.name: recipe for recipe in recipes}
    assert len(recipes) == len(by_name) == NUM_DEFAULT
    for name in SCORES.names():
        if SCORES.get(name).__module__.startswith("nas_proxy."):
            score = by_name[f"{name}_alone"].score
            assert (score.signals, score.combine) == ((name,), "single")
    assert by_name["zero_cost_calibrated"].score.signals == ZERO_COST
    assert by_name["zero_cost_calibrated"].score.combine == "calibrated"
    nothing = by_name["labels_encoding"]
    assert (nothing.score.signals, nothing.score.combine) == ((), "calibrated")
    assert nothing.train_on == "nothing"


@pytest.mark.parametrize("name", SEARCH_SPACES.names())
def test_a_config_takes_them_where_none_are_named(name):
    for recipes in ({}, {"recipes": "default"}):
        config = check_config(
            {**CONFIG, "space": {"name": name}, "calibrate": {**CALIBRATE, **recipes}}
        )
        assert config.calibration.recipes == default_recipes(config.space, config.train)
        assert config.recipe == "calibrated"


def test_what_is_named_is_not_replaced():
    own = (Recipe(name="a"),)
    settings = CalibrateSettings(reference=REFERENCE, recipes=own)
    assert with_default_recipes(settings, None, TRAININGS[0]) is settings


# --- reading and writing ----------------------------------------------------------------------


@pytest.mark.parametrize("recipes", ["default", [{"name": "a", "train": {"num_steps": 5}}]])
def test_a_config_is_read_back_from_its_yaml_as_it_was(recipes):
    asked = {**CALIBRATE, "recipes": recipes, "threshold": 0.5, "budget_seconds": 60}
    config = check_config({**CONFIG, "calibrate": asked})
    again = check_config(yaml.safe_load(config.to_yaml()))
    assert again.calibration == config.calibration
    assert again == config


def test_a_recipe_is_read_back_as_it_was():
    for recipe in default_recipes(SEARCH_SPACES.get("nasbench201")(), TRAININGS[1]):
        assert read_options(Recipe, dump_options(recipe)) == recipe


def faults(**changes):
    with pytest.raises(ConfigError) as raised:
        check_config({**CONFIG, **changes})
    return str(raised.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_architectures": 5}, "calibrate.num_architectures"),
        ({"budget_seconds": 0}, "calibrate.budget_seconds: the value should be greater than 0"),
        ({"recipes": "defalt"}, "recipes is 'defalt'; write default, or list recipes"),
        ({"recipes": [{"name": "a", "train_on": "all"}]}, "calibrate.recipes.0.train_on"),
        ({"recipes": [{"name": "a", "score": {"signals": ["val_los"]}}]}, "mean 'val_loss'"),
        ({"recipes": [{"name": "a", "score": {"signals": ["val_loss@x"]}}]}, "from 1 to 99"),
        ({"recipes": [{"name": "a", "score": {"signals": ["val_loss@²"]}}]}, "from 1 to 99"),
        (
            {"recipes": [{"name": "a", "score": {"signals": ["val_loss@50"]}}]},
            "calibrate.recipes.0.score.signals: 'val_loss@50' is read at 50 % of the steps",
        ),
        (
            {"recipes": [{"name": "a", "train": {"num_steps": 2, "space_fidelity": {"x": 1}}}]},
            "calibrate.recipes.0.train.space_fidelity.x",
        ),
        ({"when_none": "go"}, "calibrate.when_none"),
        ({"reference": {"table": "a.csv", "train": {"num_steps": 1}}}, "exactly one of table"),
        ({"treshold": 0.5}, "did you mean 'threshold'"),
    ],
)
def test_wrong_settings_are_named_with_their_path(changes, words):
    assert words in faults(calibrate={**CALIBRATE, **changes})


def without_calibrate(**changes):
    asked = {key: value for key, value in CONFIG.items() if key != "calibrate"}
    with pytest.raises(ConfigError) as raised:
        check_config({**asked, **changes})
    return str(raised.value)


COMBINED = {"signals": ["val_loss", "naswot"], "combine": "calibrated"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipe": "calibrated"}, "recipe: calibrated"),
        ({"score": COMBINED}, "score.combine: calibrated"),
        ({"search": GUARD}, "search.guard.action"),
        ({"distill": {"name": "rank_aware"}}, "distill.name: rank_aware"),
    ],
)
def test_what_needs_known_architectures_needs_the_section(changes, words):
    message = without_calibrate(**changes)
    assert words in message
    assert "add a section calibrate" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipe": "configured", "search": GUARD}, "search.guard.action: recalibrate"),
        ({"recipe": "trusted", "search": GUARD}, "search.guard.action: recalibrate"),
    ],
)
def test_what_needs_a_calibrated_recipe_is_refused_beside_another(changes, words):
    message = faults(**changes)
    assert f"{words} needs what calibrate finds, but recipe is {changes['recipe']}" in message
    assert check_config({**CONFIG, **changes, "recipe": "calibrated"}).recipe == "calibrated"


# --- the sections train and score -------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["calibrated", "trusted"])
def test_a_score_that_nobody_reads_is_refused(recipe):
    asked = {**CONFIG, "recipe": recipe, "score": {"signals": ["val_loss"]}}
    with pytest.raises(ConfigError) as raised:
        check_config(asked)
    assert f"score: recipe is {recipe}, so candidates are ranked by that" in str(raised.value)
    assert check_config({**asked, "recipe": "configured"}).score.signals == ("val_loss",)
    del asked["score"]
    config = check_config(asked)
    assert "score" not in config.resolved  # it would be refused when it is read back
    assert check_config(yaml.safe_load(config.to_yaml())) == config


def test_a_calibrated_score_of_its_own_is_sent_to_the_recipes():
    message = faults(recipe="configured", score=COMBINED)
    assert "score.combine: calibrated" in message
    assert "give this score to one of its recipes" in message
    own = {"recipes": [{"name": "a", "score": COMBINED}]}
    assert check_config({**CONFIG, "calibrate": {**CALIBRATE, **own}}).recipe == "calibrated"


@pytest.mark.parametrize(
    "recipes", ["default", [{"name": "a"}, {"name": "b", "score": {"signals": ["val_accuracy"]}}]]
)
def test_a_misspelt_fidelity_of_the_section_train_is_said_once(recipes):
    message = faults(
        train={"num_steps": 3, "space_fidelity": {"num_cell": 1}},
        calibrate={**CALIBRATE, "recipes": recipes},
    )
    assert message.count("num_cell") == 1
    assert "train.space_fidelity.num_cell: not a fidelity" in message
