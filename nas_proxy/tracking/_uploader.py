"""The thread that carries the outbox to the store, and remembers how far it came."""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from nas_proxy.core.files import whole_lines, write_atomically
from nas_proxy.errors import UserError, masked
from nas_proxy.tracking._mlflow_border import (
    default_uri,
    exclusive,
    make_database,
    reason_of,
)
from nas_proxy.tracking._moved import follow_move
from nas_proxy.tracking._store import Store, TimedFact

logger = logging.getLogger("nas_proxy")

STUDY = "study"
_BESIDE = "the results folder's"
LINES_PER_UPLOAD = 500  # some fifty trials
GATHER_SECONDS = 0.2  # a trial's calls come together: waiting for them saves round trips
MAX_RETRY_SECONDS = 60.0
_FILES = ("artifact", "model")  # facts that must not hold up the numbers behind them
# What the store will answer in the same way however often it is asked.
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST")


@dataclass
class State:
    """How far the uploader came with one store; `state.json`.

    Attributes:
        store: The store and the experiment; another one is uploaded to from the beginning.
        experiment_id: MLflow's id of the experiment.
        uploaded: Lines of the outbox that the store has.
        runs: Our name of each run to MLflow's id.
        late: Run, path and folder of artifacts that did not go through and are tried again; of a
            model its entry follows, as JSON.
    """

    store: str
    experiment_id: str = ""
    uploaded: int = 0
    runs: dict[str, str] = field(default_factory=dict)
    late: list[list[str]] = field(default_factory=list)


class Uploader:
    """Carries the outbox to the store, in a thread that starts with the first line."""

    def __init__(
        self,
        folder: Path,
        uri: str,
        experiment: str,
        results: Path | None,
        state: str = "state.json",
    ) -> None:
        self._address = (uri, experiment, results)
        self._study_folder = folder.parent
        self._outbox = folder / "outbox.jsonl"
        self._state_file = folder / state
        self._state = self._read_state()
        self._store: Store | None = None
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

    def upload_all(self) -> int:
        """Upload here and now what the store lacks; how many lines these were.

        Raises:
            UserError: If the store does not take all of it; what it has taken it keeps.
        """
        with self._outbox.open("rb") as file:
            num_lines = sum(1 for _ in whole_lines(file))
        self._state.uploaded = min(self._state.uploaded, num_lines)
        try:
            self._store = self._connect()
            before = self._state.uploaded
            self._upload(last=False)
            self._retry_artifacts(self._store)
        except Exception as error:  # whatever MLflow raises
            raise UserError(self._not_whole(reason_of(error))) from error
        if self._state.late:
            raise UserError(self._not_whole(f"{len(self._state.late)} files do not go through"))
        return self._state.uploaded - before

    def _not_whole(self, reason: str) -> str:
        return (
            f"{masked(self._address[0])} does not take all of {self._outbox} ({reason}); run the "
            "same command again: what is there is not sent twice"
        )

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
                    self._warn_kept(reason_of(error))
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

    def _connect(self) -> Store:
        import mlflow.tracking  # noqa: F401 - seconds; what follows takes its own

        self._progress = time.monotonic()
        uri, _, results = self._address
        with exclusive(results):
            if results and uri == default_uri(results):
                make_database(results / "mlflow.db")
                follow_move(results)
                self._progress = time.monotonic()
            store, state = Store(*self._address), self._state
        study = state.runs.get(STUDY)
        if state.experiment_id != store.experiment_id or not (study and store.has_run(study)):
            state = self._state = State(state.store, store.experiment_id)  # it knows nothing of us
        with self._outbox.open("rb") as file:
            self._position = sum(len(line) for line in islice(file, state.uploaded))
        self._progress = time.monotonic()
        return store

    def _next_lines(self) -> list[bytes]:
        with self._outbox.open("rb") as file:
            file.seek(self._position)
            return list(islice(whole_lines(file), LINES_PER_UPLOAD))

    def _send(self, store: Store, lines: list[bytes]) -> None:
        facts: dict[str, list[TimedFact]] = {}
        for run, news in map(parse_line, lines):
            facts.setdefault(run, []).extend(news)
        for run, news in facts.items():
            self._deliver(store, run, [fact for fact in news if fact[0][0] not in _FILES])
            for key, value, _ in news:
                if key[0] == "artifact":
                    self._upload_file(store, run, *key[1:])
                if key[0] == "model":
                    self._upload_file(store, run, key[1], "", json.dumps(value))
            self._progress = time.monotonic()

    def _deliver(self, store: Store, run: str, facts: list[TimedFact]) -> None:
        try:
            store.log(run, facts, self._state.runs)
        except Exception as error:
            if getattr(error, "error_code", "") not in REFUSALS:
                raise
            if len(facts) > 1:  # find the one that is refused
                self._deliver(store, run, facts[: len(facts) // 2])
                self._deliver(store, run, facts[len(facts) // 2 :])
            else:
                self._warn("refused", f"{facts[0][0]} of {run} was refused: {reason_of(error)}")

    def _upload_file(self, store: Store, run: str, path: str, folder: str, model: str = "") -> None:
        file = self._study_folder / path
        if not file.exists():
            logger.warning("tracking: %s vanished before it was uploaded", file)
            return
        try:
            if model:
                store.register(run, str(file), json.loads(model), self._state.runs)
            else:
                store.upload(run, str(file), folder, self._state.runs)
        except Exception as error:  # noqa: BLE001 - a file must not hold up the numbers behind it
            logger.debug("tracking: %s is uploaded later: %s", path, error)
            late = [run, path, folder, *([model] if model else [])]
            if late not in self._state.late:
                self._state.late.append(late)

    def _retry_artifacts(self, store: Store) -> None:
        late, self._state.late = self._state.late, []
        for item in late:
            self._upload_file(store, *item)
        if late:
            self._save()

    def _read_state(self) -> State:
        uri, experiment, results = self._address
        is_beside = results is not None and uri == default_uri(results)
        # The store in the results folder stays the same when that is moved.
        store = f"{_BESIDE if is_beside else masked(uri)} {experiment}"
        try:
            state = State(**json.loads(self._state_file.read_text()))
        except (OSError, ValueError, TypeError):
            return State(store)
        return state if state.store == store else State(store)

    def _save(self) -> None:
        write_atomically(self._state_file, json.dumps(asdict(self._state)))

    def _warn_kept(self, reason: str) -> None:
        self._warn(
            "kept",
            f"{masked(self._address[0])} does not take what is logged ({reason}); the study goes "
            f"on, and everything is kept in {self._outbox} until this run, or else the next run "
            "of the same command, can upload it",
        )

    def _warn(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            logger.warning("tracking: %s", message)


def parse_line(line: bytes) -> tuple[str, list[TimedFact]]:
    """Run and facts of a line of the outbox; nothing if it is damaged."""
    try:
        event = json.loads(line)
        facts = [(tuple(key), value, event["time"]) for key, value in event["facts"]]
        return event["run"], facts
    except (ValueError, TypeError, KeyError):
        return "", []  # damaged, as after a power cut; the other lines are still good
