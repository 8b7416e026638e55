"""What a person sees of a study in MLflow; the only module that imports it.

Every call appends one JSON line to `<study folder>/tracking/outbox.jsonl` and returns. A thread
carries the lines to the store in order and notes in `state.json` how far it came. So a store that
is slow, down or gone costs the study nothing, and the next run uploads what is left. Sending a
line twice is harmless: a run is looked up by its key before it is created again, and a metric
keeps its value, step and time.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import math
import os
import posixpath
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

from nas_proxy.errors import UserError
from nas_proxy.files import drop_partial_line, write_atomically
from nas_proxy.options import Options

logger = logging.getLogger("nas_proxy")

# One thing logged about a run: ("param", name), ("metric", name, step), ("tag", name),
# ("artifact", path, folder), ("note",), ("start",) or ("status",), and its value.
Fact = tuple[tuple[Any, ...], Any]
TimedFact = tuple[tuple[Any, ...], Any, int]
RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

STUDY = "study"
RUN_KEY_TAG = "nas_proxy.run_key"
MAX_NAME, MAX_TEXT, MAX_REASON = 250, 6000, 1500  # characters; MLflow refuses longer ones
LINES_PER_UPLOAD = 100
GATHER_SECONDS = 0.2  # a trial's calls come together: waiting for them saves round trips
MAX_RETRY_SECONDS = 60.0
# What the store will answer in the same way however often it is asked.
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST")
# Only where the user has set nothing: we retry ourselves, and MLflow's own retries take minutes
# and talk to the terminal.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# The job runner serves features of MLflow that a study does not use, with processes of its own.
UI_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "UVICORN_LOG_LEVEL": "warning",
    "PYTHONWARNINGS": "ignore",
}


@dataclass(frozen=True, kw_only=True)
class TrackingSettings(Options):
    """The `tracking` section.

    Attributes:
        uri: MLflow tracking URI; None keeps `mlflow.db` and `mlartifacts` in the results folder.
        experiment: MLflow experiment that the studies' runs belong to.
        enabled: Whether anything is tracked.
    """

    uri: str | None = None
    experiment: str = "nas_proxy"
    enabled: bool = True


class RunLog:
    """One MLflow run. Its methods return at once; what was already logged is not logged again."""

    def __init__(self, journal: _Journal | None, run: str) -> None:
        self._journal = journal
        self._run = run

    def params(self, values: Mapping[str, object]) -> None:
        """Log what was chosen; a param that changes later is kept, and tagged `changed.<name>`."""
        self._add([(("param", _name(key)), _text(value)) for key, value in values.items()])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log what was measured; values that are not finite are left out."""
        at = int(step)
        self._add([(("metric", _name(key), at), float(value)) for key, value in values.items()])

    def curve(self, name: str, values: Sequence[float], steps: Sequence[int] | None = None) -> None:
        """Log one metric at many steps, by default 0, 1, 2...; see `metrics`.

        Raises:
            ValueError: If there are not as many steps as values.
        """
        points = zip(values, range(len(values)) if steps is None else steps, strict=True)
        self._add([(("metric", _name(name), int(step)), float(value)) for value, step in points])

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags; the last value of each counts."""
        self._add([(("tag", _name(key)), _text(value)) for key, value in values.items()])

    def description(self, markdown: str) -> None:
        """Set the text at the top of the run's page."""
        if self._journal is not None:
            self._journal.note(self._run, text=_text(markdown))

    def artifact(self, path: Path, folder: str = "") -> None:
        """Upload a file, or a folder's content, to `folder`; it is read when it is uploaded."""
        if self._journal is None:
            return
        try:
            stat = path.stat()
        except OSError as error:
            logger.warning("tracking: %s is not uploaded: %s", path, error)
            return
        content = [stat.st_size, stat.st_mtime_ns]
        self._add([(("artifact", str(path.resolve()), folder), content)])

    def finish(self, status: RunStatus = "FINISHED", reason: str = "") -> None:
        """End the run; `reason` becomes a tag and the end of the description."""
        if self._journal is not None and reason:
            self._journal.note(self._run, reason=_text(reason, MAX_REASON))
        self._add([(("status",), status)])

    def _add(self, facts: list[Fact]) -> None:
        if self._journal is not None:
            kept = [fact for fact in facts if fact[0][0] != "metric" or math.isfinite(fact[1])]
            self._journal.add(self._run, kept)


