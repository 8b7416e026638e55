from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_proxy.errors import UserError
from nas_proxy.tracking import RunLog, Tracker, TrackingSettings, launch_ui, open_tracker, uploader
from nas_proxy.tracking import store as store_module

REPOSITORY = Path(__file__).parents[1]
CURVE = [1.0 / (step + 1) for step in range(50)]


@dataclass(frozen=True)
class Found:
    """What MLflow shows of one run."""

    run_id: str
    parent: str | None
    status: str
    start_time: int
    end_time: int | None
    params: dict[str, str]
    tags: dict[str, str]
    history: dict[str, list[tuple[int, float]]]
    artifacts: set[str]


@dataclass(frozen=True)
class Store:
    """A results folder and what its store holds, read back with MLflow's own client."""

    results: Path
    uri: str | None = None
    printed: str = ""

    def client(self) -> Any:
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.uri or f"sqlite:///{self.results}/mlflow.db")

    def open(self, study: str, *, uri: str | None = None) -> Tracker:
        settings = TrackingSettings(uri=uri or self.uri)
        return open_tracker(settings, self.results, self.results / study, study)

    def find(self, study: str) -> list[dict[str, Found]]:
        """For each of the study's runs: itself and its trials by name."""
        client = self.client()
        experiment = client.get_experiment_by_name("nas_proxy").experiment_id
        studies = []
        for parent in client.search_runs([experiment], f"attributes.run_name = '{study}'"):
            children = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
            family = [parent, *client.search_runs([experiment], children)]
            names = [run.info.run_name for run in family]
            assert len(set(names)) == len(names), "a trial has two runs"
            studies.append({run.info.run_name: self._found(client, run) for run in family})
        return studies

    def find_one(self, study: str) -> dict[str, Found]:
        (found,) = self.find(study)
        return found

    @staticmethod
    def _found(client: Any, run: Any) -> Found:
        run_id = run.info.run_id
        artifacts, folders = set(), [""]
        while folders:
            for entry in client.list_artifacts(run_id, folders.pop()):
                (folders.append if entry.is_dir else artifacts.add)(entry.path)
        history = {
            name: sorted((m.step, m.value) for m in client.get_metric_history(run_id, name))
            for name in run.data.metrics
        }
        tags = dict(run.data.tags)
        parent = tags.get("mlflow.parentRunId")
        info = run.info
        return Found(
            run_id, parent, info.status, info.start_time, info.end_time,
            dict(run.data.params), tags, history, artifacts,
        )  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for the module, made by a process of its own: MLflow needs seconds to make one."""
    results = tmp_path_factory.mktemp("tracking") / "a b#c é" / "results"
    results.mkdir(parents=True)
    (results / ".mlflow-0.db").write_text("left by a process that was killed")
    script = f"""
import sqlite3, time
results = Path({str(results)!r})
def num_tables():
    with sqlite3.connect(results / "mlflow.db", timeout=100) as database:
        return database.execute("select count(*) from sqlite_master").fetchone()
assert not [name for name in sys.modules if name.startswith("mlflow.")]
with Store(results).open("first") as tracker:
    log_study(tracker, results / "first")
    while not (results / "mlflow.db").exists():
        time.sleep(0.01)
    num_at_first = num_tables()
    tracker.close(timeout=300)
