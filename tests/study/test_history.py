"""What stays of a study whatever is repeated: looks at references, and what was paid."""

import csv
import json
from dataclasses import replace

import pytest

from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.errors import DivergedError, StudyError
from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.report.values import Cost
from nas_proxy.study.config import check_config
from nas_proxy.study.history import add_discarded, add_look, read_discarded, read_looks
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.validate.looks import Look, look_words
from tests.helpers.display import Quiet
from tests.study.helpers_calibrate import CONFIG, table

STUDY = {key: value for key, value in CONFIG.items() if key not in ("calibrate", "study_name")}
VALIDATE = {"num_architectures": 10, "k": 2, "controls": ["flops"]}


@pytest.fixture
def study(tmp_path):
    """Runs the study, ranked by some zero-cost signal; what was said, and its report."""
    reference = table(tmp_path)

    def run(signal, *, last="report", force=False, value="accuracy", **changes):
        merged = {**STUDY, "score": {"signals": [signal]}, "results": str(tmp_path), **changes}
        merged |= {
            "study_name": "seen",
            "validate": {**VALIDATE, "reference": {**reference, "value": value}},
        }
        config, display = check_config(merged), Quiet()
        run_pipeline(config, display, last=last, force=force)
        return display.said, json.loads(config.layout.report.read_text())

    return run


@pytest.mark.usefixtures("blank_figures")
def test_another_recipe_on_the_same_architectures_is_a_second_look(study, tmp_path):
    _, first = study("num_params")
    (look,) = first["looks"]
    assert len(look["architectures"]) == 10
    assert look["verdict"] == first["verdict"] == first["validation"]["verdict"]
    assert "look at these" not in first["verdict"]
    said, second = study("num_layers", force=True)
    words = "Second look at these architectures: 10 of 10 were looked at before, last by validate "
    assert words in second["verdict"]
    assert words in next(line for line in said if line.startswith("validate: "))
    assert [each["ranking"] for each in second["looks"]] == [
        "the proxy (num_params)",
        "the proxy (num_layers)",
    ]
    assert second["looks"][0] == look
    page = (tmp_path / "seen" / "report.html").read_text()
    assert "Looks at references" in page
    assert "Second look at these architectures" in page
    # What was paid the first time is on the ledger still, and once.
    paid = {cost["what"]: cost["seconds"] for cost in first["costs"]}
    kept = {cost["what"]: cost["seconds"] for cost in second["costs"]}
    for what in ("search: evaluations", "validate: proxy", "validate: flops"):
        assert kept[f"discarded by --force: {what}"] == paid[what]
        assert what in kept


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.exhaustive
def test_the_same_again_is_no_other_look_but_a_return_is(study):
    study("num_params")
    _, again = study("num_params", force=True)
    assert len(again["looks"]) == 1
    assert "look at these" not in again["verdict"]
    study("num_layers", force=True)
    _, back = study("num_params", force=True)
    assert len(back["looks"]) == 3
    assert "Third look at these architectures" in back["verdict"]


@pytest.mark.usefixtures("blank_figures")
def test_fresh_architectures_are_a_first_look(study):
    study("num_params", seed=0)
    _, other = study("num_layers", seed=4, force=True)
    known = set(other["looks"][0]["architectures"]) & set(other["looks"][1]["architectures"])
    assert len(known) < 10
    assert (f"{len(known)} of 10 were looked at before" in other["verdict"]) == bool(known)


@pytest.mark.usefixtures("blank_figures")
def test_another_column_judges_what_is_there_and_is_a_second_look(study, tmp_path, monkeypatch):
    study("num_params")
    folder = tmp_path / "seen" / "validate"
    before = (folder / "proxy.jsonl").read_bytes(), (folder / "points.json").read_bytes()
    with (tmp_path / "truth.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    with (tmp_path / "truth.csv").open("w", newline="") as file:
        added = [str(-float(row[1])) for row in rows[1:]]
        csv.writer(file).writerows([r + [x] for r, x in zip(rows, ["worse", *added], strict=True)])
    monkeypatch.setattr(NetworkEvaluator, "evaluate", None)  # nothing is measured again
    _, other = study("num_params", value="worse")
    assert (folder / "proxy.jsonl").read_bytes() == before[0]
    assert (folder / "points.json").read_bytes() != before[1]
    assert "Second look at these architectures: 10 of 10" in other["verdict"]
    assert [each["reference"] for each in other["looks"]] == [
        "accuracy of truth.csv",
        "worse of truth.csv",
    ]


def look(ranking="a", *, architectures=("x", "y"), stage="validate", reference="r"):
    return Look(
        stage=stage,
        created="2026-11-30T07:00:00+00:00",
        ranking=ranking,
        ranking_id=ranking,
        reference=reference,
        reference_id=reference,
        architectures=architectures,
        verdict="",
    )


def test_words_count_what_was_known():
    first, other = look(), look("b", architectures=("y", "z"))
    assert look_words(other, [look(architectures=("v",))]) == ""
    assert look_words(other, [first]).startswith(
        "Second look at these architectures: 1 of 2 were looked at before, last by validate on "
        "2026-11-30 for a against r; "
    )
    assert look_words(first, [first] * 7).startswith("8th look")
    assert look_words(first, [look("b", stage="calibrate")]).startswith("Second look")


def test_looks_are_added_and_a_kill_adds_none_twice(tmp_path):
    layout = StudyLayout(tmp_path, "seen")
    assert add_look(layout, look()) == []
    race = look("race", stage="calibrate", architectures=("v",))
    assert add_look(layout, race) == [look()]
    again = replace(look(architectures=("y", "x")), verdict="the order is another")
    assert add_look(layout, again) == []  # its own is no earlier one
    assert read_looks(layout) == [look(), race]
    with layout.looks.open("a") as file:
        file.write('{"stage": "cut')
    assert add_look(layout, look(reference="other column")) == [look(), race]
    layout.looks.write_text("{}\n" + layout.looks.read_text())
    with pytest.raises(StudyError, match=r"looks.jsonl, line 1, is damaged"):
        read_looks(layout)


def test_what_is_discarded_is_noted_once(tmp_path):
    layout = StudyLayout(tmp_path, "seen")
    costs = [Cost("search: evaluations", 3, 1.5), Cost("nothing", 0, 0.0)]
    for _ in range(2):
        add_discarded(layout, "why", costs)
    add_discarded(layout, "why", [Cost("nothing", 0, 0.0)])
    (noted,) = read_discarded(layout)
    assert noted.costs == (costs[0],)
    add_discarded(layout, "why", [replace(costs[0], seconds=2.0)])
    assert len(read_discarded(layout)) == 2


@pytest.mark.usefixtures("blank_figures")
def test_a_distillation_that_came_to_nothing_is_on_the_ledger(study, monkeypatch):
    def diverge(self, task):
        raise DivergedError("the loss is not finite")

    with monkeypatch.context() as patch:
        patch.setattr(RandomSubset, "distill", diverge)
        with pytest.raises(StudyError):
            study("num_params", last="distill")
    _, report = study("num_params")
    assert any(cost["what"].startswith("came to nothing: ") for cost in report["costs"])