class Tracker:
    """A study's run and its trials' runs; closes on leaving a `with` block.

    An exception that leaves the block ends the study's run as `FAILED`, Ctrl-C as `KILLED`.

    Attributes:
        study: The study's run, parent of all others.
    """

    def __init__(self, journal: _Journal | None, study_name: str) -> None:
        self._journal = journal
        self.study = self._run(STUDY, study_name)

    def trial(self, number: int, name: str) -> RunLog:
        """The run of a trial; the same run whenever the number is the same."""
        return self._run(f"trial-{number}", name, parent=STUDY)

    def close(self, timeout: float = 30.0) -> None:
        """Upload what is left; give up after `timeout` seconds in which nothing went through."""
        if self._journal is not None:
            self._journal.close(timeout)

    def _run(self, run: str, name: str, parent: str = "") -> RunLog:
        if self._journal is not None:
            self._journal.start(run, _text(name, MAX_NAME), parent)
        return RunLog(self._journal, run)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *details: object) -> None:
        if error_type is not None:
            self.study.finish("FAILED" if issubclass(error_type, Exception) else "KILLED")
        self.close()


def open_tracker(
    settings: TrackingSettings, results: Path, study_folder: Path, study_name: str
) -> Tracker:
    """The tracker of a study, new or continued; its state is in `<study_folder>/tracking`.

    Raises:
        UserError: If `results` cannot hold an SQLite store and the settings name no other.
    """
    if not settings.enabled:
        return Tracker(None, study_name)
    uri = settings.uri or _default_uri(results)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # here: no thread may, while others could be reading
    folder = study_folder.resolve() / "tracking"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if settings.uri is None and not (results / "mlflow.db").exists():
            # The store was deleted, or moved away: everything is uploaded again.
            (folder / "state.json").unlink(missing_ok=True)
        results.mkdir(parents=True, exist_ok=True)
        served = re.match(r"https?:|databricks", uri)  # then artifacts are the server's business
        uploader = _Uploader(
            folder, uri, settings.experiment, None if served else results.resolve()
        )
        journal = _Journal(folder, uploader)
    except OSError as error:
        logger.warning("tracking: this run is not tracked: %s", error)
        return Tracker(None, study_name)
    return Tracker(journal, study_name)


def launch_ui(results: Path, uri: str | None = None, port: int = 5000) -> None:
    """Serve MLflow's pages on 127.0.0.1 until Ctrl-C.

    Raises:
        UserError: If there is nothing to show, the port is taken, or MLflow's server gives up.
    """
    if uri is not None and uri.startswith(("http:", "https:")):
        raise UserError(f"the studies are tracked on a server: open {_masked(uri)} in a browser")
    if uri is None and not (results / "mlflow.db").exists():
        raise UserError(f"nothing has been tracked in {results} yet: run a study first")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} cannot be used ({error}): choose another one") from error
    _serve(uri or _default_uri(results), _artifact_root(results), port)


def _serve(uri: str, artifact_root: str, port: int) -> None:
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

    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, stop) for number in stops]
    try:
        status = server.wait()
    finally:
        for number, handler in zip(stops, before, strict=True):
            signal.signal(number, handler)
    if status and not asked:
        raise UserError(f"MLflow's server stopped with status {status}: see what it printed above")