assert num_at_first == num_tables(), "a kill would have left half a database"
"""
    done = run_script(script, cwd=results.parents[1])
    assert done.returncode == 0, done.stderr
    return Store(results, printed=done.stdout + done.stderr)


def run_script(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    names = "Store, log_study, log_trial"
    head = f"import os, signal, sys; sys.path.insert(0, {str(REPOSITORY / 'tests')!r})"
    script = f"{head}\nfrom pathlib import Path\nfrom test_tracking import {names}\n{script}"
    return subprocess.run(
        [sys.executable, "-c", script],
        env=python_environment(),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def python_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "MLFLOW" not in name} | {
        "PYTHONPATH": str(REPOSITORY)
    }


@pytest.fixture
def study(request: pytest.FixtureRequest) -> str:
    return request.node.name


def log_trial(log: RunLog, number: int) -> None:
    log.params({"learning_rate": 0.1 * number, "depth": number})
    log.metrics({"val_accuracy": 0.5 + number / 100, "val_loss": 1.0 / (number + 1)})
    log.curve("train_loss", CURVE)
    log.finish()


def log_study(
    tracker: Tracker, folder: Path, num_trials: int = 3, report: str = "report é #1.html"
) -> None:
    tracker.study.params({"space": "convnet", "n_trials": num_trials})
    tracker.study.tags({"dataset": "digits"})
    tracker.study.description("# What was searched\nA study.")
    for number in range(num_trials):
        log_trial(tracker.trial(number, f"trial {number}"), number)
    failed = tracker.trial(num_trials, f"trial {num_trials}")
    failed.description("two cells")
    failed.finish("FAILED", reason="the loss was not finite at step 7")
    file = folder / report
    if not file.exists():
        file.write_text("<h1>report</h1>")
    tracker.study.artifact(file, "reports")
    tracker.study.curve("best_so_far", [0.1, 0.2, 0.3])
    tracker.study.finish()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "nas_proxy" and record.levelno >= logging.WARNING
    ]


def outbox(store: Store, study: str) -> Path:
    return store.results / study / "tracking" / "outbox.jsonl"


def state_file(store: Store, study: str) -> Path:
    return store.results / study / "tracking" / "state.json"


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# What a person finds


def test_a_person_finds_the_study_and_its_trials(store: Store, study: str) -> None:
    before = int(time.time() * 1000)
    with store.open(study) as tracker:
        log_study(tracker, store.results / study)
    found = store.find_one(study)

    parent = found[study]
    assert parent.status == "FINISHED"
    assert parent.parent is None
    assert parent.params == {"space": "convnet", "n_trials": "3"}
    assert parent.tags["dataset"] == "digits"
    assert parent.tags["mlflow.note.content"] == "# What was searched\nA study."
    assert parent.history == {"best_so_far": [(0, 0.1), (1, 0.2), (2, 0.3)]}
    assert parent.artifacts == {"reports/report é #1.html"}
    assert before <= parent.start_time <= (parent.end_time or 0) <= time.time() * 1000

    assert sorted(found) == sorted([study, "trial 0", "trial 1", "trial 2", "trial 3"])
    trial = found["trial 2"]
    assert trial.parent == parent.run_id
    assert trial.status == "FINISHED"
    assert trial.params == {"learning_rate": "0.2", "depth": "2"}
    assert trial.history["val_accuracy"] == [(0, 0.52)]
    assert trial.history["train_loss"] == list(enumerate(CURVE))


def test_a_failed_trial_says_why(store: Store, study: str) -> None:
    with store.open(study) as tracker:
        log_study(tracker, store.results / study, num_trials=0)
    failed = store.find_one(study)["trial 0"]
    assert failed.status == "FAILED"
    assert failed.tags["reason"] == "the loss was not finite at step 7"
    note = failed.tags["mlflow.note.content"]
    assert note == "two cells\n\n**Reason:** the loss was not finite at step 7"


def test_files_lie_in_the_results_folder(store: Store, study: str) -> None:
    with store.open(study) as tracker:
        log_study(tracker, store.results / study, num_trials=0)
    run_id = store.find_one(study)[study].run_id
    files = [path.name for path in (store.results / "mlartifacts" / run_id).rglob("*.html")]
    assert files == ["report é #1.html"]
    assert (store.results / "mlflow.db").is_file()


def test_global_tracking_state_is_left_alone(store: Store, study: str) -> None:
    import mlflow

    with store.open(study):
        pass
    assert str(store.results) not in mlflow.get_tracking_uri()
    assert mlflow.active_run() is None
    assert "MLFLOW_TRACKING_URI" not in os.environ


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_an_error_ends_the_run(
    store: Store, study: str, error: type[BaseException], status: str
) -> None:
    with pytest.raises(error), store.open(study):
        raise error
    assert store.find_one(study)[study].status == status


def test_a_disabled_tracker_does_nothing(tmp_path: Path) -> None:
    settings = TrackingSettings(enabled=False)
    with open_tracker(settings, tmp_path / "results", tmp_path / "study", "study") as tracker:
        tracker.study.artifact(tmp_path / "nothing")
        tracker.study.description("text")
        log_trial(tracker.trial(0, "trial 0"), 0)
        tracker.study.finish("FAILED", reason="none")
    assert list(tmp_path.iterdir()) == []


# What MLflow would refuse


def test_names_and_values_become_acceptable(
    store: Store, study: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["naïve/a b", "rho@k=10 [%]", "../up", "/root", "a//b", "", ".", "n" * 300]
    with store.open(study) as tracker:
        tracker.study.metrics({name: 1.0 for name in names})
        tracker.study.params({name: 1 for name in names})
        tracker.study.tags({name: 1 for name in names})
        tracker.study.params({"long": "x" * 7000, "nul": "a\0b", "half": "\ud800", "none": None})
        tracker.study.tags({"long": "y" * 9000})
        tracker.study.description("z" * 9000)
        tracker.study.finish(reason="w" * 9000)
    run = store.find_one(study)[study]
    expected = {"naïve/a b", "rho_k_10 ___", "__/up", "root", "a/b", "unnamed", "n" * 250}
    assert set(run.history) == expected
    assert set(run.params) == expected | {"long", "nul", "half", "none"}
    assert expected <= set(run.tags)
    assert run.params["long"] == "x" * 5999 + "…"
    assert (run.params["nul"], run.params["half"], run.params["none"]) == ("ab", "?", "None")
    assert run.tags["long"].endswith("y…")
    assert run.tags["mlflow.note.content"].startswith("zzz")
    assert run.tags["mlflow.note.content"].endswith("ww…")
    assert warnings_of(caplog) == []  # nothing was refused


def test_only_finite_metrics_are_logged(store: Store, study: str) -> None:
    with store.open(study) as tracker:
        tracker.study.metrics({"nan": float("nan"), "inf": float("inf"), "one": torch.tensor(1.0)})
        tracker.study.curve("loss", [3.0, float("nan"), 1.0], steps=[10, 20, 30])
    assert store.find_one(study)[study].history == {
        "one": [(0, 1.0)],
        "loss": [(10, 3.0), (30, 1.0)],
    }


def test_a_curve_needs_a_step_for_each_value(store: Store, study: str) -> None:
    with store.open(study) as tracker, pytest.raises(ValueError, match="zip"):
        tracker.study.curve("loss", [1.0, 2.0], steps=[1])


def test_more_than_one_request_can_carry(
    store: Store, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    log_batch, sizes = MlflowClient.log_batch, []

    def weigh(*args: Any, **options: Any) -> Any:
        sizes.append(len(json.dumps([dict(entity) for group in args[2:] for entity in group])))
        return log_batch(*args, **options)

    monkeypatch.setattr(MlflowClient, "log_batch", weigh)
    with store.open(study) as tracker:
        tracker.study.params({f"p{i}": "é" * 3000 for i in range(230)})
        tracker.study.tags({f"t{i}": "é" * 3000 for i in range(210)})
        tracker.study.curve("loss", list(range(2500)))
    assert max(sizes) < 1e6  # MLflow's own limit, and nginx's
    run = store.find_one(study)[study]
    assert (len(run.params), len(run.history["loss"])) == (230, 2500)
    assert sum(name.startswith("t") for name in run.tags) == 210


def test_a_refused_line_does_not_hold_up_the_others(
    store: Store, study: str, caplog: pytest.LogCaptureFixture
) -> None:
    with store.open(study) as tracker:
        log_trial(tracker.trial(0, "trial 0"), 0)
    client = store.client()
    client.delete_run(store.find_one(study)["trial 0"].run_id)  # in the UI, while the study runs
    with store.open(study) as tracker:
        tracker.trial(0, "trial 0").metrics({"late": 1.0, "later": 2.0})
        log_trial(tracker.trial(1, "trial 1"), 1)
    found = store.find_one(study)
    assert sorted(found) == sorted([study, "trial 1"])
    assert len(found["trial 1"].history["train_loss"]) == 50
    assert len(warnings_of(caplog)) == 1
    assert "refused" in warnings_of(caplog)[0]


def test_a_changed_param_becomes_a_tag(store: Store, study: str) -> None:
    for n_trials in (10, 20, 20):
        with store.open(study) as tracker:
            tracker.study.params({"n_trials": n_trials, "seed": 1})
    run = store.find_one(study)[study]
    assert run.params == {"n_trials": "10", "seed": "1"}
    assert run.tags["changed.n_trials"] == "20"


# Continuing


def test_a_continued_study_adds_nothing_twice(store: Store, study: str) -> None:
    for _ in range(2):
        with store.open(study) as tracker:
            log_study(tracker, store.results / study)
        found, lines = store.find(study), outbox(store, study).read_bytes()
    with store.open(study) as tracker:
        log_study(tracker, store.results / study)
    assert store.find(study) == found
    assert outbox(store, study).read_bytes() == lines


def test_a_continued_study_goes_on_in_its_run(store: Store, study: str) -> None:
    with store.open(study) as tracker:
        log_study(tracker, store.results / study)
        tracker.study.finish("KILLED")
    before = store.find_one(study)
    assert before[study].status == "KILLED"
    with store.open(study) as tracker:
        log_study(tracker, store.results / study)
        log_trial(tracker.trial(7, "trial 7"), 7)
        tracker.study.curve("best_so_far", [0.1, 0.2, 0.3, 0.4])
        (store.results / study / "report é #1.html").write_text("<h1>longer report</h1>")
        tracker.study.artifact(store.results / study / "report é #1.html", "reports")
        tracker.study.finish()
    after = store.find_one(study)
    assert set(after) - set(before) == {"trial 7"}
    assert after[study].run_id == before[study].run_id
    assert after[study].status == "FINISHED"
    assert after[study].history["best_so_far"] == [(0, 0.1), (1, 0.2), (2, 0.3), (3, 0.4)]
    assert {name: after[name] for name in before if name != study} == {
        name: before[name] for name in before if name != study
    }
    uploaded = store.results / "mlartifacts" / after[study].run_id / "artifacts" / "reports"
    assert (uploaded / "report é #1.html").read_text() == "<h1>longer report</h1>"


def test_a_continued_run_is_running_until_it_ends(store: Store, study: str) -> None:
    with store.open(study) as tracker:
        tracker.study.finish("KILLED")
    with store.open(study) as tracker:
        tracker.study.metrics({"trials": 1})
    assert store.find_one(study)[study].status == "RUNNING"


def test_another_store_gets_everything(store: Store, study: str) -> None:
    with store.open(study) as tracker:
        log_study(tracker, store.results / study)
    elsewhere = TrackingSettings(experiment="elsewhere")
    with open_tracker(elsewhere, store.results, store.results / study, study):
        pass
    client = store.client()
    experiment = client.get_experiment_by_name("elsewhere").experiment_id
    assert len(client.search_runs([experiment])) == len(store.find_one(study)) == 5


def test_force_starts_new_runs(store: Store, study: str) -> None:
    for _ in range(2):
        with store.open(study) as tracker:
            log_study(tracker, store.results / study, num_trials=1)
        shutil.rmtree(store.results / study)
    first, second = store.find(study)
    assert sorted(first) == sorted(second) == sorted([study, "trial 0", "trial 1"])
    assert not {run.run_id for run in first.values()} & {run.run_id for run in second.values()}


# Crashes


def lose_state(path: Path) -> None:
    path.unlink()


def damage_state(path: Path) -> None:
    path.write_text('{"store": ')


def forget_half(path: Path) -> None:
    state = json.loads(path.read_text())
    state["uploaded"] //= 2
    state["runs"] = dict(list(state["runs"].items())[:2])
    path.write_text(json.dumps(state))


def count_too_far(path: Path) -> None:  # a power cut took the end of the outbox
    state = json.loads(path.read_text())
    state["uploaded"] += 100
    path.write_text(json.dumps(state))


def belong_to_another_store(path: Path) -> None:
    state = json.loads(path.read_text())
    state["runs"] = {name: "0" * 32 for name in state["runs"]}
    path.write_text(json.dumps(state))


@pytest.mark.parametrize(
    "crash", [lose_state, damage_state, forget_half, count_too_far, belong_to_another_store]
)
def test_uploading_twice_leaves_the_same_store(store: Store, study: str, crash: Any) -> None:
    with store.open(study) as tracker:
        log_study(tracker, store.results / study)
    found = store.find_one(study)
    crash(state_file(store, study))
    for number in (8, 9):
        with store.open(study) as tracker:
            log_trial(tracker.trial(number, f"trial {number}"), number)
    again = store.find_one(study)
    assert len(again.pop("trial 8").history["train_loss"]) == 50
    assert len(again.pop("trial 9").history["train_loss"]) == 50
    assert again.pop(study).history == found.pop(study).history
    assert again == found


def test_half_a_line_is_repaired(store: Store, study: str) -> None:
    with store.open(study) as tracker:
        log_study(tracker, store.results / study)
    with outbox(store, study).open("ab") as file:
        file.write(b'{"run":"trial-3","time":17')
    with store.open(study) as tracker:
        log_trial(tracker.trial(9, "trial 9"), 9)
    assert len(store.find_one(study)["trial 9"].history["train_loss"]) == 50
    for line in outbox(store, study).read_text().splitlines():
        json.loads(line)


def test_a_damaged_line_is_skipped(store: Store, study: str) -> None:
    with store.open(study) as tracker:
        tracker.study.metrics({"a": 1.0})
    with outbox(store, study).open("ab") as file:
        file.write(b"\0" * 100 + b"\n[1, 2]\n{}\n")
    with store.open(study) as tracker:
        tracker.study.metrics({"b": 2.0})
    assert set(store.find_one(study)[study].history) == {"a", "b"}


def test_one_process_at_a_time_opens_the_store(store: Store, study: str) -> None:
    with (store.results / ".mlflow.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as another process that migrates the new database
        tracker = store.open(study)
        time.sleep(1)
        assert not state_file(store, study).exists()
    with tracker:
        log_trial(tracker.trial(0, "trial 0"), 0)
    assert len(store.find_one(study)) == 2


def test_a_killed_process_loses_nothing_it_logged(store: Store, study: str, tmp_path: Path) -> None:
    script = f"""
