"""References that an earlier study paid for: taken once, paid there, and never a judge."""

import json
import shutil

import pytest

from nas_proxy.errors import ConfigError, DataError, StudyError
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.study.config import check_config
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.recipe import load_recipe
from nas_proxy.tracking.registry.recipes import RecipeRegistry, RegisteredRecipe
from tests.study.helpers_calibrate import CONFIG, SHORT, ZERO_COST, result_of, run, table

pytestmark = pytest.mark.exhaustive

REFERENCE = CONFIG["calibrate"]["reference"]
# A threshold that so few do not show, so that the whole sample is used.
CALIBRATE = {"recipes": [ZERO_COST], "threshold": 0.65, "when_none": "best"}
VALIDATE = {
    "reference": {"train": SHORT},
    "num_architectures": 10,
    "controls": ["num_params"],
    "k": 2,
}


def taking(*names, **options):
    return {**CALIBRATE, **options, "reference": {**REFERENCE, "studies": list(names)}}


def ids(path):
    return {each.architecture.id for each in EvaluationLog(path)}


def own_trainings(folder, name):
    return [path for path in StudyLayout(folder, name).sample_logs()]


def judges(folder, name):
    points = json.loads((folder / name / "validate" / "points.json").read_text())["points"]
    return {point["architecture_id"] for point in points}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A results folder with a study that was validated."""
    folder = tmp_path_factory.mktemp("results")
    run(folder, last="validate", calibrate=CALIBRATE, validate=VALIDATE)
    return folder


@pytest.fixture(scope="module")
def second(first):
    """The same folder, where another study took from it and trained four more."""
    calibrate = taking("tiny", num_architectures=16)
    run(first, last="report", study_name="second", calibrate=calibrate, validate=VALIDATE)
    return first


def test_what_is_there_is_not_trained_again(second):
    (log,) = own_trainings(second, "tiny")
    before, (more,) = ids(log), own_trainings(second, "second")
    assert (len(before), len(ids(more))) == (12, 4)
    assert not before & ids(more)
    found = {p["architecture_id"]: p["reference"] for p in result_of(second, "second")["points"]}
    known = {p["architecture_id"]: p["reference"] for p in result_of(second)["points"]}
    assert len(found) == 16 or len(found) == 12  # the race may end early
    assert all(found[name] == known[name] for name in found.keys() & known.keys())
    assert (
        "taken from the study tiny, which paid for them" in result_of(second, "second")["verdict"]
    )


def test_nothing_that_the_first_has_looked_at_judges_the_second(second):
    (log,) = own_trainings(second, "tiny")
    looked_at = ids(log) | judges(second, "tiny")
    assert len(looked_at) == 22
    assert len(judges(second, "second")) == 10
    assert not looked_at & judges(second, "second")
    learned = {a.id for a in load_recipe(StudyLayout(second, "second").recipe).learned_from}
    assert looked_at <= learned  # nor whoever takes the recipe from the registry


def test_a_third_that_takes_from_the_second_is_judged_by_none_of_both(second):
    calibrate = taking("second", num_architectures=12)
    said = run(second, last="validate", study_name="third", calibrate=calibrate, validate=VALIDATE)
    (log,) = own_trainings(second, "tiny")
    looked_at = ids(log) | judges(second, "tiny") | judges(second, "second")
    assert not looked_at & judges(second, "third")
    # What the second took is the first's to give.
    assert any("4 of the 12 references were taken from the study second" in line for line in said)


@pytest.mark.exhaustive
def test_the_price_stands_with_whoever_paid(second):
    costs = json.loads((second / "second" / "report.json").read_text())
    paid = {entry["paid_by"]: entry for entry in costs["costs"] if entry["paid_by"]}
    (log,) = own_trainings(second, "tiny")
    seconds = sum(each.seconds for each in EvaluationLog(log))
    assert paid["study tiny"]["count"] == 12
    assert paid["study tiny"]["seconds"] == pytest.approx(seconds)
    totals = {total["what"]: total for total in costs["totals"]}
    own, both = totals["paid by this study"], totals["with what other studies paid"]
    assert both["seconds"] - own["seconds"] == pytest.approx(seconds)
    without = totals["of that, without the proof"]
    proof = [entry["seconds"] for entry in costs["costs"] if entry["is_proof"]]
    assert own["seconds"] - without["seconds"] == pytest.approx(sum(proof))
    assert any(what.startswith("instead: full training of all 3 candidates") for what in totals)


def test_the_first_may_be_at_work_and_go_on(second):
    (log,) = own_trainings(second, "tiny")
    whole = log.read_bytes()
    try:
        log.write_bytes(whole + b'{"architecture": {"space": "conv')  # half of a line
        halved = log.read_bytes()
        run(second, study_name="fourth", calibrate=taking("tiny", num_architectures=12))
        assert log.read_bytes() == halved
        assert not own_trainings(second, "fourth")
        log.write_bytes(whole[: len(whole) // 2])  # what it has now is no matter any more
        said = run(second, study_name="fourth", calibrate=taking("tiny", num_architectures=12))
        assert "calibrate: finished already" in said
    finally:
        log.write_bytes(whole)


def test_other_trainings_are_refused_with_what_differs(first):
    calibrate = taking("tiny")
    calibrate["reference"]["train"] = {**REFERENCE["train"], "num_steps": 9}
    with pytest.raises(StudyError, match=r"no references of this kind \(train.num_steps: 8 -> 9\)"):
        run(first, study_name="other", calibrate=calibrate)


def test_a_registered_recipe_gives_its_references(second, monkeypatch):
    asked = []

    def load(self, reference, folder, *, space, spec):
        asked.append((reference, spec.source_hash, space.fingerprint()))
        shutil.copytree(second / "second" / "calibrate" / "recipe", folder)
        return RegisteredRecipe("nas_proxy.recipe.convnet", 3, None)

    monkeypatch.setattr(RecipeRegistry, "load", load)
    calibrate = taking(num_architectures=16)
    calibrate["reference"]["registered"] = ["trusted"]
    options = {"study_name": "fifth", "calibrate": calibrate, "validate": VALIDATE}
    said = run(second, last="validate", **options)
    words = "16 of the 16 references were taken from the recipe nas_proxy.recipe.convnet, version 3"
    assert any(words in line for line in said)
    assert not own_trainings(second, "fifth")
    assert result_of(second, "fifth")["standings"][0]["n"] == 16
    judged = judges(second, "fifth")
    assert not judged & judges(second, "second")
    assert not judged & judges(second, "tiny")
    run(second, last="validate", **options)
    assert [reference for reference, *_ in asked] == ["trusted"]  # fetched once


@pytest.mark.parametrize(
    ("name", "words"), [("tinny", "did you mean 'tiny'"), ("same", "which is this study")]
)
def test_a_study_that_cannot_give_is_named(first, name, words):
    with pytest.raises(DataError, match=words):
        run(first, study_name="same", calibrate=taking(name))


def test_a_table_has_nothing_to_take(tmp_path):
    calibrate = {**CALIBRATE, "reference": {**table(tmp_path), "studies": ["tiny"]}}
    with pytest.raises(ConfigError, match="with a table, leave studies out"):
        check_config({**CONFIG, "calibrate": {**CONFIG["calibrate"], **calibrate}})
