"""A study's results, what it logs, and what MLflow shows of it."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nas_proxy.tracking import RunLog, Tracker, TrackingSettings, open_tracker

REPOSITORY = Path(__file__).parents[2]
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

        uri = self.uri or f"sqlite:///{self.results}/mlflow.db"
        return MlflowClient(tracking_uri=uri, registry_uri=uri)

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


def run_script(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    names = "Store, log_study, log_trial"
    head = f"import os, signal, sys; sys.path.insert(0, {str(REPOSITORY)!r})"
    script = (
        f"{head}\nfrom pathlib import Path\nfrom tests.tracking.helpers import {names}\n{script}"
    )
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


def wait_until(condition: Any, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@dataclass
class Server:
    """An `mlflow server` of its own, with its files in `folder`."""

    folder: Path
    port: int
    backend: str = ""  # where it keeps what it is told; a file of its own by default
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port)]
        backend = self.backend or f"sqlite:///{self.folder}/server.db"
        command += ["--workers", "1", "--backend-store-uri", backend]
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