tracker = Store(Path({str(store.results)!r})).open({study!r})
for number in range(20):
    log_trial(tracker.trial(number, f"trial {{number}}"), number)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run_script(script, cwd=tmp_path).returncode == -signal.SIGKILL
    with store.open(study):
        pass
    found = store.find_one(study)
    assert len(found) == 21
    assert all(len(found[f"trial {n}"].history["train_loss"]) == 50 for n in range(20))


# Stores that fail


def test_an_unreachable_server_costs_the_study_nothing(
    store: Store, study: str, caplog: pytest.LogCaptureFixture
) -> None:
    port = closed_port()
    tracker = store.open(study, uri=f"http://user:secret@127.0.0.1:{port}")
    began = time.monotonic()
    with tracker:
        log_study(tracker, store.results / study)
        assert time.monotonic() - began < 1
        time.sleep(2.5)  # long enough for several attempts
        began = time.monotonic()
    assert time.monotonic() - began < 10
    (warning,) = warnings_of(caplog)
    assert f"127.0.0.1:{port}" in warning
    assert "refused" in warning
    assert str(outbox(store, study)) in warning
    assert "secret" not in warning
    written = b"".join(p.read_bytes() for p in outbox(store, study).parent.iterdir())
    assert b"secret" not in written

    stopped = time.time() * 1000
    with store.open(study) as tracker:
        log_study(tracker, store.results / study)
    found = store.find_one(study)
    assert len(found) == 5
    assert len(found["trial 2"].history["train_loss"]) == 50
    assert found[study].artifacts == {"reports/report é #1.html"}
    assert found[study].start_time < (found[study].end_time or 0) < stopped
    assert len(warnings_of(caplog)) == 1


