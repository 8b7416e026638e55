"""MLflow's own server and its pages."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nas_proxy.errors import UserError
from nas_proxy.tracking import _ui as ui
from nas_proxy.tracking import _uploader as uploader
from nas_proxy.tracking import launch_ui
from tests.helpers import postgres
from tests.tracking.helpers import (
    Found,
    Server,
    Store,
    answers,
    closed_port,
    log_study,
    log_trial,
    state_file,
    wait_until,
    warnings_of,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, closed_port())
    yield server
    server.signal(signal.SIGKILL)


@pytest.mark.exhaustive
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


@pytest.mark.exhaustive
def test_a_server_on_postgresql_that_stops_and_starts_with_its_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploader, "MAX_RETRY_SECONDS", 2.0)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # sockets: a short path
        database = postgres.Server(folder)
        backend = database.url.replace("postgresql://", "postgresql+psycopg://")
        server = Server(tmp_path, closed_port(), backend)
        store = Store(tmp_path / "results", server.uri)
        try:
            server.start()
            with store.open("study") as tracker:
                log_trial(tracker.trial(0, "trial 0"), 0)
                wait_until(lambda: state_file(store, "study").exists())
                database.stop()
                log_trial(tracker.trial(1, "trial 1"), 1)
                time.sleep(3)
                database.start()
                server.signal(signal.SIGKILL)
                log_study(tracker, tmp_path / "results" / "study")
                server.start()
            found = store.find_one("study")
            assert len(found) == 5
            assert all(len(found[f"trial {n}"].history["train_loss"]) == 50 for n in range(3))
        finally:
            server.signal(signal.SIGKILL)
            database.stop()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where this process was started to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("ctrl_c")
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


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT])
@pytest.mark.usefixtures("ctrl_c")
def test_the_ui_under_nohup_ends_only_when_it_is_asked_to(
    ignored: signal.Signals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mlflow.db").touch()
    started: list[subprocess.Popen[bytes]] = []
    alive: list[bool] = []

    def serve(*command: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "60"]))
        return started[-1]

    def stop_twice() -> None:
        wait_until(lambda: callable(signal.getsignal(signal.SIGTERM)))
        os.kill(os.getpid(), ignored)
        time.sleep(0.1)
        alive.append(started[0].poll() is None)
        if alive == [True]:  # otherwise nobody listens any more
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ui, "subprocess", SimpleNamespace(Popen=serve))
    before = signal.signal(ignored, signal.SIG_IGN)
    stopper = threading.Thread(target=stop_twice)
    try:
        stopper.start()
        launch_ui(tmp_path, None, closed_port())
        assert signal.getsignal(ignored) == signal.SIG_IGN
    finally:
        stopper.join()
        signal.signal(ignored, before)
    assert alive == [True]
    assert started[0].poll() == -signal.SIGTERM


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
