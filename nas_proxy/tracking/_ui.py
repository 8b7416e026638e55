"""MLflow's pages on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nas_proxy.errors import UserError, masked
from nas_proxy.tracking._mlflow_border import artifact_root, default_uri, prepare_environment
from nas_proxy.tracking._moved import follow_move
from nas_proxy.tracking._store import KIND, KIND_TAG

# The job runner serves features of MLflow that a study does not use, with processes of its own.
UI_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "UVICORN_LOG_LEVEL": "warning",
    "PYTHONWARNINGS": "ignore",
}

_POLL_SECONDS = 0.1  # between questions whether the server answers

# Of which Windows lacks the last.
_STOPS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


def launch_ui(
    results: Path,
    uri: str | None = None,
    port: int = 5000,
    announce: Callable[[str], None] = lambda page: None,
) -> None:
    """Serve MLflow's pages on 127.0.0.1 until Ctrl-C.

    SIGTERM and SIGHUP end it too. A signal that was ignored when it was called stays ignored.

    Args:
        results: Folder that studies share.
        uri: Another store than the one in it.
        port: To listen on.
        announce: Told the address of the table of runs, as soon as it answers.

    Raises:
        UserError: If there is nothing to show, the port is taken, or MLflow's server gives up.
    """
    if uri is not None and uri.startswith(("http:", "https:")):
        raise UserError(f"the studies are tracked on a server: open {masked(uri)} in a browser")
    if uri is None and not (results / "mlflow.db").exists():
        raise UserError(f"nothing has been tracked in {results} yet: run a study first")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} cannot be used ({error}): choose another one") from error
    if uri is None:
        follow_move(results)
    store = uri or default_uri(results)

    def is_up() -> None:
        announce(f"http://127.0.0.1:{port}/#/{_runs_page(store)}")

    _serve(store, artifact_root(results), port, is_up)


def _runs_page(uri: str) -> str:
    """The table of runs with the newest study; the list of experiments where there is none.

    MLflow opens in its view for language models unless the address names the other one.
    """
    prepare_environment()
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    ours = [e.experiment_id for e in client.search_experiments() if e.tags.get(KIND_TAG) == KIND]
    newest = client.search_runs(ours, order_by=["attributes.start_time DESC"], max_results=1)
    place = "".join(f"/{run.info.experiment_id}/runs" for run in newest)
    return f"experiments{place}?workflowType=machine_learning"


def _serve(uri: str, artifact_root: str, port: int, announce: Callable[[], None]) -> None:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", uri, "--registry-store-uri", uri]
    command += ["--default-artifact-root", artifact_root]
    # A group of its own: MLflow hands Ctrl-C on to its server, to which a second one from the
    # terminal means "at once", with a traceback.
    server = subprocess.Popen(command, env=UI_ENVIRONMENT | os.environ, process_group=0)
    asked: list[int] = []

    def stop(number: int, _: object) -> None:
        asked.append(number)
        server.terminate()

    before = {number: signal.getsignal(number) for number in _STOPS}
    # nohup ignores SIGHUP, and a shell SIGINT for its background jobs: both mean it.
    heeded = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in heeded:
        signal.signal(number, stop)
    try:
        while server.poll() is None and not asked and not _answers(port):
            time.sleep(_POLL_SECONDS)
        if server.poll() is None and not asked:
            announce()
        status = server.wait()
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)
    if status and not asked:
        raise UserError(f"MLflow's server stopped with status {status}: see what it printed above")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
