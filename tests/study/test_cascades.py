"""Studies whose recipe has stages: calibrated, or labelled by their own trainings."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from nas_proxy.errors import ConfigError, StudyError
from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.study.config import check_config
from nas_proxy.study.logged_trials import log_trial
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.types import Evaluation
from tests.helpers.display import Quiet
from tests.study.helpers_calibrate import CONFIG, SHORT, SPACE, Interrupted, result_of, run

FREE = {"train_on": "nothing", "score": {"signals": ["num_params"]}}
TRAINED = {
    "train_on": "full_data",
    "score": {"signals": ["val_loss", "num_params"], "combine": "rank_mean"},
    "share": 0.5,
}
LONGER = {
    "train_on": "full_data",
    "train": {**SHORT, "num_steps": 8},
    "score": {"signals": ["val_loss", "stage_2.val_loss"], "combine": "rank_mean"},
    "share": 0.2,
}
CASCADE = {"name": "cascade", "stages": [FREE, TRAINED, LONGER]}
STREAM = {"name": "stream", "train_on": "full_data", "score": {"signals": ["val_loss"]}}
OWN = {
    "name": "own",
    "stages": [
        {
            "train_on": "nothing",
            "score": {
                "signals": ["num_params", "flops"], "combine": "calibrated", "num_reference": 24
            },
        },
        {"train_on": "full_data", "score": {"signals": ["val_loss"]}, "share": 0.5},
    ],
}  # fmt: skip
OWN["stages"][1]["score"]["num_reference"] = 24
VALIDATE = {"num_architectures": 14, "reference": {"train": {**SHORT, "num_steps": 8}}}
WITHOUT_LABELS = {key: value for key, value in CONFIG.items() if key != "calibrate"}


def labelled_study(folder, *, last="report", **changes):
    """A study whose own trainings are its labels; what it said."""
    asked = {"recipe": OWN, "search": {"n_trials": 8, "sampler": "random"}, **changes}
    display = Quiet()
    run_pipeline(
        check_config({**WITHOUT_LABELS, **asked, "results": str(folder)}), display, last=last
    )
    return display.said


def evaluations(file):
    return [Evaluation.from_json(json.loads(line)) for line in file.read_text().splitlines()]


def trials(folder, name="tiny"):
    found = json.loads((folder / name / "search" / "search.json").read_text())["trials"]
    return [(t["architecture_id"], t["score"], len(t["stage_seconds"])) for t in found]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A whole study by a calibrated cascade, and what was said."""
    folder = tmp_path_factory.mktemp("cascade")
    said = run(
        folder,
        last="report",
        calibrate={"recipes": [CASCADE]},
        search={"n_trials": 8, "sampler": "random"},
        validate=VALIDATE,
    )
    return folder / "tiny", said


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A whole study that labels itself, and what was said."""
    folder = tmp_path_factory.mktemp("labelled")
    return folder / "tiny", labelled_study(folder, validate=VALIDATE)


# --- calibrated -------------------------------------------------------------------------------


def chosen(folder):
    """The race's rows by name."""
    return {row["recipe"]: row for row in result_of(folder.parent)["standings"]}


def test_the_sample_goes_through_all_stages_and_the_race_counts_those_passed(calibrated):
    folder, _ = calibrated
    logs = {path.stem: evaluations(path) for path in folder.glob("calibrate/*.jsonl")}
    assert sorted(name.split("_")[0] for name in logs) == ["full", "full", "num"]
    assert {len(found) for found in logs.values()} == {12}
    by_length = sorted(logs, key=lambda name: logs[name][0].fidelity.num_steps)
    points = result_of(folder.parent)["points"]
    by_id = {n: {e.architecture.id: e.core_seconds for e in found} for n, found in logs.items()}
    expected = []
    for point in points:
        reached, a = math.ceil(point["scores"]["cascade"]), point["architecture_id"]
        expected.append(sum(by_id[name][a] for name in by_length[:reached]))
    row = chosen(folder)["cascade"]
    assert row["seconds_per_architecture"] == pytest.approx(np.mean(expected))
    assert {math.ceil(p["scores"]["cascade"]) for p in points} == {1, 2, 3}


@pytest.mark.exhaustive
def test_a_stage_and_a_recipe_that_train_alike_pay_once(tmp_path):
    run(tmp_path, calibrate={"recipes": [CASCADE, STREAM]})
    logs = {p.stem: evaluations(p) for p in (tmp_path / "tiny").glob("calibrate/*.jsonl")}
    assert sorted(len(found) for found in logs.values()) == [12, 12, 12]


