"""An experiment of an MLflow store, and how facts are put into it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from nas_proxy.errors import UserError
from nas_proxy.tracking._mlflow_border import artifact_root
from nas_proxy.tracking.registry.models import ModelEntry, register_model

logger = logging.getLogger("nas_proxy")

# One thing logged about a run: ("param", name), ("metric", name, step), ("tag", name),
# ("artifact", path, folder), ("model", path), ("dataset", context), ("note",), ("start",) or
# ("status",), and its value.
Fact = tuple[tuple[Any, ...], Any]
TimedFact = tuple[tuple[Any, ...], Any, int]

RUN_KEY_TAG = "nas_proxy.run_key"
_PAGE = 1000  # runs that are asked for at a time
# By which MLflow's pages choose between the table of runs and the view for language models.
KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"


class UnknownRunError(Exception):
    """The store refused to create the run, so it has no place for what belongs to it."""

    error_code = "RESOURCE_DOES_NOT_EXIST"


class Store:
    """One experiment of an MLflow store. Whatever is logged may be logged twice."""

    def __init__(self, uri: str, experiment: str, results: Path | None) -> None:
        from mlflow.tracking import MlflowClient

        # Not the registry that MLFLOW_REGISTRY_URI may name: recipes and models lie side by side.
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        # By run, which of our keys its children have; a search for each child would cost the most.
        self._children: dict[str, dict[str, str]] = {}
        found = self._client.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage != "active":
            raise UserError(f"experiment {experiment!r} was deleted there: restore it")
        root = results and artifact_root(results)
        self.experiment_id: str = (
            found.experiment_id
            if found is not None
            else self._client.create_experiment(experiment, root)
        )
        if found is None or KIND_TAG not in found.tags:
            self._mark_kind()

    def _mark_kind(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.set_experiment_tag(self.experiment_id, KIND_TAG, KIND)
        except MlflowException as error:  # no view is worth an upload that a server refuses
            logger.debug("tracking: the experiment has no %s: %s", KIND_TAG, error)

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
            self._log_batches(known_run(run, runs), kinds)
        for _, status, when in statuses[-1:]:
            if status == "RUNNING":
                self._client.update_run(known_run(run, runs), status)
            else:
                self._client.set_terminated(known_run(run, runs), status, end_time=when)

    def upload(self, run: str, path: str, folder: str, runs: dict[str, str]) -> None:
        """Upload a file or a folder."""
        self._client.log_artifact(known_run(run, runs), path, folder or None)

    def register(self, run: str, path: str, entry: Mapping[str, Any], runs: dict[str, str]) -> None:
        """Upload a model's folder and register it; `entry` holds a `ModelEntry`'s attributes."""
        run_id = known_run(run, runs)
        register_model(self._client, self.experiment_id, run_id, Path(path), ModelEntry(**entry))

    def _create_run(self, value: Mapping[str, Any], when: int, runs: dict[str, str]) -> str:
        # It may exist: a kill, or a lost answer, can come between its creation and our note of it.
        key = value["key"]
        parent = known_run(value["parent"], runs) if value["parent"] else ""
        found = self._found(parent, key)
        if found:
            return found
        tags = {**value.get("tags", {}), RUN_KEY_TAG: key}
        if parent:
            tags["mlflow.parentRunId"] = parent
        try:
            run = self._client.create_run(self.experiment_id, when, tags, value["name"])
        except Exception:
            self._children.pop(parent, None)  # it may have been made all the same
            raise
        made = str(run.info.run_id)
        if parent:
            self._children[parent][key] = made
        else:
            self._children[made] = {}  # a new run has none
        return made

    def _found(self, parent: str, key: str) -> str:
        """The run with our key; empty if there is none."""
        if not parent:
            return self._find(f"tags.`{RUN_KEY_TAG}` = '{key}'")
        if parent not in self._children:
            self._children[parent] = dict(self._find_children(parent))
        return self._children[parent].get(key, "")

    def _find_children(self, parent: str) -> Iterator[tuple[str, str]]:
        from mlflow.entities import ViewType

        condition, token = f"tags.`mlflow.parentRunId` = '{parent}'", None
        while True:
            page = self._client.search_runs(
                [self.experiment_id], condition, ViewType.ALL, _PAGE, page_token=token
            )
            for run in page:
                yield run.data.tags.get(RUN_KEY_TAG, ""), run.info.run_id
            token = page.token
            if not token:
                return

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
        if "dataset" in kinds:
            self._log_inputs(run_id, kinds["dataset"])

    def _log_inputs(self, run_id: str, datasets: Iterable[TimedFact]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(Dataset(**value), [InputTag("mlflow.data.context", key[1])])
            for key, value, _ in datasets
        ]
        self._client.log_inputs(run_id, inputs)

    def _find(self, condition: str) -> str:
        from mlflow.entities import ViewType

        found = self._client.search_runs(
            [self.experiment_id], condition, ViewType.ALL, max_results=1
        )
        return found[0].info.run_id if found else ""


def known_run(run: str, runs: Mapping[str, str]) -> str:
    """MLflow's id of our run.

    Raises:
        UnknownRunError: If the store refused to create it.
    """
    if run not in runs:
        raise UnknownRunError(f"there is no run for {run}")
    return runs[run]


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
