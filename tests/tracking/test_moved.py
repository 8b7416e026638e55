"""A results folder is moved or copied, and everything in it is found where it lies now."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.request import url2pathname

import pytest

from nas_proxy.tracking._moved import follow_move
from tests.tracking.helpers import Store, log_study, log_trial, outbox, state_file, warnings_of


@pytest.fixture
def copy(store: Store, study: str, tmp_path: Path) -> Store:
    """A study in a store that lies elsewhere now; what it was made in is gone for the test."""
    made = Store(tmp_path / "made here")
    shutil.copytree(store.results, made.results)
    with made.open(study) as tracker:
        log_study(tracker, made.results / study)
    made.results.rename(tmp_path / "moved to é #1")
    return Store(tmp_path / "moved to é #1")


def texts(database: Path) -> list[str]:
    """Every text in every table."""
    with closing(sqlite3.connect(database)) as opened:
        tables = [name for (name,) in opened.execute("SELECT name FROM sqlite_master "
                                                     "WHERE type = 'table'")]  # fmt: skip
        rows = [row for table in tables for row in opened.execute(f'SELECT * FROM "{table}"')]
    return [value for row in rows for value in row if isinstance(value, str)]


def test_artifacts_of_a_moved_folder_open(
    copy: Store, study: str, caplog: pytest.LogCaptureFixture
) -> None:
    lines = outbox(copy, study).read_bytes()
    with copy.open(study) as tracker:
        log_study(tracker, copy.results / study)  # the same command again
        log_trial(tracker.trial(9, "trial 9"), 9)  # and what is new
    (found,) = copy.find(study)
    assert found[study].artifacts == {"reports/report é #1.html"}
    run = copy.client().get_run(found[study].run_id)
    folder = Path(url2pathname(run.info.artifact_uri.removeprefix("file://")))
    assert folder.is_relative_to(copy.results)
    assert folder.is_dir()
    # The report is the same file, so it is not uploaded again.
    added = outbox(copy, study).read_bytes().removeprefix(lines)
    assert b"artifact" not in added
    assert warnings_of(caplog) == []
    assert "made here" not in state_file(copy, study).read_text()


def test_no_address_of_the_old_place_is_left(copy: Store) -> None:
    database = copy.results / "mlflow.db"
    assert any("made%20here" in text for text in texts(database))
    follow_move(copy.results)
    # MLflow's own experiment, in which nothing is logged, notes where the program was started.
    assert not any("made%20here/mlartifacts" in text for text in texts(database))
    before = database.read_bytes()
    follow_move(copy.results)
    assert database.read_bytes() == before


def test_artifacts_that_are_kept_elsewhere_stay_there(copy: Store) -> None:
    from mlflow.tracking import MlflowClient

    client: MlflowClient = copy.client()
    client.create_experiment("in a bucket", "s3://bucket/files")
    other = client.create_experiment("beside", f"file://{copy.results}-old/mlartifacts-2")
    follow_move(copy.results)
    assert copy.client().get_experiment_by_name("in a bucket").artifact_location == (
        "s3://bucket/files"
    )
    assert copy.client().get_experiment(other).artifact_location.endswith("-old/mlartifacts-2")