def test_the_search_ends_candidates_early_and_says_where(calibrated):
    folder, said = calibrated
    found = evaluations(folder / "search" / "evaluations.jsonl")
    assert len({e.num_stages for e in found}) > 1
    for each in found:
        trained = {name.split(".")[0] for name in each.signals if name.startswith("stage_")}
        assert trained == {f"stage_{n}" for n in range(2, each.num_stages + 1)}
        assert each.fidelity.cascade
    assert any("may go on to stage 2" in line for line in said)
    page = (folder / "report.html").read_text()
    assert f"stage {max(e.num_stages for e in found)} of 3" in page


# --- its own labels ---------------------------------------------------------------------------


def test_a_study_without_full_references_labels_itself(labelled):
    folder, said = labelled
    sample = evaluations(folder / "search" / "score_reference.jsonl")
    assert len(sample) == 24
    assert all(e.num_stages == 2 for e in sample)
    assert not (folder / "calibrate").exists()
    points = json.loads((folder / "validate" / "points.json").read_text())["points"]
    assert not {p["architecture_id"] for p in points} & {e.architecture.id for e in sample}
    verdict = json.loads((folder / "validate" / "rank_report.json").read_text())["verdict"]
    assert "learned from are the study's own" in verdict
    assert "24 architectures, and no full training" in verdict
    assert "fitted to labels of its own" in " ".join((folder / "report.html").read_text().split())


def test_the_validation_judges_the_whole_at_what_it_paid(labelled):
    folder, _ = labelled
    report = json.loads((folder / "validate" / "rank_report.json").read_text())
    proxy = evaluations(folder / "validate" / "proxy.jsonl")
    assert {e.num_stages for e in proxy} == {1, 2}
    judged = report["judged"]
    assert judged["seconds_per_architecture"] == pytest.approx(
        np.mean([e.core_seconds for e in proxy])
    )
    points = json.loads((folder / "validate" / "points.json").read_text())["points"]
    scores = [p["scores"][judged["name"]] for p in points]
    reference = [p["reference"] for p in points]
    assert judged["spearman"]["value"] == pytest.approx(
        stats.spearmanr(scores, reference).statistic
    )
    reached = {e.architecture.id: e.num_stages for e in proxy}
    assert [math.ceil(s) for s in scores] == [reached[p["architecture_id"]] for p in points]
    worst = sorted(reference)[-math.ceil(0.2 * len(reference))]
    best = [p for p in points if p["reference"] >= worst]
    kept = sum(reached[p["architecture_id"]] == 2 for p in best)
    assert f"The cuts kept {kept} of the {len(best)} best." in report["verdict"]
    names = {row["name"] for row in report["rows"]}
    assert "its first stage alone" in names
    assert not {n for n in names if "stage_2" in n}  # known of those alone that went on


@pytest.mark.exhaustive
def test_a_search_in_worker_processes_finds_the_same(labelled, tmp_path):
    folder, _ = labelled
    search = {"n_trials": 8, "sampler": "random", "executor": "processes", "num_workers": 2}
    labelled_study(tmp_path, last="search", search=search)
    assert trials(tmp_path) == trials(folder.parent)


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(30, marks=pytest.mark.exhaustive),
        pytest.param(50, marks=pytest.mark.exhaustive),
        pytest.param(55, marks=pytest.mark.exhaustive),
    ],
)
def test_a_killed_search_goes_on_and_finds_the_same(labelled, tmp_path, monkeypatch, after):
    """In the sample's 48 evaluations, or in those of eight candidates, of one or two stages each.

    A continued search draws others than an uninterrupted one, but ranks each as that would.
    """
    folder, _ = labelled
    evaluate, done = NetworkEvaluator.evaluate, []

    def dying(self, architecture, seed):
        if len(done) == after:
            raise Interrupted
        done.append((architecture, self.evaluation_data is not None))
        return evaluate(self, architecture, seed)

    monkeypatch.setattr(NetworkEvaluator, "evaluate", dying)
    with pytest.raises(Interrupted):
        labelled_study(tmp_path, last="search")
    log = tmp_path / "tiny" / "search" / "evaluations.jsonl"
    finished = [e.architecture.id for e in evaluations(log)] if log.is_file() else []
    after = len(done) + 1000  # from here on it only counts
    labelled_study(tmp_path, last="search")
    found, whole = trials(tmp_path), trials(folder.parent)
    assert len(found) == 8
    known = {a: rest for a, *rest in whole}
    assert all(rest == known[a] for a, *rest in found if a in known)
    assert [a for a, *_ in found][: len(finished)] == [a for a, *_ in whole][: len(finished)]
    sample = evaluations(tmp_path / "tiny" / "search" / "score_reference.jsonl")
    paid = sum(e.num_stages for e in (*sample, *evaluations(log)))
    assert paid <= len(done) <= paid + 2  # what was in flight at the kill, at most two stages