def test_a_silent_server_does_not_hold_up_the_end(
    store: Store, study: str, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        tracker = store.open(study, uri=f"http://127.0.0.1:{server.getsockname()[1]}")
        tracker.study.metrics({"a": 1.0})
        began = time.monotonic()
        tracker.close(timeout=1)
        assert time.monotonic() - began < 3
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_hiccup_is_not_worth_a_warning(
    store: Store,
    study: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    at_the_end: bool,
) -> None:
    with store.open(study) as tracker:
        wait_until(lambda: state_file(store, study).exists())
        fail_first(monkeypatch, "log", times=1)
        log_trial(tracker.trial(0, "trial 0"), 0)
        if not at_the_end:
            wait_until(lambda: json.loads(state_file(store, study).read_text())["uploaded"] > 1)
    assert len(store.find_one(study)["trial 0"].history["train_loss"]) == 50
    assert warnings_of(caplog) == []


def test_an_answer_that_is_lost_creates_no_second_run(
    store: Store, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    create, calls = MlflowClient.create_run, []

    def lose_answer(*args: Any, **options: Any) -> Any:
        calls.append(create(*args, **options))
        raise ConnectionError("the answer was lost")

    monkeypatch.setattr(MlflowClient, "create_run", lose_answer)
    with store.open(study) as tracker:
        wait_until(lambda: bool(calls))
        monkeypatch.undo()
        log_trial(tracker.trial(0, "trial 0"), 0)
    assert [run.info.run_id for run in calls] == [store.find_one(study)[study].run_id]


def test_a_file_that_does_not_go_through_is_tried_by_the_next_run(
    store: Store, study: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_first(monkeypatch, "upload", times=100)
    with store.open(study) as tracker:
        log_study(tracker, store.results / study)
    found = store.find_one(study)[study]
    assert (found.artifacts, found.status) == (set(), "FINISHED")
    assert len(warnings_of(caplog)) == 1
    monkeypatch.undo()
    with store.open(study):
        pass
    assert store.find_one(study)[study].artifacts == {"reports/report é #1.html"}


def test_a_file_that_vanished_is_said(
    store: Store, study: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = store.results / study / "figure.png"
    with store.open(study, uri=f"http://127.0.0.1:{closed_port()}") as tracker:
        file.write_bytes(b"png")
        tracker.study.artifact(file)
        tracker.study.artifact(file.with_name("never.png"))
    file.unlink()
    with store.open(study) as tracker:
        tracker.study.finish()
    assert store.find_one(study)[study].status == "FINISHED"
    assert sum("figure.png vanished" in text for text in warnings_of(caplog)) == 1
    assert sum("never.png is not uploaded" in text for text in warnings_of(caplog)) == 1


def fail_first(monkeypatch: pytest.MonkeyPatch, method: str, times: int) -> None:
    original, failures = getattr(store_module.Store, method), []

    def fail(*args: Any) -> Any:
        if len(failures) < times:
            failures.append(1)
            raise ConnectionError("no route")
        return original(*args)

    monkeypatch.setattr(store_module.Store, method, fail)


def wait_until(condition: Any, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


# Disks that fail


class FullDisk:
    """The outbox's file on a disk that fills up in the middle of a line."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        return int(self._file.write(data[: len(data) // 2]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_full_disk_does_not_end_the_study(
    store: Store, study: str, caplog: pytest.LogCaptureFixture
) -> None:
    with store.open(study) as tracker:
        log_trial(tracker.trial(0, "trial 0"), 0)
        tracker._journal._file = FullDisk(tracker._journal._file)  # type: ignore[union-attr,assignment]
        for number in (1, 2):
            log_trial(tracker.trial(number, f"trial {number}"), number)
    (warning,) = warnings_of(caplog)
    assert os.strerror(errno.ENOSPC) in warning
    assert outbox(store, study).read_bytes().endswith(b"\n")
    with store.open(study) as tracker:  # there is room again
        log_trial(tracker.trial(2, "trial 2"), 2)
    assert sorted(store.find_one(study)) == sorted([study, "trial 0", "trial 2"])


def test_a_folder_that_cannot_be_made_does_not_end_the_study(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "study").write_text("a file is in the way")
    with open_tracker(TrackingSettings(), tmp_path, tmp_path / "study", "study") as tracker:
        log_trial(tracker.trial(0, "trial 0"), 0)
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("name", ["what?", "50%20"])
def test_a_folder_that_sqlite_cannot_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="another results folder"):
        open_tracker(TrackingSettings(), tmp_path / name, tmp_path / "study", "study")


# Cost


def test_trials_are_logged_from_many_threads_and_cost_little(store: Store, study: str) -> None:
    seconds: list[float] = []

    def work(first: int) -> None:
        for number in range(first, 40, 8):
            began = time.perf_counter()
            log_trial(tracker.trial(number, f"trial {number}"), number)
            seconds.append(time.perf_counter() - began)

    with store.open(study) as tracker:
        threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(seconds)[20] < 0.05
    found = store.find_one(study)
    assert len(found) == 41
    assert all(len(found[f"trial {n}"].history["train_loss"]) == 50 for n in range(40))


def test_a_first_run_is_quiet(store: Store) -> None:
    assert store.printed == ""
    assert len(store.find_one("first")) == 5
    files = {path.name for path in store.results.iterdir() if not path.name.startswith("test_")}
    assert files == {".mlflow.lock", "first", "mlartifacts", "mlflow.db"}
    assert [path.name for path in store.results.parents[1].iterdir()] == ["a b#c é"]


# Servers


@dataclass
class Server:
    """An `mlflow server` of its own, with its files in `folder`."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "files")]
        environment = python_environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(lambda: answers(self.uri))

    def signal(self, number: int) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, number)


def answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, closed_port())
    yield server
    server.signal(signal.SIGKILL)


@pytest.mark.slow
def test_a_server_that_comes_late_and_hangs_has_everything_in_the_end(
    server: Server,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(uploader, "MAX_RETRY_SECONDS", 2.0)
    store = Store(tmp_path / "results", server.uri)
    with store.open("study") as tracker:
        log_trial(tracker.trial(0, "trial 0"), 0)
        server.start()
        state = state_file(store, "study")
        wait_until(lambda: state.exists() and json.loads(state.read_text())["uploaded"] > 0)
        server.signal(signal.SIGSTOP)
        log_study(tracker, tmp_path / "results" / "study", report="report é.html")
        time.sleep(3)
        server.signal(signal.SIGCONT)
    found = store.find_one("study")
    assert len(found) == 5
    assert all(len(found[f"trial {n}"].history["train_loss"]) == 50 for n in range(3))
    assert found["study"].artifacts == {"reports/report é.html"}
    assert found["study"].status == "FINISHED"
    assert list((tmp_path / "files").rglob("report é.html"))
    assert not (tmp_path / "results" / "mlflow.db").exists()
    assert len(warnings_of(caplog)) == 1


@pytest.mark.slow
def test_the_ui_shows_the_studies_and_ends_with_ctrl_c(
    store: Store, study: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with store.open(study) as tracker:
        log_study(tracker, store.results / study)
    port = closed_port()
    served: dict[str, Found] = {}

    def visit() -> None:
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}"))
            served.update(Store(store.results, f"http://127.0.0.1:{port}").find_one(study))
        finally:
            if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
                os.kill(os.getpid(), signal.SIGINT)

    visitor = threading.Thread(target=visit)
    visitor.start()
    launch_ui(store.results, None, port)
    visitor.join()
    assert len(served) == 5
    assert served[study].artifacts == {"reports/report é #1.html"}
    assert "Traceback" not in capfd.readouterr().err
    assert not answers(f"http://127.0.0.1:{port}")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_ui_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing has been tracked"):
        launch_ui(tmp_path, None, 5000)
    with pytest.raises(UserError, match=r"open http://\*\*\*@tracking:5000"):
        launch_ui(tmp_path, "http://me:secret@tracking:5000", 5000)


def test_the_ui_says_that_its_port_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(UserError, match=f"port {server.getsockname()[1]} cannot be used"):
            launch_ui(tmp_path, None, server.getsockname()[1])
