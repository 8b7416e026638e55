"""Studies whose search has one of Optuna's pruners."""

import json
from concurrent.futures import Future
from contextlib import nullcontext

import pytest
from scipy import stats

from nas_proxy.core.packing import pack, unpack
from nas_proxy.errors import ConfigError
from nas_proxy.evaluate import executors
from nas_proxy.evaluate.executors import ExecutorKind, register_executor
from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.search.pruner_settings import PrunerSettings
from nas_proxy.search.result import SearchResult
from nas_proxy.study.config import check_config
from nas_proxy.study.logged_trials import log_trial
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.types import Status
from tests.helpers.display import Quiet
from tests.study.helpers_calibrate import CONFIG, SPACE, Interrupted, command
from tests.study.helpers_calibrate import SHORT as PLAIN
from tests.study.test_cascades import Heard, evaluations

WITHOUT_LABELS = {key: value for key, value in CONFIG.items() if key != "calibrate"}
SHORT = {**PLAIN, "channels_last": False}  # nothing is timed for it
TRAIN = {**SHORT, "num_steps": 8, "checkpoints": [25, 50]}
PRUNER = {"name": "successive_halving", "reduction_factor": 2}
SEARCH = {"n_trials": 9, "sampler": "random", "pruner": PRUNER}
TIMES = (
    *("seconds", "core_seconds", "build_seconds", "signal_seconds", "latency"),
    "started_unix_seconds",
)


def asked(folder, **changes):
    own = {"recipe", "calibrate"} & changes.keys()
    score = {} if own else {"score": {"signals": ["val_loss"]}}
    sections = {"train": TRAIN, "search": SEARCH, "results": str(folder)}
    return {**WITHOUT_LABELS, **score, **sections, **changes}


def study(folder, *, last="search", **changes):
    """What a study said."""
    display = Quiet()
    run_pipeline(check_config(asked(folder, **changes)), display, last=last)
    return display.said