@pytest.mark.exhaustive
def test_evaluations_by_other_cuts_are_not_mixed(labelled, tmp_path):
    labelled_study(tmp_path, last="search", search={"n_trials": 2, "sampler": "random"})
    log = tmp_path / "tiny" / "search" / "evaluations.jsonl"
    lines = log.read_text()
    cascade = json.loads(lines.splitlines()[0])["fidelity"]["cascade"]
    log.write_text(lines.replace(cascade, "0" * len(cascade)))
    with pytest.raises(StudyError, match="ended by other cuts"):
        labelled_study(tmp_path, last="search", search={"n_trials": 4, "sampler": "random"})


@pytest.mark.exhaustive
def test_with_several_objectives(labelled, tmp_path):
    search = {"n_trials": 6, "sampler": "random", "objectives": ["score", "num_params"]}
    labelled_study(tmp_path, last="search", search=search)
    found = json.loads((tmp_path / "tiny" / "search" / "search.json").read_text())
    assert found["pareto_front"]
    assert {id_: s for id_, s, _ in trials(tmp_path)} == {
        id_: s for id_, s, _ in trials(labelled[0].parent)[:6]
    }


class Heard:
    """A tracker that remembers what one trial's run was told."""

    def __init__(self):
        self.told, self.study = {}, self

    def trial(self, number, name, period):
        return self

    def params(self, values):
        self.told.update(values)

    def metrics(self, values, step=0):
        self.told.update(values)

    def description(self, text):
        pass

    def curve(self, name, values, steps):
        pass

    def finish(self, *status):
        self.told["finished"] = status


def test_a_trials_run_shows_the_stage_that_it_reached(labelled):
    folder, _ = labelled
    for each in evaluations(folder / "search" / "evaluations.jsonl"):
        tracker = Heard()
        log_trial(tracker, SPACE, (3, each, 1.0), {"score": 1.0}, num_stages=2)
        assert tracker.told["stage"] == f"stage {each.num_stages} of 2"
        assert tracker.told["stage_reached"] == each.num_stages
        assert tracker.told["stage_1.seconds"] == each.stage_seconds[0]
        assert ("stage_2.seconds" in tracker.told) == (each.num_stages == 2)


# --- what is refused, and what a name stands for ----------------------------------------------


def faults(recipe, **changes):
    with pytest.raises(ConfigError) as raised:
        check_config({**WITHOUT_LABELS, "recipe": recipe, **changes})
    return str(raised.value)


def stages(*changed):
    return {"name": "x", "stages": list(changed)}


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (stages(FREE, {**TRAINED, "share": 0}), "recipe.stages.1.share: the value should be great"),
        (stages(FREE, {**TRAINED, "share": 1.5}), "should be less than or equal to 1 (got 1.5)"),
        (stages(FREE, {**TRAINED, "shar": 1}), "unknown key; did you mean 'share'?"),
        (stages({**FREE, "share": 0.5}, TRAINED), "its share cuts nothing; take it out"),
        (stages(FREE), "one stage only; add another"),
        (stages(FREE, {**TRAINED, "train_on": "nothing"}), "recipe.stages.1: the stage trains on"),
        (stages(FREE, LONGER), "reads stage_2.val_loss, but stage 2 comes no earlier"),
        (stages(FREE, {**TRAINED, "score": {"signals": ["val_loss@50"]}}), "not among the checkp"),
        (stages(TRAINED | {"share": None}, FREE), "the last stage of x trains on nothing"),
        ("cascade", "cascade ends with combine: calibrated, which needs architectures whose full"),
        ("self_labeled", "there is no recipe 'self_labeled'; did you mean 'self_labelled'?"),
        ({"name": "x", "score": {"signals": ["stage_1.val_loss"]}}, "no stages, but its signal"),
        (3, "recipe: the value should be a section"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_when_the_config_is_read(recipe, words):
    found = faults(recipe)
    assert words in found
    assert len(found.splitlines()) == 2  # one sentence


def test_calibrated_without_labels_names_the_way_out():
    score = {"signals": ["val_loss", "flops"], "combine": "calibrated"}
    with pytest.raises(ConfigError, match="recipe: self_labelled"):
        check_config({**WITHOUT_LABELS, "score": score})


@pytest.mark.parametrize("name", ["stream_90_rank_mean", "self_labelled", "meco_alone"])
def test_a_default_recipe_is_used_by_its_name(name):
    config = check_config({**WITHOUT_LABELS, "recipe": name})
    assert config.recipe.name == name
    assert config.resolved["recipe"]["name"] == name
    assert "score" not in config.resolved
    assert check_config(config.resolved).recipe == config.recipe
    assert all(part.train is not None for part in config.recipe.parts)


def test_a_recipe_that_is_written_out_counts_alone():
    assert "score: recipe is stream, so" in faults(STREAM, score={"signals": ["val_loss"]})
