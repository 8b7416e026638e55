"""What MLflow accepts, and how a store is found and made: its border with us."""

from __future__ import annotations

import os
import posixpath
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

from nas_proxy.core import locks
from nas_proxy.errors import UserError, masked

MAX_NAME, MAX_TEXT, MAX_REASON = 250, 6000, 1500  # characters; MLflow refuses longer ones

# Only where the user has set nothing: we retry ourselves, and MLflow's own retries take minutes
# and talk to the terminal.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def accepted_name(text: str) -> str:
    """The nearest name that MLflow accepts for a metric, a param or a tag."""
    path = posixpath.normpath(re.sub(r"[^/\w.\- :]", "_", text)).lstrip("/")[:MAX_NAME]
    return path.replace("..", "__") if path.strip("./ ") else "unnamed"


def metric_name(text: str) -> str:
    """The name of a metric as an identifier, so that MLflow's searches need no quotes.

    MLflow's charts group what stands before a slash, so slashes stay.
    """
    parts = (re.sub(r"\W+", "_", part).strip("_") for part in text.split("/"))
    return accepted_name("/".join(filter(None, parts)))


def accepted_text(value: object, limit: int = MAX_TEXT) -> str:
    """The value as text that databases store: no longer than `limit`, no half characters."""
    text = str(value).replace("\0", "").encode(errors="replace").decode()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def default_uri(results: Path) -> str:
    """The SQLite store in the results folder.

    Raises:
        UserError: If an SQLite address cannot hold the path.
    """
    path = results.resolve() / "mlflow.db"
    if re.search(r"\?|%[0-9a-fA-F]{2}", str(path)):
        raise UserError(
            f"an SQLite address cannot hold the '?' or '%' in {path}: choose another results "
            "folder, or set tracking.uri or tracking.enabled=false"
        )
    return f"sqlite:///{path}"


def results_beside(uri: str, results: Path) -> Path | None:
    """The results folder if artifacts are kept in it; None where they are a server's business."""
    return None if re.match(r"https?:|databricks", uri) else results.resolve()


def prepare_environment() -> None:
    """Let MLflow give up early and print nothing, in all that the user has not set."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def make_database(path: Path) -> None:
    """Make the SQLite store aside: MLflow can never use one whose making was interrupted."""
    from mlflow.tracking import MlflowClient

    for draft in path.parent.glob(".mlflow-*.db*"):
        draft.unlink()
    if not path.exists():
        draft = path.with_name(f".mlflow-{uuid.uuid4().hex}.db")
        MlflowClient(tracking_uri=f"sqlite:///{draft}")
        draft.replace(path)


def artifact_root(results: Path) -> str:
    """Where the default store keeps artifacts, as a URI."""
    return (results.resolve() / "mlartifacts").as_uri()


@contextmanager
def exclusive(results: Path | None) -> Iterator[None]:
    """Open a store in one process at a time: two that make or upgrade a database break it."""
    if results is None:
        yield
        return
    with locks.exclusive(results / ".mlflow.lock"):
        yield


def reason_of(error: BaseException) -> str:
    """The innermost cause on one line: MLflow wraps a refused connection five times."""
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    return shorten(masked(str(error)), 200, placeholder="…") or type(error).__name__
