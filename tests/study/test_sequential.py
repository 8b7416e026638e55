"""A validation that buys its references look by look."""

import csv
import json

import numpy as np
import pytest
from scipy import stats

from nas_proxy.errors import ConfigError
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.reproducibility import make_generator
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.statistics.sequential import look_sizes
from nas_proxy.study.config import check_config
from nas_proxy.study.history import read_looks
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.types import DatasetSpec
from tests.helpers.display import Quiet
from tests.study.helpers_calibrate import SHORT, Interrupted

SPACE = ConvNetSpace(widths=(4, 8, 12, 16, 20, 24), depths=(1, 2))
SPEC = DatasetSpec("digits", tuple("0123456789"), (1, 8, 8), (0.5,), (0.5,), "", "")
STUDY = {
    "study_name": "sequential",
    "data": {"name": "digits", "images_per_class": 20},
    "distill": {"name": "random_subset", "images_per_class": 2},
    "space": {"name": "convnet", "widths": list(SPACE.widths), "depths": list(SPACE.depths)},
    "train": SHORT,
    "score": {"signals": ["num_params"]},
    "search": {"n_trials": 2, "sampler": "random"},
    "tracking": {"enabled": False},
}
TRAINED = {"train": {**SHORT, "num_steps": 6}}
CHANGING = ("seconds", "core_seconds", "one_off", "verdict", "saving", "build")


def table(folder, *, agreement=1.0):
    """A truth table of which the size of networks tells so much."""
    generator, rng, sizes = make_generator(0), np.random.default_rng(0), {}
    while len(sizes) < 60:
        architecture = SPACE.sample(generator)
        network = SPACE.build(architecture, SPEC)
        sizes[SPACE.to_string(architecture)] = sum(p.numel() for p in network.parameters())
    ranks = stats.rankdata(list(sizes.values())) / len(sizes)
    values = agreement * ranks + (1 - agreement) * rng.normal(size=len(ranks))
    folder.mkdir(exist_ok=True)
    with (folder / "truth.csv").open("w", newline="") as file:
        rows = zip(sizes, values, strict=True)
        csv.writer(file).writerows([("name", "accuracy"), *rows])
    return {"table": str(folder / "truth.csv"), "architecture": "name", "value": "accuracy"}


def config(folder, reference, maximum=24, **validate):
    section = {
        "reference": reference,
        "num_architectures": {"max": maximum},
        "k": 2,
        "controls": ["num_params", "num_layers"],
        **validate,
    }
    return check_config({**STUDY, "validate": section, "results": str(folder)})


def judged(folder, reference, *, last="validate", **options):
    """What the validation says, and what was said while it ran."""
    made, display = config(folder, reference, **options), Quiet()
    run_pipeline(made, display, last=last)
    report = json.loads(made.layout.rank_report.read_text())
    return report, display.said, made.layout


def essence(value):
    """A result without what a clock says."""
    if isinstance(value, dict):
        return {k: essence(v) for k, v in value.items() if not any(c in k for c in CHANGING)}
    return [essence(each) for each in value] if isinstance(value, list) else value


def trained(layout):
    return [e.architecture.id for e in EvaluationLog(layout.stage_log("validate", "reference"))]


def test_a_ranking_that_agrees_needs_few_architectures(tmp_path):
    report, _, layout = judged(tmp_path, table(tmp_path), maximum=30)
    stopping, used = report["stopping"], report["num_architectures"]
    assert stopping["outcome"] == "reached"
    assert used == stopping["num_used"] == look_sizes(30)[stopping["look"] - 1] < 30
    assert report["judged"]["spearman"]["low"] >= stopping["threshold"] == 0.7
    assert "can be trusted" in report["verdict"]
    assert f"Settled after {used} of at most 30" in report["verdict"]
    assert len(json.loads(layout.points.read_text())["points"]) == used
    # The same architectures in one look: the same figures, and narrower intervals.
    alone, _, _ = judged(tmp_path, table(tmp_path), num_architectures=used)
    assert alone["stopping"] is None
    inner = {row["name"]: row["spearman"] for row in alone["rows"]}
    for row in report["rows"]:
        one, outer = inner[row["name"]], row["spearman"]
        assert outer["value"] == one["value"]
        assert outer["low"] < one["low"] <= one["value"] <= one["high"] <= outer["high"]


def test_looks_are_kept_and_no_second_look_is_spoken_of(tmp_path):
    reference = table(tmp_path, agreement=0.8)
    report, _, layout = judged(tmp_path, reference, maximum=16)
    looks = read_looks(layout)
    assert [len(look.architectures) for look in looks] == [12, 14, 16]
    assert "Second look" not in report["verdict"]
    assert "Not settled after 16 of at most 16" in report["verdict"]
    raised, said, _ = judged(tmp_path, reference, maximum=20)
    looks = read_looks(layout)
    assert [len(look.architectures) for look in looks] == [12, 14, 16, 18, 20]
    assert sum("look 1 of at most 5, n = 12" in line for line in said) == 1
    assert "look at these" not in raised["verdict"]
    fixed, _, _ = judged(tmp_path, reference, num_architectures=20)
    assert "6th look at these architectures: 20 of 20" in fixed["verdict"]


