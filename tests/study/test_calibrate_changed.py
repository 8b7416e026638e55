"""A calibration that is asked for something else: the same logs answer, nothing is done again."""

from collections import Counter

import pytest

from nas_proxy.errors import StudyError
from nas_proxy.evaluate.network import NetworkEvaluator
from tests.study.helpers_calibrate import (
    SHORT,
    STREAM,
    ZERO_COST,
    command,
    genotypes,
    logs,
    result_of,
    run,
    table,
)

pytestmark = pytest.mark.usefixtures("no_test_split")

FIT = {"name": "fit", "train_on": "full_data", "score": {"signals": ["fit_loss"]}}
ACCURACY = {"name": "accuracy", "train_on": "full_data", "score": {"signals": ["val_accuracy"]}}


@pytest.fixture
def evaluated(monkeypatch):
    """Architectures in the order in which they are evaluated."""
    evaluate, done = NetworkEvaluator.evaluate, []

    def counting(self, architecture, seed):
        done.append(architecture)
        return evaluate(self, architecture, seed)

    monkeypatch.setattr(NetworkEvaluator, "evaluate", counting)
    return done


def numbers(folder):
    return {name: len(entries) for name, entries in logs(folder).items()}


@pytest.mark.parametrize(
    "change",
    [pytest.param({"threshold": -0.9}, marks=pytest.mark.exhaustive), {"when_none": "best"}],
)
def test_what_the_refusal_suggests_continues_the_study(tmp_path, evaluated, change):
    asked = {"num_architectures": 20, "threshold": 0.95, "recipes": [ZERO_COST, STREAM]}
    with pytest.raises(StudyError, match="No recipe reaches"):
        run(tmp_path, calibrate=asked)
    before, count = numbers(tmp_path), len(evaluated)
    said = run(tmp_path, calibrate={**asked, **change})
    assert numbers(tmp_path) == before
    assert len(evaluated) == count
    assert result_of(tmp_path)["trusted"] is ("threshold" in change)
    assert any(line.startswith("calibrate: ") for line in said)
    # And back again: what was said is said again.
    with pytest.raises(StudyError, match="No recipe reaches"):
        run(tmp_path, calibrate=asked)
    assert len(evaluated) == count


def test_more_architectures_cost_no_more_than_themselves(tmp_path, evaluated):
    asked = {"num_architectures": 12, "recipes": [ZERO_COST, STREAM], "when_none": "best"}
    asked["threshold"] = 0.6
    asked["reference"] = table(tmp_path, agreement=0.8)
    run(tmp_path, calibrate=asked)
    first = logs(tmp_path)
    run(tmp_path, calibrate={**asked, "num_architectures": 20})
    assert result_of(tmp_path)["num_asked"] == 20
    for name, entries in logs(tmp_path).items():
        assert entries[: len(first[name])] == first[name]
    assert max(Counter(evaluated).values()) == 3  # two signals without training, one training
    run(tmp_path, calibrate=asked)  # fewer again
    assert result_of(tmp_path)["num_asked"] == 12
    assert max(Counter(evaluated).values()) == 3


def test_a_larger_budget_goes_on_where_the_smaller_one_ended(tmp_path, evaluated):
    reference = table(tmp_path, agreement=0.8)
    asked = {"num_architectures": 20, "threshold": 0.3, "recipes": [ZERO_COST], "when_none": "best"}
    asked["reference"] = reference
    run(tmp_path, calibrate={**asked, "budget_seconds": 1e-6})
    assert result_of(tmp_path)["num_architectures"] == 12
    run(tmp_path, calibrate=asked)
    assert result_of(tmp_path)["num_architectures"] == 20
    assert Counter(evaluated).most_common(1)[0][1] == 2


@pytest.mark.exhaustive
def test_other_recipes_train_only_what_no_log_holds(tmp_path, evaluated):
    run(tmp_path, calibrate={"recipes": [STREAM]})
    (stream,) = (name for name in logs(tmp_path) if name.startswith("full_data"))
    count = len(evaluated)
    # Measured anyway in the same training.
    run(tmp_path, calibrate={"recipes": [ACCURACY]})
    assert len(evaluated) == count
    assert result_of(tmp_path)["chosen"] == "accuracy"
    # Not measured unless it is asked for: the training is repeated, into a log of its own.
    run(tmp_path, calibrate={"recipes": [STREAM, FIT]})
    assert len(evaluated) == count + 12
    found = logs(tmp_path)
    assert set(found) == {"reference", stream, f"{stream}_fit_loss"}
    assert genotypes(found[stream]) == genotypes(found[f"{stream}_fit_loss"])
    # The list is the first again, or asks for what came along: both logs serve.
    for recipes in ([STREAM], [FIT], [ACCURACY, FIT]):
        run(tmp_path, calibrate={"recipes": recipes})
        assert len(evaluated) == count + 12
    # Another training is another log.
    other = {**STREAM, "train": {**SHORT, "num_steps": 5}}
    run(tmp_path, calibrate={"recipes": [other]})
    assert len(evaluated) == count + 24


