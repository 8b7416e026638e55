"""Labels and encoding alone: a recipe that measures nothing, and what others must beat."""

import json

import pytest

from tests.study.helpers_calibrate import ZERO_COST, logs, result_of, run, table

NOTHING = {
    "name": "labels_encoding",
    "train_on": "nothing",
    "score": {"signals": [], "combine": "calibrated"},
}
VALIDATE = {
    "num_architectures": 12,
    "controls": ["num_params"],
    "k": 2,
}


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A study that ranks by it, and one that has labels and ranks by something else."""
    found = {}
    for recipe in (NOTHING, ZERO_COST):
        folder = tmp_path_factory.mktemp(recipe["name"])
        reference = table(folder)
        said = run(
            folder,
            last="validate",
            # No dozen architectures settle that, so all of them are used.
            calibrate={
                "reference": reference,
                "num_architectures": 24,
                "recipes": [recipe],
                "threshold": 0.9,
                "when_none": "best",
            },
            validate={**VALIDATE, "reference": reference},
        )
        report = json.loads((folder / "tiny" / "validate" / "rank_report.json").read_text())
        found[recipe["name"]] = folder, report, said
    return found


def test_a_recipe_that_measures_nothing_ranks_and_is_searched_with(studied):
    folder, report, _ = studied["labels_encoding"]
    (standing,) = result_of(folder)["standings"]
    assert standing["n"] == 24
    assert standing["seconds_per_architecture"] < 0.1
    assert report["judged"]["name"] == "the recipe labels_encoding"
    assert report["judged"]["spearman"]["value"] > 0.8  # the reference is size, which graphs show
    measured = logs(folder)["nothing"]
    assert len(measured) == 24
    trials = json.loads((folder / "tiny" / "search" / "search.json").read_text())["trials"]
    scores = [trial["score"] for trial in trials]
    assert len(set(scores)) == len(scores) == 3


def test_it_is_no_control_of_itself(studied):
    _, report, _ = studied["labels_encoding"]
    assert "labels and encoding alone" not in [row["name"] for row in report["rows"]]


def test_it_is_a_control_of_every_validation_that_had_labels(studied):
    _, report, _ = studied["zero_cost"]
    (row,) = [row for row in report["rows"] if row["name"] == "labels and encoding alone"]
    assert row["kind"] == "control"
    assert row["n"] == 12
    assert row["spearman"]["value"] > 0.8
    assert row["num_failed"] == 0
    assert any("labels and encoding alone" in words for words in report["comparisons"])
    assert "labels and encoding alone" in report["verdict"]


def test_too_few_labels_make_no_control(tmp_path):
    reference = table(tmp_path)
    run(
        tmp_path,
        last="validate",
        calibrate={"reference": reference, "num_architectures": 12, "recipes": [ZERO_COST]},
        validate={**VALIDATE, "reference": reference},
    )
    report = json.loads((tmp_path / "tiny" / "validate" / "rank_report.json").read_text())
    assert "labels and encoding alone" not in [row["name"] for row in report["rows"]]
