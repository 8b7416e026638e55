"""Servers and disks that fail: the study goes on, and is told once."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from nas_proxy.errors import UserError
from nas_proxy.tracking import TrackingSettings, open_tracker
from nas_proxy.tracking import _store as store_module
from tests.tracking.helpers import (
    Store,
    closed_port,
    log_study,
    log_trial,
    outbox,
    state_file,
    wait_until,
    warnings_of,
)

# Stores that fail

# A study is held up for next to nothing; MLflow by itself would try again for minutes.
PATIENCE_SECONDS = 60


def test_an_unreachable_server_costs_the_study_nothing(
    store: Store, study: str, caplog: pytest.LogCaptureFixture
) -> None:
    port = closed_port()
    tracker = store.open(study, uri=f"http://user:secret@127.0.0.1:{port}")
    began = time.monotonic()
    with tracker:
        log_study(tracker, store.results / study)
        assert time.monotonic() - began < PATIENCE_SECONDS
        time.sleep(2.5)  # long enough for several attempts
        began = time.monotonic()
    assert time.monotonic() - began < PATIENCE_SECONDS
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
    store: Store, study: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(5 * PATIENCE_SECONDS))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        tracker = store.open(study, uri=f"http://127.0.0.1:{server.getsockname()[1]}")
        tracker.study.metrics({"a": 1.0})
        began = time.monotonic()
        tracker.close(timeout=1)
        assert time.monotonic() - began < PATIENCE_SECONDS
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