@pytest.mark.exhaustive
def test_a_raised_maximum_trains_nothing_again(tmp_path):
    _, _, layout = judged(tmp_path, TRAINED, maximum=12)
    before = layout.stage_log("validate", "reference").read_text()
    report, _, _ = judged(tmp_path, TRAINED, maximum=16)
    after = layout.stage_log("validate", "reference").read_text()
    assert after.startswith(before)
    assert len(trained(layout)) == report["num_architectures"] <= 16
    fresh, _, _ = judged(tmp_path / "fresh", TRAINED, maximum=16)
    assert essence(report) == essence(fresh)


@pytest.mark.parametrize("kill_after", [5, pytest.param(13, marks=pytest.mark.exhaustive)])
def test_a_killed_validation_ends_as_one_that_was_not(tmp_path, monkeypatch, kill_after):
    whole, _, first = judged(tmp_path / "whole", TRAINED, maximum=14)
    append, count = EvaluationLog.append, []

    def killed(self, evaluation):
        append(self, evaluation)
        count.append("reference" in str(self._path))
        if sum(count) == kill_after:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(EvaluationLog, "append", killed)
        with pytest.raises(Interrupted):
            judged(tmp_path / "killed", TRAINED, maximum=14)
    resumed, _, second = judged(tmp_path / "killed", TRAINED, maximum=14)
    assert essence(resumed) == essence(whole)
    assert trained(second) == trained(first)
    sizes = [[len(look.architectures) for look in read_looks(each)] for each in (first, second)]
    assert sizes[0] == sizes[1]


@pytest.mark.exhaustive
def test_the_order_in_which_results_came_changes_nothing(tmp_path):
    whole, _, layout = judged(tmp_path, TRAINED, maximum=14)
    for log in layout.stage("validate").glob("*.jsonl"):
        log.write_text("".join(reversed(log.read_text().splitlines(keepends=True))))
    layout.rank_report.unlink()
    again, _, _ = judged(tmp_path, TRAINED, maximum=14)
    assert essence(again) == essence(whole)


def test_saved_references_are_said_with_their_price(tmp_path, monkeypatch):
    monkeypatch.setattr("nas_proxy.study.sequential.TRUSTED_FROM", -0.9)
    report, _, layout = judged(tmp_path, TRAINED, maximum=20, last="report")
    stopping = report["stopping"]
    assert stopping["num_used"] == 12
    price = 8 * report["reference_seconds_per_architecture"]
    assert stopping["seconds_saved"] == pytest.approx(price)
    assert "8 references were not trained, which saves about" in report["verdict"]
    assert "12 of at most 20 architectures were used: Settled after" in layout.page.read_text()
    totals = json.loads(layout.report.read_text())["totals"]
    proofs = {total["what"]: total["core_seconds"] for total in totals}
    assert proofs["instead: the proof with all 20 full trainings"] == pytest.approx(price / 8 * 20)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"num_architectures": 40, "stop": "settled"}, "write num_architectures: {max: 40}"),
        ({"num_architectures": {"max": 40}, "stop": "never"}, "write num_architectures: 40"),
        ({"num_architectures": {"max": 8}}, "num_architectures.max: the value should be greater"),
        ({"num_architectures": {"most": 40}}, "num_architectures.most: unknown key; known: max"),
        ({"num_architectures": {"max": 40}, "k": 12}, "the first look's architectures (12)"),
        ({"stop": "whenever"}, "validate.stop"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(tmp_path, section, words):
    merged = {"reference": TRAINED, **section}
    with pytest.raises(ConfigError) as refused:
        check_config({**STUDY, "validate": merged, "results": str(tmp_path)})
    assert words in str(refused.value)
    assert str(refused.value).count("\n") <= 2


@pytest.mark.parametrize(
    ("section", "number", "stop"),
    [
        ({"reference": TRAINED}, {"max": 72}, "settled"),
        ({"reference": {"table": "truth.csv"}}, 72, "never"),
        ({"reference": TRAINED, "num_architectures": 30}, 30, "never"),
        ({"reference": {"table": "truth.csv"}, "stop": "settled"}, {"max": 72}, "settled"),
    ],
)
def test_what_is_left_open_is_spelt_out(tmp_path, section, number, stop):
    made = check_config({**STUDY, "validate": section, "results": str(tmp_path)})
    assert made.resolved["validate"]["num_architectures"] == number
    assert made.resolved["validate"]["stop"] == stop
    assert check_config(made.resolved).resolved == made.resolved
