"""What a person finds in MLflow, and what it costs the study to bring it there."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_proxy.tracking import LoggedDataset, Period, TrackingSettings, open_tracker
from nas_proxy.tracking._origin import origin_tags
from nas_proxy.tracking._ui import _runs_page
from tests.tracking.helpers import CURVE, Store, log_study, log_trial, warnings_of

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


def test_what_is_over_is_dated_when_it_was(store: Store, study: str) -> None:
    with store.open(study) as tracker:
        run = tracker.trial(0, "trial 0", Period(1_700_000_000.0, 1_700_000_012.5))
        run.metrics({"val_loss": 0.5})
        run.finish()
        later = tracker.trial(0, "trial 0", Period(1_800_000_000.0, 1_800_000_001.0))
        later.metrics({"val_loss": 0.5})  # logging it again changes nothing
    trial = store.find_one(study)["trial 0"]
    assert (trial.start_time, trial.end_time) == (1_700_000_000_000, 1_700_000_012_500)
    (point,) = store.client().get_metric_history(trial.run_id, "val_loss")
    assert point.timestamp == trial.end_time


def test_a_run_names_its_images_user_and_source(
    store: Store, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/nas-proxy", "run"])
    digits = LoggedDataset(
        name="digits", digest="0123" * 16, source="scikit-learn", profile={"search_train": 7}
    )
    with store.open(study) as tracker:
        for _ in range(2):
            tracker.study.dataset(digits, "real images")
        tracker.trial(0, "trial 0").dataset(digits, "training")
    (run,) = store.client().search_runs(
        [store.client().get_experiment_by_name("nas_proxy").experiment_id],
        f"attributes.run_name = '{study}'",
    )
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("digits", ("0123" * 16)[:36])
    assert json.loads(given.dataset.profile) == {"search_train": 7}
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "real images")]
    tags = store.find_one(study)["trial 0"].tags
    assert tags["mlflow.user"] == getpass.getuser()
    assert tags["mlflow.source.name"] == "nas-proxy"


@pytest.mark.parametrize("edited", [False, True])
def test_the_commit_is_that_of_the_studys_own_code(tmp_path: Path, edited: bool) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    space = tmp_path / "space.py"
    space.write_text("one = 1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    space.write_text(f"one = {1 + edited}\n")
    tags = origin_tags([space])
    assert tags["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    assert tags["mlflow.source.git.dirty"] == ("true" if edited else "false")


def test_code_that_is_in_no_repository_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert not any("git" in name for name in origin_tags([tmp_path / "space.py"]))


def test_pages_open_in_the_view_for_trainings(store: Store, study: str) -> None:
    """Not in the one for language models, by which MLflow 3 begins."""
    with store.open(study):
        pass
    store.client().create_experiment(study)
    found = store.client().get_experiment_by_name("nas_proxy")
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    place = f"experiments/{found.experiment_id}/runs?workflowType=machine_learning"
    assert _runs_page(f"sqlite:///{store.results}/mlflow.db") == place


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


def test_a_disabled_tracker_sends_nothing_and_keeps_it(tmp_path: Path) -> None:
    settings = TrackingSettings(enabled=False)
    with open_tracker(settings, tmp_path / "results", tmp_path / "study", "study") as tracker:
        tracker.study.artifact(tmp_path / "nothing")
        tracker.study.description("text")
        log_trial(tracker.trial(0, "trial 0"), 0)
        tracker.study.finish("FAILED", reason="none")
    kept = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert kept == [Path("study/tracking/outbox.jsonl")]


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
    identifiers = {"naïve/a_b", "rho_k_10", "up", "root", "a/b", "unnamed", "n" * 250}
    assert set(run.history) == identifiers
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


@pytest.mark.exhaustive
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


# Cost


@pytest.mark.exhaustive
def test_trials_are_logged_from_many_threads_and_wait_for_no_store(
    store: Store, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    log_batch, senders = MlflowClient.log_batch, set()

    def send(*args: Any, **options: Any) -> Any:
        senders.add(threading.current_thread().name)
        return log_batch(*args, **options)

    def work(first: int) -> None:
        for number in range(first, 40, 8):
            log_trial(tracker.trial(number, f"trial {number}"), number)

    monkeypatch.setattr(MlflowClient, "log_batch", send)
    with store.open(study) as tracker:
        threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert senders == {"nas_proxy tracking"}
    found = store.find_one(study)
    assert len(found) == 41
    assert all(len(found[f"trial {n}"].history["train_loss"]) == 50 for n in range(40))


def test_a_first_run_is_quiet(store: Store) -> None:
    assert store.printed == ""
    assert len(store.find_one("first")) == 5
    files = {path.name for path in store.results.iterdir() if not path.name.startswith("test_")}
    assert files == {".mlflow.lock", "first", "mlartifacts", "mlflow.db"}
    assert [path.name for path in store.results.parents[1].iterdir()] == ["a b#c é"]
