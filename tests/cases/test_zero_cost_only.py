"""Studies that train no candidate at all."""

import pytest

from tests.cases.helpers import RETRAINED, write_config

REFERENCE = {"train": {"num_steps": 3, "learning_rate": 0.02}}
WITHOUT_TRAINING = {
    "one": {"signals": ["naswot"]},
    "two": {"signals": ["naswot", "num_params"], "combine": "rank_mean", "num_reference": 4},
    "three": {
        "signals": ["log_synflow", "flops", "zen"],
        "combine": "rank_mean",
        "num_reference": 4,
    },
}


@pytest.mark.parametrize(
    "score",
    [pytest.param(s, marks=[] if s == "one" else pytest.mark.exhaustive) for s in WITHOUT_TRAINING],
)
def test_a_search_by_training_free_scores_alone(nas_proxy, tmp_path, score):
    write_config(tmp_path, space={"name": "convnet"}, score=WITHOUT_TRAINING[score])
    outcome = nas_proxy("search", "c.yaml")
    assert outcome.status == 0, outcome.errors
    assert "2 architectures, 0 failed" in outcome.errors


@pytest.mark.exhaustive
@pytest.mark.parametrize("distill", [None, {"name": "random_subset", "images_per_class": 2}])
def test_the_whole_line_without_a_trained_stage(nas_proxy, tmp_path, distill):
    judged = {"num_architectures": 5, "k": 2, "controls": ["num_params"], "reference": REFERENCE}
    write_config(
        tmp_path, space={"name": "convnet"}, score=WITHOUT_TRAINING["two"], distill=distill,
        validate=judged, retrain=RETRAINED,
    )  # fmt: skip
    for command in ("plan", "run", "report"):
        outcome = nas_proxy(command, "c.yaml")
        assert outcome.status == 0, outcome.errors
    assert (
        "winner" in outcome.errors + outcome.output
        or (tmp_path / "results/s/report.html").is_file()
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("searched", [{"executor": "processes"}, {"sampler": "nsga2",
    "objectives": ["score", "num_params"]}, {"sampler": "regularized_evolution"}])  # fmt: skip
def test_every_kind_of_search(nas_proxy, tmp_path, searched):
    search = {"n_trials": 4, **searched}
    write_config(tmp_path, space={"name": "convnet"}, score=WITHOUT_TRAINING["one"], search=search)
    outcome = nas_proxy("search", "c.yaml")
    assert outcome.status == 0, outcome.errors


@pytest.mark.exhaustive
def test_a_calibration_among_recipes_without_training(nas_proxy, tmp_path):
    recipes = [
        {"name": name, "train_on": "nothing", "score": score}
        for name, score in WITHOUT_TRAINING.items()
    ]
    calibrate = {"num_architectures": 10, "reference": REFERENCE, "recipes": recipes}
    write_config(
        tmp_path, space={"name": "convnet"}, score=None, recipe="calibrated", calibrate=calibrate
    )
    outcome = nas_proxy("search", "c.yaml")
    assert outcome.status in (0, 2), outcome.errors  # with so few none may be trusted
    assert "configuration cannot be used" not in outcome.errors
    assert "unexpected" not in outcome.errors


@pytest.mark.exhaustive
def test_the_case_as_it_is_written(case, nas_proxy):
    case("zero_cost_only")
    assert nas_proxy("search", "c.yaml").status == 0