def rows(folder):
    """Every trial without what a clock said."""
    found = json.loads((folder / "tiny" / "search" / "search.json").read_text())["trials"]
    for row in found:
        row["signals"].pop("train_seconds")
    return [{key: value for key, value in row.items() if key not in TIMES} for row in found]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A study up to its search, and what it said."""
    folder = tmp_path_factory.mktemp("pruned")
    return folder, study(folder)


def test_what_is_pruned_has_no_score_and_is_no_failure(pruned):
    folder, said = pruned
    result = SearchResult.read(folder / "tiny" / "search" / "search.json")
    ended = [row for row in result.trials if row.pruned_after]
    assert 0 < len(ended) == result.num_pruned < 9
    assert result.num_failed == 0
    assert {row.pruned_after for row in ended} <= {"25 % of the steps", "50 % of the steps"}
    assert not any(row.reason or row.failed for row in result.trials)
    assert all((row.score is None) == bool(row.pruned_after) for row in result.trials)
    assert not {row.trial for row in ended} & {row.trial for row in result.best}
    (line,) = [line for line in said if line.startswith("search: ")]
    assert f"9 architectures, 0 failed, {len(ended)} pruned" in line
    assert not (folder / "tiny" / "search" / "unfinished").exists()


def test_the_log_says_what_was_trained(pruned):
    folder, _ = pruned
    log = evaluations(folder / "tiny" / "search" / "evaluations.jsonl")
    last = {e.architecture.id: e for e in log}  # a line for each job
    trained = {2: 25, 4: 50, 8: 0}
    for row in rows(folder):
        found = last[row["architecture_id"]]
        assert trained[len(found.train_losses)] == found.rung
        assert (found.status is Status.PARTIAL) == bool(row["pruned_after"])
        assert found.signals["images_seen"] == 16 * len(found.train_losses)
    jobs = {2: 1, 4: 2, 8: 3}
    assert len(log) == sum(jobs[len(each.train_losses)] for each in last.values())


def test_page_and_ledger_show_what_was_paid(pruned):
    folder, _ = pruned
    study(folder, last="report")
    page = " ".join((folder / "tiny" / "report.html").read_text().split())
    result = SearchResult.read(folder / "tiny" / "search" / "search.json")
    ended = [row for row in result.trials if row.pruned_after]
    assert f"0 failed, {len(ended)} pruned" in page
    assert "unless the pruner <b>successive_halving</b> ended it before" in page
    for row in ended:
        percentage = row.pruned_after.split(maxsplit=1)[0]
        value = row.signals[f"val_loss@{percentage}"]
        assert f"<td>{row.pruned_after}</td><td>val_loss@{percentage} {value:.4g}</td>" in page
    costs = json.loads((folder / "tiny" / "report.json").read_text())["costs"]
    (paid,) = [cost for cost in costs if cost["what"] == "search: evaluations"]
    assert paid["seconds"] == pytest.approx(sum(row.seconds for row in result.trials))


def test_a_trials_run_shows_where_it_ended(pruned):
    folder, _ = pruned
    log = evaluations(folder / "tiny" / "search" / "evaluations.jsonl")
    pruner = PrunerSettings(**PRUNER)
    for each in {e.architecture.id: e for e in log}.values():
        tracker, score = Heard(), None if each.rung else 1.0
        log_trial(tracker, SPACE, (3, each, score), {}, pruner=pruner)
        if each.complete:
            assert tracker.told["finished"] == ()
            continue
        words = f"{each.rung} % of the steps"
        assert tracker.told["pruned_after"] == words
        assert tracker.told["rung_reached"] == each.rung
        assert tracker.told["finished"] == ("KILLED", f"pruned after {words}")


class Elsewhere:
    """An executor whose workers share nothing with the driver but the disk, nor build for parts."""

    num_workers = 3

    def submit(self, factory, architecture, seed):
        job = unpack(pack((factory, architecture, seed)))
        future = Future()
        future.set_result(job[0].build().evaluate(*job[1:]))
        return future


def test_another_executor_finds_the_same(pruned, tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "_KINDS", dict(executors._KINDS))
    register_executor(
        "elsewhere", ExecutorKind(lambda *_: nullcontext(Elsewhere()), beside_driver=False)
    )
    study(tmp_path, search={**SEARCH, "executor": "elsewhere"})
    assert rows(tmp_path) == rows(pruned[0])


@pytest.mark.exhaustive
def test_worker_processes_find_the_same(pruned, tmp_path):
    study(tmp_path, search={**SEARCH, "executor": "processes", "num_workers": 2})
    assert rows(tmp_path) == rows(pruned[0])


@pytest.mark.parametrize("after", [pytest.param(3, marks=pytest.mark.exhaustive), 8])
def test_killed_between_rungs_it_finds_the_same_and_trains_nothing_twice(
    pruned, tmp_path, monkeypatch, after
):
    evaluate, done = NetworkEvaluator.evaluate, []

    def dying(self, architecture, seed):
        if len(done) == after:
            raise Interrupted
        done.append(architecture)
        return evaluate(self, architecture, seed)

    monkeypatch.setattr(NetworkEvaluator, "evaluate", dying)
    with pytest.raises(Interrupted):
        study(tmp_path)
    assert list((tmp_path / "tiny" / "search" / "unfinished").glob("*.safetensors"))
    after = -1
    study(tmp_path)
    assert rows(tmp_path) == rows(pruned[0])
    log = pruned[0] / "tiny" / "search" / "evaluations.jsonl"
    assert len(done) == len(evaluations(log))


@pytest.mark.exhaustive
def test_a_rank_mean_is_pruned_by_its_rank_at_each_checkpoint(tmp_path):
    score = {"signals": ["val_loss", "num_params"], "combine": "rank_mean", "num_reference": 5}
    study(tmp_path, score=score)
    found = rows(tmp_path)
    ended = [row for row in found if row["pruned_after"]]
    assert ended
    assert all("num_params" in row["signals"] for row in found)
    sample = evaluations(tmp_path / "tiny" / "search" / "score_reference.jsonl")
    assert all({"val_loss@25", "val_loss@50"} <= e.signals.keys() for e in sample)


def test_wilcoxon_compares_trainings_with_the_same_seeds(tmp_path):
    train = {**SHORT, "num_steps": 3, "num_seeds": 5}
    pruner = {"name": "wilcoxon", "p_threshold": 0.2}
    study(tmp_path, train=train, search={**SEARCH, "pruner": pruner})
    result = SearchResult.read(tmp_path / "tiny" / "search" / "search.json")
    log = evaluations(tmp_path / "tiny" / "search" / "evaluations.jsonl")
    last = {e.architecture.id: e for e in log}
    ended = [row for row in result.trials if row.pruned_after]
    assert ended
    assert all(row.score is not None for row in result.trials if row not in ended)
    complete = [e for e in last.values() if e.complete]
    assert all(len(e.seed_signals) == 5 for e in complete)
    losses = {e.architecture.id: [s["val_loss"] for s in e.seed_signals] for e in last.values()}
    for row in ended:
        own = losses[row.architecture_id]
        assert row.pruned_after == f"{len(own)} trainings"
        better = [
            stats.wilcoxon(own, losses[e.architecture.id][: len(own)], alternative="greater")
            for e in complete
        ]
        assert min(each.pvalue for each in better) < 0.2


# --- what is refused --------------------------------------------------------------------------

STAGES = {
    "name": "two",
    "stages": [
        {"train_on": "nothing", "score": {"signals": ["num_params"]}},
        {"train_on": "full_data", "score": {"signals": ["val_loss"]}, "share": 0.5},
    ],
}
WRITTEN = {"name": "own", "train_on": "full_data", "score": {"signals": ["val_loss"]}}


@pytest.mark.parametrize(
    ("pruner", "changes", "words"),
    [
        ("median", {"train": SHORT}, "search.pruner: candidates are ended at checkpoints"),
        ("median", {"recipe": {**WRITTEN, "train": SHORT}}, "which has none; add some"),
        ("median", {"recipe": STAGES}, "search.pruner: the recipe two has stages, which end"),
        ("median", {"recipe": "zero_cost"}, "but nothing is trained for the score (naswot,"),
        ("median", {"score": {"signals": ["num_params"]}}, "nothing is trained for the score"),
        ("median", {"score": {"signals": ["val_loss_mean"]}}, "val_loss_mean of the score has no"),
        ("median", {"score": {"signals": ["val_loss@50"]}}, "val_loss@50 of the score has no val"),
        ("median", {"recipe": "trusted"}, "which recipe: trusted finds out only later"),
        (
            "median",
            {"calibrate": CONFIG["calibrate"]},
            "search.pruner: the pruner median has to know how candidates are trained, which recipe",
        ),
        ("wilcoxon", {}, "num_seeds: 1 with p_threshold 0.1; set num_seeds to 5 or more"),
        (
            {"name": "wilcoxon", "p_threshold": 0.01},
            {"train": {**SHORT, "num_seeds": 7}},
            "num_seeds: 7 with p_threshold 0.01; set num_seeds to 8 or more",
        ),
        ("medain", {}, "search.pruner.name: the value should be 'median', 'percentile'"),
        ({"reduction_factor": 3}, {}, "search.pruner.name: missing"),
        (
            {"name": "hyperband", "n_warmup_steps": 3},
            {},
            "search.pruner: n_warmup_steps is no option of the pruner hyperband, which has min_",
        ),
        ({"name": "hyperband", "reduction": 3}, {}, "unknown key; did you mean 'reduction_factor'"),
        ({"name": "hyperband", "reduction_factor": 1}, {}, "greater than or equal to 2 (got 1)"),
        ("percentile", {}, "the pruner percentile needs the upper part that is kept"),
        ({"name": "median", "n_startup_trials": True}, {}, "expected a number, got true"),
    ],
)
def test_what_cannot_be_pruned_is_refused_when_it_is_read(pruner, changes, words):
    search = {**SEARCH, "pruner": pruner}
    with pytest.raises(ConfigError) as raised:
        check_config(asked("nowhere", search=search, **changes))
    (fault,) = str(raised.value).splitlines()[1:]
    assert words in fault


def test_several_objectives_are_refused_on_the_command_line(tmp_path):
    search = {**SEARCH, "objectives": ["score", "num_params"]}
    status, errors = command(tmp_path, "search", **asked(tmp_path, search=search))
    assert status == 2
    assert "search: Optuna's pruners, such as successive_halving, pursue one objective" in errors
    assert "Traceback" not in errors


@pytest.mark.exhaustive
def test_a_recipe_that_is_written_out_is_pruned(tmp_path):
    recipe = {**WRITTEN, "train": {**TRAIN, "num_steps": 4, "checkpoints": [50]}}
    study(tmp_path, recipe=recipe, train=SHORT, search={**SEARCH, "pruner": "median"})
    assert {row["pruned_after"] for row in rows(tmp_path)} <= {"", "50 % of the steps"}
