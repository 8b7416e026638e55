"""Recipes whose trainings on the full data begin with steps on the distilled set."""

from dataclasses import replace

import pytest

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.errors import ConfigError, StudyError
from nas_proxy.evaluate.log import read_evaluations
from nas_proxy.evaluate.network import training_seed
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.study.config import check_config
from nas_proxy.study.knowledge_distillation import recipe_factory
from nas_proxy.study.pipeline import open_study, run_pipeline
from nas_proxy.study.recipe_units import part_unit
from nas_proxy.train.loop import train
from nas_proxy.train.training_set import TrainingSet
from tests.helpers.display import Quiet
from tests.study.helpers_calibrate import CONFIG, SHORT, STREAM, result_of, run

WARM = {**STREAM, "name": "warm", "warm_up": 3}
VALIDATE = {"num_architectures": 12, "controls": ["num_params"], "reference": {"train": SHORT}}


def checked(folder, *, recipe=WARM, **changes):
    """The configuration of a study whose candidates are ranked by `recipe`."""
    config = {key: value for key, value in CONFIG.items() if key != "calibrate"} | changes
    return check_config({**config, "recipe": recipe, "results": str(folder)})


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Such a study, searched."""
    config = checked(tmp_path_factory.mktemp("warm"), validate=VALIDATE)
    run_pipeline(config, Quiet(), last="search")
    return config


def test_an_evaluation_is_one_training_after_the_other(searched) -> None:
    kept = read_evaluations(searched.layout.folder / "search" / "evaluations.jsonl")[0]
    with open_study(searched, Quiet()) as study:
        settings = recipe_factory(study, study.recipe.recipe).settings
        full_data, spec = study.splits.search_train, study.splits.spec
    distilled = ProxyDataset.load(searched.layout.proxy_dataset)
    seed = training_seed(kept.seed)
    generator = make_generator(seed)
    with isolated_rng(seed):
        network = searched.space.build(kept.architecture, spec)
        losses = [
            loss
            for images, num_steps in ((distilled, 3), (full_data, 4))
            for loss in train(
                network,
                TrainingSet.of(images),
                replace(settings, num_steps=num_steps),
                generator,
            ).losses
        ]
    assert kept.phases == (("warm-up", 3), ("training", 4))
    assert kept.fidelity.num_steps == 7
    assert kept.train_losses == pytest.approx(losses, rel=1e-4)


@pytest.mark.exhaustive
def test_a_validation_holds_it_against_as_many_steps_on_the_full_data_alone(searched) -> None:
    run_pipeline(searched, Quiet(), last="report")
    (control,) = (searched.layout.folder / "validate").glob("same_steps_full_data.jsonl")
    assert {e.fidelity.num_steps for e in read_evaluations(control)} == {7}
    assert {e.phases for e in read_evaluations(control)} == {(("training", 7),)}
    report = (searched.layout.folder / "report.html").read_text()
    assert "after 3 steps on the proxy data set" in report
    assert "the same steps on the full data" in report


def test_a_plan_counts_its_steps(searched) -> None:
    with open_study(searched, Quiet()) as study:
        unit = part_unit(study, study.recipe.recipe, ("val_loss",))
    assert unit.train is not None
    assert unit.train.num_steps == 7


@pytest.mark.exhaustive
def test_a_race_trains_it_beside_the_same_recipe_without_it(tmp_path) -> None:
    run(tmp_path, calibrate={"recipes": [STREAM, WARM]})
    logs = {path.stem for path in (tmp_path / "tiny" / "calibrate").glob("full_data_*.jsonl")}
    assert len(logs) == 2
    assert {row["recipe"] for row in result_of(tmp_path)["standings"]} == {"stream", "warm"}


@pytest.mark.parametrize(
    "changes",
    [
        {"train_on": "proxy"},
        {"train_on": "nothing", "score": {"signals": ["num_params"]}},
        {"warm_up": -1},
        {"knowledge_distillation": {"kind": "self"}},
    ],
)
def test_it_is_refused_where_nothing_comes_after_it(tmp_path, changes) -> None:
    with pytest.raises(ConfigError, match="warm_up|greater than or equal to 0"):
        checked(tmp_path, recipe={**WARM, **changes})


def test_whitened_images_are_no_warm_up_for_others(tmp_path) -> None:
    whitened = {
        "name": "distribution_matching", "images_per_class": 1, "num_steps": 1, "zca": 0.1,
        "network_width": 8,
    }  # fmt: skip
    with pytest.raises(StudyError, match="ZCA-whitened.*warm_up"):
        run_pipeline(checked(tmp_path, distill=whitened), Quiet(), last="search")
