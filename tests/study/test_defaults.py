"""Configurations that leave sections out."""

from pathlib import Path

import pytest
import yaml

from nas_proxy.calibrate.recipes import Recipe, RecipeStage
from nas_proxy.errors import ConfigError
from nas_proxy.evaluate.sample import count_architectures
from nas_proxy.reproducibility import make_generator
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.study.config import check_config
from nas_proxy.study.pipeline import run_pipeline
from tests.helpers.display import Quiet

SPACE = {"name": "convnet"}
MINIMAL = {"study_name": "minimal", "data": {"name": "digits"}, "space": SPACE}
TINY_SPACE = {"name": "convnet", "widths": [4], "depths": [1], "norms": ["batch"]}  # 9 networks
CALIBRATE = {"reference": {"train": {"num_epochs": 1}}}
DISTILLED = {"name": "own", "train_on": "proxy", "score": {"signals": ["val_accuracy"]}}
STREAM = {"name": "own", "train_on": "full_data", "score": {"signals": ["val_loss"]}}
PICTURES = {
    "name": "pictures",
    "train_on": "nothing",
    "score": {"signals": ["naswot"], "score_images": "distilled"},
}


def config_of(**sections):
    return check_config({**MINIMAL, **sections})


def test_name_data_and_space_are_enough() -> None:
    config = check_config(MINIMAL)
    recipe = config.recipe
    assert isinstance(recipe, Recipe)
    assert recipe.name == "self_labelled"
    assert [stage.train_on for stage in recipe.stages] == ["nothing", "full_data"]
    assert {stage.score.num_reference for stage in recipe.stages} == {32}
    assert recipe.stages[-1].train == config.train
    assert (config.train.num_steps, config.train.norm_statistics) == (360, "recalibrated")
    assert any("self_labelled" in notice for notice in config.notices)
    assert any("none is made" in notice for notice in config.notices)


@pytest.mark.parametrize("sections", [{}, {"train": {"num_epochs": 2}}, {"space": TINY_SPACE}])
def test_what_was_meant_is_written_out_and_means_the_same_again(sections) -> None:
    config = config_of(**sections)
    assert check_config(yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize("recipe", [None, "self_labelled"])
def test_a_section_train_counts_as_far_as_it_goes(recipe) -> None:
    train = {"num_epochs": 3, "batch_size": 16, "learning_rate": 0.02, "image_size": 4}
    config = config_of(train=train, recipe=recipe)
    trained = config.recipe.stages[-1].train
    assert {name: getattr(trained, name) for name in train} == train
    assert trained.num_steps is None
    assert trained.norm_statistics == "recalibrated"  # what it does not say is the recipe's
    if recipe is None:
        assert "num_epochs: 3" in config.notices[0]
    assert config_of(train={"image_size": 4}).recipe.stages[-1].train.num_steps == 360
    assert config_of(train={"image_size": 4}, score={}).train.num_steps == 360
    full_size = config_of(
        space={"name": "nasbench201"}, train={"num_steps": 5, "space_fidelity": {}}
    )
    assert full_size.recipe.stages[-1].train.space_fidelity == {}


def test_what_a_recipe_says_itself_is_not_taken_from_the_section_in_silence() -> None:
    train = {"num_steps": 7, "batch_size": 16}
    (notice, _) = config_of(train=train, recipe="stream_90_alone").notices
    assert "num_steps: 7" in notice
    assert "stream_90_alone" in notice
    (raced,) = config_of(train=train, calibrate=CALIBRATE).notices
    assert "num_steps: 7 and batch_size: 16" in raced
    told = config_of(train={"num_steps": 360, "batch_size": 128}, calibrate=CALIBRATE).notices
    assert told == ()  # one of the recipes does so
    taken = config_of(train=train, recipe=DISTILLED).notices
    assert taken == ()  # a recipe without train takes the section's


@pytest.mark.parametrize("num_widths", [1, 4, 5, 7, 8])
def test_a_small_space_has_a_smaller_sample_or_none(num_widths) -> None:
    recipe = config_of(space={**TINY_SPACE, "widths": list(range(1, num_widths + 1))}).recipe
    num_networks = 9 * num_widths
    if num_networks < 40:
        assert recipe.name == "stream_alone"
        assert recipe.num_reference == 0
    else:  # at least half of the space is left to judge on
        assert recipe.num_reference == min(num_networks, 64) // 2
        assert recipe.num_reference >= 20


def test_networks_of_a_space_are_counted_once() -> None:
    space = ConvNetSpace(widths=(4, 8), depths=(1,), norms=("batch",))
    counted = [count_architectures(space, most, make_generator(0)) for most in (1, 17, 18, 100)]
    assert counted == [1, 17, 18, 18]


def test_a_distilled_set_is_read_by_how_fast_it_is_learned() -> None:
    assert config_of(recipe="configured").score.signals == ("train_loss_mean",)
    assert config_of(score={}).score.signals == ("train_loss_mean",)
    taught = {"kind": "response", "teachers": ["resnet18"]}
    config = config_of(knowledge_distillation=taught)
    assert config.recipe == "configured"
    assert config.score.signals == ("train_loss_mean",)


def test_a_recipe_without_a_score_reads_its_kind_of_set() -> None:
    assert Recipe(name="own").score.signals == ("train_loss_mean",)
    assert Recipe(name="own", train_on="full_data").score.signals == ("val_loss",)
    assert RecipeStage(train_on="full_data").score.signals == ("val_loss",)
    given = config_of(recipe={"name": "own", "train_on": "full_data"})
    assert given.recipe.score.signals == ("val_loss",)
    asked = {"name": "own", "train_on": "full_data", "score": {"signals": ["train_loss_mean"]}}
    assert config_of(recipe=asked).recipe.score.signals == ("train_loss_mean",)


@pytest.mark.parametrize(
    ("sections", "is_read"),
    [
        ({}, False),
        ({"recipe": "configured"}, True),
        ({"score": {"signals": ["naswot"]}}, False),
        ({"score": {"signals": ["naswot"], "score_images": "distilled"}}, True),
        ({"calibrate": CALIBRATE}, True),
        ({"calibrate": {**CALIBRATE, "recipes": [STREAM]}}, False),
        ({"calibrate": {**CALIBRATE, "recipes": [STREAM, PICTURES]}}, True),
        ({"recipe": DISTILLED}, True),
        ({"recipe": "distilled_360_alone"}, True),
        ({"recipe": "stream_90_alone"}, False),
    ],
)
def test_images_are_distilled_where_something_reads_them(sections, is_read) -> None:
    config = config_of(**sections)
    assert config.distiller.name == ("distribution_matching" if is_read else "random_subset")
    assert any("nothing reads a distilled set" in each for each in config.notices) != is_read
    own = config_of(**sections, distill={"name": "herding"})
    assert own.distiller.name == "herding"
    assert any("because the section asks" in each for each in own.notices) != is_read


def test_faults_are_those_of_what_is_there() -> None:
    with pytest.raises(ConfigError, match="num_step") as caught:
        config_of(train={"num_step": 3}, space={"name": "convnett"})
    assert "distill" not in str(caught.value)


@pytest.mark.exhaustive
def test_a_minimal_study_runs(tmp_path: Path) -> None:
    display = Quiet()
    config = config_of(
        space=TINY_SPACE,
        data={"name": "digits", "images_per_class": 6},
        train={"num_steps": 2},
        search={"n_trials": 2},
        results=str(tmp_path),
        tracking={"uri": None},
    )
    run_pipeline(config, display)
    assert any("too few for self_labelled" in said for said in display.said)
    assert (tmp_path / "minimal" / "report.json").is_file()