class _Journal:
    """Writes the outbox, and knows all that is in it: the same fact is not written twice."""

    def __init__(self, folder: Path, uploader: _Uploader) -> None:
        self._uploader = uploader
        self._lock = threading.Lock()
        path = folder / "outbox.jsonl"
        drop_partial_line(path)
        self._file = path.open("ab", buffering=0)
        content = path.read_bytes()
        self._known: dict[tuple[Any, ...], Any] = {}
        for run, facts in map(_parse, content.splitlines(keepends=True)):
            self._known.update({(run, *key): value for key, value, _ in facts})
        # Runs that an earlier process ended: what is new about them sets them running again.
        self._ended = {
            key[0]
            for key, value in self._known.items()
            if key[1:] == ("status",) and value != "RUNNING"
        }
        uploader.begin(content.count(b"\n"))

    def start(self, run: str, name: str, parent: str) -> None:
        """Create the run, unless an earlier process did."""
        if (run, "start") not in self._known:
            value = {"name": name, "parent": parent, "key": uuid.uuid4().hex}
            self.add(run, [(("start",), value)])

    def note(self, run: str, text: str | None = None, reason: str | None = None) -> None:
        """Change one half of the description and keep the other."""
        old_text, old_reason = self._known.get((run, "note"), ("", ""))
        new = [old_text if text is None else text, old_reason if reason is None else reason]
        self.add(run, [(("note",), new)])

    def add(self, run: str, facts: list[Fact]) -> None:
        """Append what is new among `facts`; a disk that is full ends the tracking, once said."""
        with self._lock:
            new = self._news(run, facts)
            if not new or self._file.closed:
                return
            try:
                self._append({"run": run, "time": int(time.time() * 1000), "facts": new})
            except OSError as error:
                self._file.close()
                why = f"{self._file.name} cannot be written ({error})"
                logger.warning("tracking: %s; the study goes on, untracked from here", why)
                return
            self._ended.discard(run)
            self._known.update({(run, *key): value for key, value in new})
            self._uploader.wake()

    def close(self, timeout: float) -> None:
        """Let the uploader finish, and close the outbox."""
        self._uploader.close(timeout)
        with self._lock:
            self._file.close()

    def _news(self, run: str, facts: list[Fact]) -> list[Fact]:
        new: dict[tuple[Any, ...], Any] = {}
        for key, value in facts:
            old = new.get(key, self._known.get((run, *key)))
            if key[0] == "param" and old not in (None, value):  # MLflow lets no param change
                key = ("tag", _name(f"changed.{key[1]}"))
                old = self._known.get((run, *key))
            if old != value:
                new[key] = value
        if new and run in self._ended and ("status",) not in dict(facts):
            new = {("status",): "RUNNING"} | new
        return list(new.items())

    def _append(self, event: Mapping[str, Any]) -> None:
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        size = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.truncate(size)  # half a line would spoil the next one
            raise


@dataclass
class _State:
    """How far the uploader came with one store; `state.json`.

    Attributes:
        store: The store and the experiment; another one is uploaded to from the beginning.
        experiment_id: MLflow's id of the experiment.
        uploaded: Lines of the outbox that the store has.
        runs: Our name of each run to MLflow's id.
        late: Run, path and folder of artifacts that did not go through and are tried again.
    """

    store: str
    experiment_id: str = ""
    uploaded: int = 0
    runs: dict[str, str] = field(default_factory=dict)
    late: list[list[str]] = field(default_factory=list)


