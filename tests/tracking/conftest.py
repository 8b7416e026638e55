"""A store, and a study of its own for each test."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.tracking.helpers import Server, Store, closed_port, run_script


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all tests, made by a process of its own: MLflow needs seconds to make one."""
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


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that leave it running: MLflow needs seconds to start one."""
    server = Server(tmp_path_factory.mktemp("server"), closed_port())
    try:
        server.start()
        yield server
    finally:
        server.signal(signal.SIGKILL)


@pytest.fixture
def study(request: pytest.FixtureRequest) -> str:
    return request.node.name
