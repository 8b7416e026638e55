"""What a study logs: its own run, and one for each trial."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from nas_proxy.errors import ConfigError, refuse_masked
from nas_proxy.options import Options
from nas_proxy.tracking._mlflow_border import (
    MAX_NAME,
    MAX_REASON,
    accepted_name,
    accepted_text,
    default_uri,
    metric_name,
    prepare_environment,
    results_beside,
)
from nas_proxy.tracking._origin import origin_tags
from nas_proxy.tracking._outbox import Journal
from nas_proxy.tracking._store import Fact
from nas_proxy.tracking._uploader import STUDY, Uploader
from nas_proxy.tracking.registry.models import ModelEntry

logger = logging.getLogger("nas_proxy")

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
_MAX_DIGEST = 36  # characters of a data set's digest that MLflow keeps


class Period(NamedTuple):
    """When something that is over began and ended, in Unix seconds."""

    began: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class LoggedDataset:
    """Images that a run used.

    Attributes:
        name: Of the data set.
        digest: Identifies its content; MLflow keeps the first 36 characters.
        source: Where it comes from, in words; nothing secret.
        profile: Further figures by their names, such as how many images there are.
    """

    name: str
    digest: str
    source: str
    profile: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class TrackingSettings(Options):
    """The `tracking` section.

    Attributes:
        uri: MLflow tracking URI; None keeps `mlflow.db` and `mlartifacts` in the results folder.
        experiment: MLflow experiment that the studies' runs belong to.
        enabled: Whether anything is sent to a store. If not, what would be sent is kept in the
            study's folder all the same, for `nas-proxy track`.
    """

    uri: str | None = None
    experiment: str = "nas_proxy"
    enabled: bool = True

    def __post_init__(self) -> None:
        """Refuse an address that MLflow would take for something else, or whose login is gone."""
        refuse_masked("uri", self.uri)
        if self.uri and "://" not in self.uri and re.search(r":\d+(/|$)", self.uri):
            address = self.uri.rpartition("@")[2]  # without a password
            raise ConfigError(
                f"uri: the address {address!r} lacks its beginning; write http://{address}, or "
                "https:// if the server speaks that"
            )


class RunLog:
    """One MLflow run. Its methods return at once; what was already logged is not logged again.

    Args:
        journal: Where it is noted; None: nowhere.
        run: Our name of the run.
        at: When what is logged was so, in Unix seconds; None: when it is logged.
    """

    def __init__(self, journal: Journal | None, run: str, at: float | None = None) -> None:
        self._journal = journal
        self._run = run
        self._at = at
        self._is_finished = False

    def params(self, values: Mapping[str, object]) -> None:
        """Log what was chosen; a param that changes later is kept, and tagged `changed.<name>`."""
        self._add(
            [(("param", accepted_name(key)), accepted_text(value)) for key, value in values.items()]
        )

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log what was measured; values that are not finite are left out.

        Names become identifiers: `val_accuracy@50` is `val_accuracy_50`.
        """
        at = int(step)
        self._add(
            [(("metric", metric_name(key), at), float(value)) for key, value in values.items()]
        )

    def curve(self, name: str, values: Sequence[float], steps: Sequence[int] | None = None) -> None:
        """Log one metric at many steps, by default 0, 1, 2...; see `metrics`.

        Raises:
            ValueError: If there are not as many steps as values.
        """
        points = zip(values, range(len(values)) if steps is None else steps, strict=True)
        self._add(
            [(("metric", metric_name(name), int(step)), float(value)) for value, step in points]
        )

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags; the last value of each counts."""
        self._add(
            [(("tag", accepted_name(key)), accepted_text(value)) for key, value in values.items()]
        )

    def description(self, markdown: str) -> None:
        """Set the text at the top of the run's page."""
        if self._journal is not None:
            self._journal.note(self._run, text=accepted_text(markdown), at=self._at)

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
        self._add([(("artifact", self._journal.address(path), folder), content)])

    def dataset(self, dataset: LoggedDataset, context: str) -> None:
        """Note that the run used some images; `context` says for what, such as `search_train`."""
        value = {
            "name": accepted_text(dataset.name, MAX_NAME),
            "digest": dataset.digest[:_MAX_DIGEST],
            "source_type": "local",
            "source": json.dumps({"source": dataset.source}),
            "profile": json.dumps(dict(dataset.profile)),
        }
        self._add([(("dataset", accepted_name(context)), value)])

    def model(self, folder: Path, entry: ModelEntry) -> None:
        """Upload a folder that `write_mlflow_model` wrote, and register the model."""
        if self._journal is not None:
            value = json.loads(json.dumps(asdict(entry)))
            self._add([(("model", self._journal.address(folder)), value)])

    def finish(self, status: RunStatus = "FINISHED", reason: str = "") -> None:
        """End the run; `reason` becomes a tag and the end of the description."""
        self._is_finished = True
        if self._journal is not None and reason:
            self._journal.note(self._run, reason=accepted_text(reason, MAX_REASON), at=self._at)
        self._add([(("status",), status)])

    @property
    def is_finished(self) -> bool:
        """Whether `finish` was called here; the run may have ended before, too."""
        return self._is_finished

    def _add(self, facts: list[Fact]) -> None:
        if self._journal is not None:
            kept = [fact for fact in facts if fact[0][0] != "metric" or math.isfinite(fact[1])]
            self._journal.add(self._run, kept, self._at)