class _Uploader:
    """Carries the outbox to the store, in a thread that starts with the first line."""

    def __init__(self, folder: Path, uri: str, experiment: str, results: Path | None) -> None:
        self._address = (uri, experiment, results)
        self._outbox = folder / "outbox.jsonl"
        self._state_file = folder / "state.json"
        self._state = self._read_state()
        self._store: _Store | None = None
        self._position = 0  # in the outbox; all before it has been uploaded
        self._warned: set[str] = set()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._progress = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="nas_proxy tracking", daemon=True)

    def begin(self, num_lines: int) -> None:
        """Upload what an earlier process left in an outbox of `num_lines` lines."""
        # Fewer than were uploaded: a power cut took the last ones, and new ones take their places.
        self._state.uploaded = min(self._state.uploaded, num_lines)
        if num_lines > self._state.uploaded or self._state.late:
            self.wake()

    def wake(self) -> None:
        """Say that there is something to upload."""
        if self._thread.ident is None:
            self._thread.start()
        self._wake.set()

    def close(self, timeout: float) -> None:
        """Wait for the last attempt, as long as something goes through every `timeout` seconds."""
        if self._thread.ident is None:
            return
        self._closing.set()
        self._wake.set()
        begin = time.monotonic()
        while self._thread.is_alive() and time.monotonic() < max(begin, self._progress) + timeout:
            self._thread.join(0.1)
        if self._thread.is_alive():
            self._warn_kept(f"no answer for {timeout:.0f} s")

    def _run(self) -> None:
        delay = 0.0
        while True:
            closing = self._closing.is_set()  # read first: what came before it is in this attempt
            try:
                self._upload(last=closing)
                if closing:
                    return
                delay = 0.0
            except Exception as error:  # noqa: BLE001 - whatever MLflow raises, the study goes on
                if delay:  # a single failure may be a hiccup
                    self._warn_kept(_reason(error))
                    if closing:
                        return
                delay = min(2 * delay, MAX_RETRY_SECONDS) or 1.0
            self._pause(delay, closing=closing)

    def _pause(self, delay: float, *, closing: bool) -> None:
        if closing:
            time.sleep(delay)
        elif delay:
            self._closing.wait(delay)
        else:
            self._wake.wait()
            self._closing.wait(GATHER_SECONDS)
        self._wake.clear()

    def _upload(self, *, last: bool) -> None:
        if self._store is None:
            self._store = self._connect()
            self._retry_artifacts(self._store)
        while lines := self._next_lines():
            self._send(self._store, lines)
            self._position += sum(map(len, lines))
            self._state.uploaded += len(lines)
            self._save()
        if last:
            self._retry_artifacts(self._store)
            if self._state.late:
                self._warn_kept(f"files that do not go through: {len(self._state.late)}")

    def _connect(self) -> _Store:
        import mlflow.tracking  # noqa: F401 - seconds; what follows takes its own

        self._progress = time.monotonic()
        uri, _, results = self._address
        with _exclusive(results):
            if results and uri == _default_uri(results):
                _make_database(results / "mlflow.db")
                self._progress = time.monotonic()
            store, state = _Store(*self._address), self._state
        study = state.runs.get(STUDY)
        if state.experiment_id != store.experiment_id or not (study and store.has_run(study)):
            state = self._state = _State(state.store, store.experiment_id)  # it knows nothing of us
        with self._outbox.open("rb") as file:
            self._position = sum(len(line) for line in islice(file, state.uploaded))
        self._progress = time.monotonic()
        return store

    def _next_lines(self) -> list[bytes]:
        with self._outbox.open("rb") as file:
            file.seek(self._position)
            lines = islice(file, LINES_PER_UPLOAD)
            return [line for line in lines if line.endswith(b"\n")]  # the last may be in the making

    def _send(self, store: _Store, lines: list[bytes]) -> None:
        facts: dict[str, list[TimedFact]] = {}
        for run, news in map(_parse, lines):
            facts.setdefault(run, []).extend(news)
        for run, news in facts.items():
            self._deliver(store, run, [fact for fact in news if fact[0][0] != "artifact"])
            for key, _, _ in news:
                if key[0] == "artifact":
                    self._upload_file(store, run, *key[1:])
            self._progress = time.monotonic()

    def _deliver(self, store: _Store, run: str, facts: list[TimedFact]) -> None:
        try:
            store.log(run, facts, self._state.runs)
        except Exception as error:
            if getattr(error, "error_code", "") not in REFUSALS:
                raise
            if len(facts) > 1:  # find the one that is refused
                self._deliver(store, run, facts[: len(facts) // 2])
                self._deliver(store, run, facts[len(facts) // 2 :])
            else:
                self._warn("refused", f"{facts[0][0]} of {run} was refused: {_reason(error)}")

    def _upload_file(self, store: _Store, run: str, path: str, folder: str) -> None:
        if not Path(path).exists():
            logger.warning("tracking: %s vanished before it was uploaded", path)
            return
        try:
            store.upload(run, path, folder, self._state.runs)
        except Exception as error:  # noqa: BLE001 - a file must not hold up the numbers behind it
            logger.debug("tracking: %s is uploaded later: %s", path, error)
            if [run, path, folder] not in self._state.late:
                self._state.late.append([run, path, folder])

    def _retry_artifacts(self, store: _Store) -> None:
        late, self._state.late = self._state.late, []
        for run, path, folder in late:
            self._upload_file(store, run, path, folder)
        if late:
            self._save()

    def _read_state(self) -> _State:
        store = f"{_masked(self._address[0])} {self._address[1]}"
        try:
            state = _State(**json.loads(self._state_file.read_text()))
        except (OSError, ValueError, TypeError):
            return _State(store)
        return state if state.store == store else _State(store)

    def _save(self) -> None:
        write_atomically(self._state_file, json.dumps(asdict(self._state)))

    def _warn_kept(self, reason: str) -> None:
        self._warn(
            "kept",
            f"{_masked(self._address[0])} does not take what is logged ({reason}); the study goes "
            f"on, and everything is kept in {self._outbox} until this run, or else the next run "
            "of the same command, can upload it",
        )

    def _warn(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            logger.warning("tracking: %s", message)


class _UnknownRunError(Exception):
    """The store refused to create the run, so it has no place for what belongs to it."""

    error_code = "RESOURCE_DOES_NOT_EXIST"


class _Store:
    """One experiment of an MLflow store. Whatever is logged may be logged twice."""

    def __init__(self, uri: str, experiment: str, results: Path | None) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage != "active":
            raise UserError(f"experiment {experiment!r} was deleted there: restore it")
        root = results and _artifact_root(results)
        self.experiment_id: str = (
            found.experiment_id
            if found is not None
            else self._client.create_experiment(experiment, root)
        )

    def has_run(self, run_id: str) -> bool:
        """Whether the store knows the run, be it deleted."""
        return bool(self._find(f"attributes.run_id = '{run_id}'"))

    def log(self, run: str, facts: list[TimedFact], runs: dict[str, str]) -> None:
        """Log everything but artifacts; a run that is created is added to `runs`."""
        kinds: dict[str, list[TimedFact]] = {}
        for fact in facts:
            kinds.setdefault(fact[0][0], []).append(fact)
        for _, value, when in kinds.pop("start", []):
            if run not in runs:
                runs[run] = self._create_run(value, when, runs)
        statuses = kinds.pop("status", [])
        if kinds:
            self._log_batches(_known_run(run, runs), kinds)
        for _, status, when in statuses[-1:]:
            if status == "RUNNING":
                self._client.update_run(_known_run(run, runs), status)
            else:
                self._client.set_terminated(_known_run(run, runs), status, end_time=when)

    def upload(self, run: str, path: str, folder: str, runs: dict[str, str]) -> None:
        """Upload a file or a folder."""
        self._client.log_artifact(_known_run(run, runs), path, folder or None)

    def _create_run(self, value: Mapping[str, str], when: int, runs: dict[str, str]) -> str:
        # It may exist: a kill, or a lost answer, can come between its creation and our note of it.
        found = self._find(f"tags.`{RUN_KEY_TAG}` = '{value['key']}'")
        if found:
            return found
        tags = {RUN_KEY_TAG: value["key"]}
        if value["parent"]:
            tags["mlflow.parentRunId"] = _known_run(value["parent"], runs)
        run = self._client.create_run(self.experiment_id, when, tags, value["name"])
        return str(run.info.run_id)

    def _log_batches(self, run_id: str, kinds: Mapping[str, list[TimedFact]]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(key[1], value, at, key[2]) for key, value, at in kinds.get("metric", [])]
        params = [(key[1], value) for key, value, _ in kinds.get("param", [])]
        tags = {key[1]: value for key, value, _ in kinds.get("tag", [])}
        for _, (text, reason), _ in kinds.get("note", []):
            ending = f"**Reason:** {reason}" if reason else ""
            tags["mlflow.note.content"] = f"{text}\n\n{ending}".strip()
            tags |= {"reason": reason} if reason else {}
        # MLflow's client keeps the limits on how many there are in a request, not on its size.
        groups = _groups(params), _groups(tags.items())
        for batch in zip_longest([metrics], *groups, fillvalue=()):
            texts = [Param(*pair) for pair in batch[1]], [RunTag(*pair) for pair in batch[2]]
            self._client.log_batch(run_id, batch[0], *texts, synchronous=True)

    def _find(self, condition: str) -> str:
        from mlflow.entities import ViewType

        found = self._client.search_runs(
            [self.experiment_id], condition, ViewType.ALL, max_results=1
        )
        return found[0].info.run_id if found else ""


def _known_run(run: str, runs: Mapping[str, str]) -> str:
    if run not in runs:
        raise _UnknownRunError(f"there is no run for {run}")
    return runs[run]


def _parse(line: bytes) -> tuple[str, list[TimedFact]]:
    try:
        event = json.loads(line)
        facts = [(tuple(key), value, event["time"]) for key, value in event["facts"]]
        return event["run"], facts
    except (ValueError, TypeError, KeyError):
        return "", []  # damaged, as after a power cut; the other lines are still good


def _groups(pairs: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Cut params or tags into pieces that make requests of less than 1 MB, whatever the script."""
    group: list[tuple[str, str]] = []
    for pair in pairs:
        group.append(pair)
        if sum(len(name) + len(text) for name, text in group) > 30_000:
            yield group
            group = []
    if group:
        yield group


def _name(text: str) -> str:
    """The nearest name that MLflow accepts for a metric, a param or a tag."""
    path = posixpath.normpath(re.sub(r"[^/\w.\- :]", "_", text)).lstrip("/")[:MAX_NAME]
    return path.replace("..", "__") if path.strip("./ ") else "unnamed"


def _text(value: object, limit: int = MAX_TEXT) -> str:
    """The value as text that databases store: no longer than `limit`, no half characters."""
    text = str(value).replace("\0", "").encode(errors="replace").decode()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _default_uri(results: Path) -> str:
    path = results.resolve() / "mlflow.db"
    if re.search(r"\?|%[0-9a-fA-F]{2}", str(path)):
        raise UserError(
            f"an SQLite address cannot hold the '?' or '%' in {path}: choose another results "
            "folder, or set tracking.uri or tracking.enabled=false"
        )
    return f"sqlite:///{path}"


def _make_database(path: Path) -> None:
    """Make the SQLite store aside: MLflow can never use one whose making was interrupted."""
    from mlflow.tracking import MlflowClient

    for draft in path.parent.glob(".mlflow-*.db*"):
        draft.unlink()
    if not path.exists():
        draft = path.with_name(f".mlflow-{uuid.uuid4().hex}.db")
        MlflowClient(tracking_uri=f"sqlite:///{draft}")
        draft.replace(path)


def _artifact_root(results: Path) -> str:
    return (results.resolve() / "mlartifacts").as_uri()


@contextmanager
def _exclusive(results: Path | None) -> Iterator[None]:
    """Open a store in one process at a time: two that make or upgrade a database break it."""
    if results is None:
        yield
        return
    with (results / ".mlflow.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        yield


def _masked(text: str) -> str:
    return re.sub(r"://[^/@\s]*@", "://***@", text)  # a user name and password


def _reason(error: BaseException) -> str:
    """The innermost cause on one line: MLflow wraps a refused connection five times."""
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    return shorten(_masked(str(error)), 200, placeholder="…") or type(error).__name__
