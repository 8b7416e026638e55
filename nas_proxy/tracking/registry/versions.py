"""Making the versions that `registry` shows: what goes into them, and each content once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_proxy.tracking.registry.files import stage_folder
from nas_proxy.tracking.registry.pages import (
    TRUSTED,
    proxy_model_page,
    proxy_version_page,
    recipe_model_page,
    recipe_version_page,
)
from nas_proxy.tracking.registry.rank_card import RankCard
from nas_proxy.tracking.store import accepted_name, accepted_text

if TYPE_CHECKING:
    from nas_proxy.data.proxy_dataset import ProxyDataset

RECIPE_PREFIX = "nas_proxy.recipe."
PROXY_PREFIX = "nas_proxy.proxy_dataset."
RANK_CARD_FILE = "rank_card.json"
FILES = "files"  # the folder among the run's artifacts
CONTENT_HASH = "nas_proxy.content_hash"
SPACE_FINGERPRINT = "nas_proxy.space_fingerprint"
SOURCE_HASH = "nas_proxy.source_hash"
_COMPLETE = "nas_proxy.complete"  # a kill may come before the alias and the links are there
_USED_BY = "recipes"


def recipe_model_name(space: str, dataset: str) -> str:
    """The registered model that holds the recipes of a search space on a data set."""
    return RECIPE_PREFIX + _part(space) + "." + _part(dataset)


@dataclass(frozen=True)
class Entry:
    """A version that is to be there: what it consists of, and what its pages say."""

    model: str
    model_page: str
    page: str
    title: str
    folder: Path
    content_hash: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]


class Registrar:
    """Puts versions into the registry, each content once."""

    def __init__(self, client: Any, experiment_id: str) -> None:
        self._client = client
        self._experiment_id = experiment_id

    def ensure(self, entry: Entry) -> Any:
        """The version with this content, new or found."""
        self._ensure_model(entry)
        versions = self._client.search_model_versions(f"name = '{entry.model}'")
        found = [v for v in versions if v.tags.get(CONTENT_HASH) == entry.content_hash]
        return found[0] if found else self._create(entry)

    def complete(self, version: Any, proxy: Any, *, trusted: bool) -> None:
        """Add the alias and the link back from the proxy data set, once.

        A person may have moved the alias since: it is set when the version is new and never again.
        """
        if _COMPLETE in version.tags:
            return
        aliases = self._client.get_registered_model(version.name).aliases
        if trusted and int(aliases.get(TRUSTED, 0)) < int(version.version):
            self._client.set_registered_model_alias(version.name, TRUSTED, str(version.version))
        if proxy is not None:
            users = set(filter(None, proxy.tags.get(_USED_BY, "").split(", ")))
            users.add(f"{version.name}/{version.version}")
            self._tag(proxy, _USED_BY, ", ".join(sorted(users)))
            self._tag(proxy, _COMPLETE, "yes")
        self._tag(version, _COMPLETE, "yes")

    def _ensure_model(self, entry: Entry) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(entry.model, description=entry.model_page)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _create(self, entry: Entry) -> Any:
        tags = {"mlflow.note.content": accepted_text(entry.page)}
        run = self._client.create_run(self._experiment_id, tags=tags, run_name=entry.title)
        for name, text in entry.params.items():
            self._client.log_param(run.info.run_id, accepted_name(name), accepted_text(text))
        for name, value in entry.metrics.items():
            self._client.log_metric(run.info.run_id, name, value)
        self._client.log_artifacts(run.info.run_id, str(entry.folder), FILES)
        self._client.set_terminated(run.info.run_id)
        return self._client.create_model_version(
            entry.model,
            f"{run.info.artifact_uri}/{FILES}",
            run.info.run_id,
            tags={**entry.tags, CONTENT_HASH: entry.content_hash},
            description=accepted_text(entry.page),
        )

    def _tag(self, version: Any, key: str, value: str) -> None:
        self._client.set_model_version_tag(version.name, str(version.version), key, value)


def recipe_entry(card: RankCard, files: Mapping[str, Path], folder: Path, proxy: Any) -> Entry:
    """A recipe's version.

    Args:
        card: What it is worth.
        files: All that it consists of beside the card; see `stage_folder`.
        folder: Where they are put together; must not exist.
        proxy: The registered version of its proxy data set; None if it uses none.
    """
    link = ""
    if proxy is not None:
        page = f"#/models/{proxy.name}/versions/{proxy.version}"
        link = f"[{proxy.name}, version {proxy.version}]({page})"
    content = json.dumps(card.to_json(), indent=1, allow_nan=False).encode()
    names = {"value": "spearman", "low": "spearman_low", "high": "spearman_high"}
    found = asdict(card.spearman)
    return Entry(
        model=recipe_model_name(card.space, card.dataset),
        model_page=recipe_model_page(card),
        page=recipe_version_page(card, link),
        title=card.recipe_name,
        folder=folder,
        content_hash=stage_folder(folder, {**files, RANK_CARD_FILE: content}),
        tags=_recipe_tags(card, proxy),
        params={"space": card.space, "dataset": card.dataset, **dict(_flat(card.recipe))},
        metrics={
            **{names[end]: value for end, value in found.items() if value is not None},
            "n": card.n,
            "core_seconds_per_architecture": card.core_seconds_per_architecture,
            "one_off_seconds": card.one_off_seconds,
        },
    )


def _recipe_tags(card: RankCard, proxy: Any) -> dict[str, str]:
    return {
        "spearman": f"{card.spearman}, n = {card.n}",
        "cost": f"{card.core_seconds_per_architecture:.3g} core-seconds",
        TRUSTED: "yes" if card.trusted else "no",
        "recipe": card.recipe_name,
        SPACE_FINGERPRINT: card.space_fingerprint,
        SOURCE_HASH: card.source_hash,
        **({"proxy_dataset": f"{proxy.name}/{proxy.version}"} if proxy else {}),
    }


def proxy_entry(proxy_dataset: ProxyDataset, files: Mapping[str, Path], folder: Path) -> Entry:
    """A proxy data set's version; `folder` is where its `files` are put together."""
    spec = proxy_dataset.spec
    return Entry(
        model=PROXY_PREFIX + _part(spec.name) + "." + _part(proxy_dataset.method),
        model_page=proxy_model_page(proxy_dataset),
        page=proxy_version_page(proxy_dataset),
        title=f"{proxy_dataset.method} of {spec.name}, {len(proxy_dataset)} images",
        folder=folder,
        content_hash=stage_folder(folder, files),
        tags={
            "proxy_dataset_id": proxy_dataset.id,
            "images_per_class": str(proxy_dataset.images_per_class),
            "labels": proxy_dataset.labelling.kind,
            SOURCE_HASH: spec.source_hash or "unknown",
        },
        params={"method": proxy_dataset.method, **dict(_flat(proxy_dataset.parameters))},
        metrics={"cost_seconds": proxy_dataset.cost_seconds},
    )


def _flat(mapping: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Nested keys joined by dots."""
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value if isinstance(value, str) else json.dumps(value)


def _part(text: str) -> str:
    """As a part of a registered model's name."""
    return re.sub(r"[^\w-]", "_", text)