class Tracker:
    """A study's run and its trials' runs; closes on leaving a `with` block.

    The end of the block ends the study's run, until another command goes on with it: `FINISHED`
    unless it was ended otherwise within; after an exception `FAILED`, after Ctrl-C `KILLED`.

    Attributes:
        study: The study's run, parent of all others.
    """

    def __init__(
        self, journal: Journal | None, study_name: str, origin: Mapping[str, str] | None = None
    ) -> None:
        self._journal = journal
        self._origin = origin or {}
        self.study = self._run(STUDY, study_name)

    def trial(self, number: int, name: str, period: Period | None = None) -> RunLog:
        """The run of a trial; the same run whenever the number is the same.

        Args:
            number: Optuna's.
            name: Title of the run.
            period: Of the training; None: from now on.
        """
        return self._run(f"trial-{number}", name, parent=STUDY, period=period)

    def trained(self, name: str, title: str, period: Period | None = None) -> RunLog:
        """The run of a network that is trained fully; the same run whenever the name is."""
        return self._run(f"trained-{name}", title, parent=STUDY, period=period)

    def close(self, timeout: float = 30.0) -> None:
        """Upload what is left; give up after `timeout` seconds in which nothing went through."""
        if self._journal is not None:
            self._journal.close(timeout)

    def _run(self, run: str, name: str, parent: str = "", period: Period | None = None) -> RunLog:
        began, ended = period or (None, None)
        if self._journal is not None:
            title = accepted_text(name, MAX_NAME)
            self._journal.start(run, title, parent, self._origin, began)
        return RunLog(self._journal, run, ended)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *details: object) -> None:
        if error_type is not None:
            self.study.finish("FAILED" if issubclass(error_type, Exception) else "KILLED")
        elif not self.study.is_finished:
            self.study.finish()
        self.close()


def open_tracker(
    settings: TrackingSettings,
    results: Path,
    study_folder: Path,
    study_name: str,
    code: Sequence[Path] = (),
) -> Tracker:
    """The tracker of a study, new or continued; its state is in `<study_folder>/tracking`.

    Args:
        settings: Where to.
        results: Folder that studies share.
        study_folder: The study's own.
        study_name: Name of its run.
        code: Files of the study's own code, whose git commit is noted.

    Raises:
        UserError: If `results` cannot hold an SQLite store and the settings name no other.
    """
    folder = study_folder.resolve() / "tracking"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        uploader = _uploader(settings, results, folder) if settings.enabled else None
        journal = Journal(folder, uploader)
    except OSError as error:
        logger.warning("tracking: this run is not tracked: %s", error)
        return Tracker(None, study_name)
    return Tracker(journal, study_name, origin_tags(code))


def _uploader(settings: TrackingSettings, results: Path, folder: Path) -> Uploader:
    uri = settings.uri or default_uri(results)
    prepare_environment()  # here: no thread may, while others could be reading
    if settings.uri is None and not (results / "mlflow.db").exists():
        # The store was deleted, or moved away: everything is uploaded again.
        (folder / "state.json").unlink(missing_ok=True)
    results.mkdir(parents=True, exist_ok=True)
    return Uploader(folder, uri, settings.experiment, results_beside(uri, results))
