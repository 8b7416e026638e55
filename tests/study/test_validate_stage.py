"""The proof of a tiny study: sizes, noise ceiling, the ledger, and what is logged."""

import json
from pathlib import Path

import pytest

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.errors import DataError
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.evaluate.table import read_references
from nas_proxy.study.config import check_config
from nas_proxy.study.logs import StudyLogs
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.study.planning import look_at
from nas_proxy.study.samples import check_samples
from nas_proxy.study.stages.validate import Validate
from nas_proxy.tracking._runs import RunLog
from tests.helpers.display import Quiet

TINY = {
    "study_name": "proof",
    "data": {"name": "digits", "images_per_class": 20},
    "distill": {"name": "random_subset", "images_per_class": 2},
    "space": {"name": "convnet", "widths": [8], "depths": [1, 2]},
    "train": {"num_steps": 3, "batch_size": 16, "learning_rate": 0.02},
    "score": {"signals": ["val_loss", "naswot"], "combine": "rank_mean", "num_reference": 4},
    "search": {"n_trials": 2, "sampler": "random", "executor": "serial"},
    "validate": {
        "num_architectures": 11,
        "k": 2,
        "controls": ["log_synflow"],
        "ceiling_architectures": 10,
        "reference": {"train": {"num_steps": 6, "batch_size": 16, "learning_rate": 0.02}},
    },
    "tracking": {"enabled": False},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a finished study, its configuration, and the metrics that it logged."""
    logged = {}
    config = check_config({**TINY, "results": str(tmp_path_factory.mktemp("results"))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "metrics", lambda self, values, step=0: logged.update(values))
        run_pipeline(config, Quiet())
    return config.layout.folder, config, logged


def read(folder, *names):
    return json.loads(folder.joinpath(*names).read_text())


def test_sizes_are_measured_though_they_are_no_controls(study):
    folder, _, _ = study
    report = read(folder, "validate", "rank_report.json")
    assert report["sizes"] == ["parameters", "FLOPs"]
    assert {"num_params", "flops"}.isdisjoint(row["name"] for row in report["rows"])
    assert report["judged"]["n_partial"] == report["judged"]["n"] == 11
    for signal, name in (("num_params", "parameters"), ("flops", "FLOPs")):
        measured = EvaluationLog(folder / "validate" / f"{signal}.jsonl")
        found = {e.architecture.id: e.signals[signal] for e in measured}
        for point in read(folder, "validate", "points.json")["points"]:
            assert point["sizes"][name] == found[point["architecture_id"]]


def test_signals_of_the_score_are_not_measured_again_as_controls(study):
    folder, _, _ = study
    assert not (folder / "validate" / "naswot.jsonl").exists()
    proxy = {e.architecture.id: e for e in EvaluationLog(folder / "validate" / "proxy.jsonl")}
    complete = {name for name, evaluation in proxy.items() if evaluation.complete}
    points = read(folder, "validate", "points.json")["points"]
    assert complete >= {point["architecture_id"] for point in points}
    for point in points:
        evaluation = proxy[point["architecture_id"]]
        assert point["scores"]["naswot"] == evaluation.signals["naswot"]
    rows = {row["name"]: row for row in read(folder, "validate", "rank_report.json")["rows"]}
    own = [proxy[point["architecture_id"]] for point in points]
    shares = [e.core_seconds * e.signal_seconds["naswot"] / e.seconds for e in own]
    assert rows["naswot"]["seconds_per_architecture"] == pytest.approx(sum(shares) / len(shares))
    what = {entry["what"] for entry in read(folder, "report.json")["costs"]}
    assert "validate: log synflow" in what
    assert "validate: naswot" not in what


def test_the_reference_is_trained_again_with_another_seed(study):
    folder, config, _ = study
    first = EvaluationLog(folder / "validate" / "reference.jsonl")
    again = EvaluationLog(folder / "validate" / "reference_second_seed.jsonl")
    points = read(folder, "validate", "points.json")["points"]
    drawn = [point["architecture_id"] for point in points]
    assert (len(first), len(drawn)) == (11, 11)
    assert [e.architecture.id for e in again] == drawn[:10]
    assert all(e.fidelity == next(iter(first)).fidelity for e in again)
    assert config.seed not in {e.seed for e in again}
    before = {e.architecture.id: e.train_losses for e in first}
    assert all(e.train_losses != before[e.architecture.id] for e in again)
    report = read(folder, "validate", "rank_report.json")
    assert (report["ceiling"]["n"], report["ceiling"]["num_failed"]) == (10, 0)
    assert report["ceiling"]["seconds_per_architecture"] > 0
    assert "n = 10" in report["ceiling_words"] or "not known" in report["ceiling_words"]
    costs = {entry["what"]: entry for entry in read(folder, "report.json")["costs"]}
    paid = costs["validate: reference second seed"]
    assert paid["count"] == 10
    assert paid["seconds"] == pytest.approx(sum(e.seconds for e in again))


def test_the_proxys_figures_are_logged_with_their_intervals(study):
    folder, _, logged = study
    report = read(folder, "validate", "rank_report.json")
    proxy = report["judged"]
    for name in ("spearman", "kendall", "ndcg", "regret_at_1", "partial_spearman"):
        for end in ("value", "low", "high"):
            key = name if end == "value" else f"{name}_{end}"
            assert logged.get(key) == proxy[name][end]
    part = proxy["slices"][1]
    assert logged["precision_best_20_percent"] == part["precision"]["value"]
    assert "coverage_80_percent" not in logged  # this score states no uncertainty
    assert ("ceiling_spearman" in logged) == (report["ceiling"]["spearman"] is not None)


def test_a_finished_proof_is_not_repeated(study):
    folder, config, _ = study
    before = (folder / "validate" / "rank_report.json").read_bytes()
    display = Quiet()
    run_pipeline(config, display, last="validate")
    assert "validate: finished already" in display.said
    assert (folder / "validate" / "rank_report.json").read_bytes() == before


# --- tables -----------------------------------------------------------------------------------

CELL = "|{}~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"
OPERATIONS = ("nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3", "skip_connect")


def table_config(tmp_path, **reference):
    table = tmp_path / "truth.csv"
    rows = [f"{CELL.format(name)},{90 + i},{80 - i}" for i, name in enumerate(OPERATIONS)]
    rows.append(f"{CELL.format('none')},50,")  # one seed only
    table.write_text("\n".join(["arch,one,two", *rows]))
    section = {"table": str(table), "architecture": "arch", "value": "one", **reference}
    validate = {"num_architectures": 5, "k": 2, "reference": section}
    space = {"space": {"name": "nasbench201"}, "validate": validate}
    return check_config({**TINY, **space, "results": str(tmp_path)})


def test_second_column_is_read_beside_the_first(tmp_path):
    config = table_config(tmp_path, second_value="two")
    check_samples(config, StudyLogs(), [].append)
    reference = config.validation.reference
    columns = (reference.architecture, reference.value, reference.second_value)
    first, second = read_references(Path(reference.table), config.space, *columns)
    assert list(first.values.values()) == [90.0, 91.0, 92.0, 93.0, 50.0]
    assert list(second.values.values()) == [80.0, 79.0, 78.0, 77.0]
    assert list(second.values) == list(first.values)[:4]


def test_rows_that_cannot_be_used_are_said_before_anything_runs(tmp_path):
    config = table_config(tmp_path, second_value="two")
    with (tmp_path / "truth.csv").open("a") as table:
        table.write("\n1,2,3")
    said = []
    check_samples(config, StudyLogs(), said.append)
    assert ["does not know" in said[0], "no value in 'two'" in said[1]] == [True, True]
    assert len(said) == 2  # each once, though two columns are read


def test_second_column_that_is_missing_is_named_with_its_option(tmp_path):
    config = table_config(tmp_path, second_value="two_")
    with pytest.raises(DataError, match=r"no column 'two_' \(validate.reference.second_value\)"):
        check_samples(config, StudyLogs(), [].append)
    with pytest.raises(DataError, match=r"no column 'one_' \(validate.reference.value\)"):
        check_samples(table_config(tmp_path, value="one_"), StudyLogs(), [].append)


def test_a_recipe_of_the_full_data_is_held_against_the_distilled_set_where_that_is_asked(tmp_path):
    stream = {"name": "stream", "train_on": "full_data", "score": {"signals": ["val_loss"]}}
    sections = {key: value for key, value in TINY.items() if key != "score"}
    validate = {**TINY["validate"], "ceiling_architectures": 0, "distilled_set": True}
    config = check_config(
        {**sections, "recipe": stream, "validate": validate, "results": str(tmp_path)}
    )
    plan = Validate().plan(look_at(config, Quiet()))
    run_pipeline(config, Quiet(), last="validate")
    folder = config.layout.folder
    trained = {e.architecture.id: e for e in EvaluationLog(folder / "validate/distilled_set.jsonl")}
    assert {task.what: task.total for task in plan.tasks}["control: the distilled set"] == 11
    assert len(trained) == 11
    proxy = ProxyDataset.load(config.layout.proxy_dataset)
    assert {e.fidelity.dataset_id for e in trained.values()} == {proxy.id}
    steps = {len(e.train_losses) for e in trained.values()}
    assert steps == {len(e.train_losses) for e in EvaluationLog(folder / "validate/proxy.jsonl")}
    for point in read(folder, "validate", "points.json")["points"]:
        signals = trained[point["architecture_id"]].signals
        for signal, words in (
            ("val_loss", "validation loss"),
            ("train_loss_mean", "mean training loss"),
        ):
            found = point["scores"][f"the distilled set, same steps, by {words}"]
            assert found == -signals[signal]