@pytest.mark.exhaustive
def test_a_log_that_holds_more_than_is_asked_for_serves(tmp_path, evaluated):
    run(tmp_path, calibrate={"recipes": [FIT, STREAM]})
    count = len(evaluated)
    run(tmp_path, calibrate={"recipes": [STREAM]})
    assert len(evaluated) == count
    # What is added to it holds as much as the rest, so that both lists are served again.
    longer = {"num_architectures": 16, "threshold": 0.9, "when_none": "best"}
    run(tmp_path, calibrate={**longer, "recipes": [STREAM]})
    run(tmp_path, calibrate={**longer, "recipes": [STREAM, FIT]})
    assert len(evaluated) == count + 2 * 4  # reference and training of four more
    (name,) = (name for name in logs(tmp_path) if name.startswith("full_data"))
    assert len(logs(tmp_path)[name]) == 16


def test_the_reference_is_not_free_to_change(tmp_path):
    asked = {"recipes": [ZERO_COST]}
    run(tmp_path, calibrate=asked)
    other = {"train": {**SHORT, "num_steps": 9}}
    with pytest.raises(StudyError, match=r"calibrate.reference.train.num_steps: 8 -> 9"):
        run(tmp_path, calibrate={**asked, "reference": other})


def test_a_search_that_another_recipe_ranked_is_kept_and_named(tmp_path):
    asked = {"recipes": [ZERO_COST]}
    run(tmp_path, last="search", calibrate=asked)
    file = tmp_path / "tiny" / "search" / "evaluations.jsonl"
    before = file.read_bytes()
    with pytest.raises(
        StudyError, match=r"was written by a different config \(calibrated recipe: "
    ):
        run(tmp_path, last="search", calibrate={"recipes": [STREAM]})
    assert file.read_bytes() == before
    assert "search: finished already" in run(tmp_path, last="search", calibrate=asked)


# --- what is said where none can be trusted ---------------------------------------------------


@pytest.mark.parametrize(
    ("agreement", "changes", "words"),
    [
        (0.0, {"threshold": 0.9}, "more architectures would not help. Otherwise lower"),
        (0.8, {"threshold": 0.3}, "more architectures are not likely to help. Otherwise lower"),
        (0.8, {"threshold": 0.1}, r"Raise calibrate.num_architectures: the correlation of zero_c"),
        (0.8, {"threshold": 0.3, "budget_seconds": 1e-6}, r"Raise calibrate.budget_seconds: "),
    ],
)
def test_more_architectures_are_suggested_where_they_could_help(
    tmp_path, agreement, changes, words
):
    asked = {"recipes": [ZERO_COST], "num_architectures": 16, **changes}
    with pytest.raises(StudyError, match=words) as raised:
        run(tmp_path, calibrate={**asked, "reference": table(tmp_path, agreement=agreement)})
    (standing,) = result_of(tmp_path)["standings"]
    above = standing["spearman"]["value"] > changes["threshold"]
    assert above is words.startswith("Raise")
    assert ("Raise calibrate" in str(raised.value)) is above


def test_a_recipe_that_too_few_cannot_judge_is_named(tmp_path):
    model = {
        "name": "model",
        "train_on": "nothing",
        "score": {"signals": ["num_params", "flops"], "combine": "calibrated"},
    }
    asked = {"recipes": [ZERO_COST, model], "num_architectures": 14, "threshold": 0.9}
    with pytest.raises(StudyError, match=r"num_architectures if too few are why model failed \("):
        run(tmp_path, calibrate={**asked, "reference": table(tmp_path, agreement=0.0)})


# --- the command ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"calibrate": None}, "the config has no section calibrate; add one"),
        ({"recipe": "configured"}, "recipe is configured; set recipe: calibrated"),
    ],
)
def test_nothing_to_calibrate_is_said_before_anything_is_done(tmp_path, changes, words):
    status, errors = command(tmp_path, "calibrate", **changes)
    assert status == 2
    assert words in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "tiny").exists()
