"""What a registered recipe or proxy data set consists of: its files, tags, params and metrics.

Its files are one folder. `SHA256SUMS` lists every other file in it, so that
`sha256sum -c SHA256SUMS` checks the folder anywhere; the hash of that list stands for the whole
content.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_proxy.core.nested import flatten
from nas_proxy.tracking._mlflow_border import accepted_name, accepted_text
from nas_proxy.tracking.registry._pages import (
    TRUSTED,
    proxy_model_page,
    proxy_version_page,
    recipe_model_page,
    recipe_version_page,
)
from nas_proxy.tracking.registry._registrar import (
    SOURCE_HASH,
    Registrar,
    StoredFiles,
    VersionEntry,
    registered_model,
)
from nas_proxy.tracking.registry.rank_card import RankCard

if TYPE_CHECKING:
    from nas_proxy.data.proxy_dataset import ProxyDataset

RECIPE_PREFIX = "nas_proxy.recipe."
PROXY_PREFIX = "nas_proxy.proxy_dataset."
RANK_CARD_FILE = "rank_card.json"
SUMS = "SHA256SUMS"
FILES = "files"  # the folder among the run's artifacts
SPACE_FINGERPRINT = "nas_proxy.space_fingerprint"
COMPLETED = "nas_proxy.complete"
_USED_BY = "recipes"


def recipe_model_name(space: str, dataset: str) -> str:
    """The registered model that holds the recipes of a search space on a data set."""
    return registered_model(RECIPE_PREFIX, space, dataset)


@dataclass(frozen=True, kw_only=True)
class StagedEntry(VersionEntry):
    """A version whose files become the artifacts of a run of its own.

    Attributes:
        title: Name of the run.
        folder: Holds the files; see `stage_folder`.
        params: Of the run.
        metrics: Of the run.
    """

    title: str
    folder: Path
    params: Mapping[str, str]
    metrics: Mapping[str, float]


def upload_as_run(client: Any, experiment_id: str, entry: StagedEntry) -> StoredFiles:
    """Log the run whose artifacts a version's files are."""
    tags = {"mlflow.note.content": accepted_text(entry.page)}
    run = client.create_run(experiment_id, tags=tags, run_name=entry.title)
    for name, text in entry.params.items():
        client.log_param(run.info.run_id, accepted_name(name), accepted_text(text))
    for name, value in entry.metrics.items():
        client.log_metric(run.info.run_id, name, value)
    client.log_artifacts(run.info.run_id, str(entry.folder), FILES)
    client.set_terminated(run.info.run_id)
    return StoredFiles(f"{run.info.artifact_uri}/{FILES}", run.info.run_id)


def trust_and_link(registrar: Registrar, version: Any, proxy: Any, *, trusted: bool) -> None:
    """Move the alias to a trusted recipe, and link to it from its proxy data set.

    Args:
        registrar: Of the store that holds both.
        version: The recipe's.
        proxy: The proxy data set's version; None if it uses none.
        trusted: Whether the alias moves; never back to an older version.
    """
    if trusted:
        newest = registrar.with_alias(version.name, TRUSTED)
        if newest is None or int(newest.version) < int(version.version):
            registrar.set_alias(version, TRUSTED)
    if proxy is not None:
        users = set(filter(None, proxy.tags.get(_USED_BY, "").split(", ")))
        users.add(f"{version.name}/{version.version}")
        registrar.tag(proxy, _USED_BY, ", ".join(sorted(users)))
        registrar.mark_complete(proxy)


def recipe_entry(
    card: RankCard, files: Mapping[str, Path], folder: Path, proxy: Any
) -> StagedEntry:
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
    return StagedEntry(
        model=recipe_model_name(card.space, card.dataset),
        model_page=recipe_model_page(card),
        page=recipe_version_page(card, link),
        title=card.recipe_name,
        folder=folder,
        content_hash=stage_folder(folder, {**files, RANK_CARD_FILE: content}),
        tags=_recipe_tags(card, proxy),
        params={"space": card.space, "dataset": card.dataset, **_as_params(card.recipe)},
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


def proxy_entry(
    proxy_dataset: ProxyDataset, files: Mapping[str, Path], folder: Path
) -> StagedEntry:
    """A proxy data set's version; `folder` is where its `files` are put together."""
    spec = proxy_dataset.spec
    return StagedEntry(
        model=registered_model(PROXY_PREFIX, spec.name, proxy_dataset.method),
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
        params={"method": proxy_dataset.method, **_as_params(proxy_dataset.parameters)},
        metrics={"cost_seconds": proxy_dataset.cost_seconds},
    )


def _as_params(mapping: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in flatten(mapping)
    }


def stage_folder(folder: Path, files: Mapping[str, Path | bytes]) -> str:
    """Put files together in a new folder.

    Args:
        folder: Must not hold anything yet.
        files: From the name in the folder, with slashes, to a file to copy or the content itself.

    Returns:
        The content hash.

    Raises:
        OSError: If a file is missing or the disk is full.
    """
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_bytes(content)
    lines = [f"{_digest(folder / name)}  {name}\n" for name in sorted(files)]
    (folder / SUMS).write_text("".join(lines))
    return _digest(folder / SUMS)


def find_damage(folder: Path, content_hash: str) -> str:
    """What is wrong with a folder that should have this content, in words; empty if nothing is."""
    sums = folder / SUMS
    if not sums.is_file() or _digest(sums) != content_hash:
        return f"{SUMS} is {'altered' if sums.is_file() else 'missing'}"
    for line in sums.read_text().splitlines():
        expected, name = line.split("  ", 1)
        path = folder / name
        if not path.is_file() or _digest(path) != expected:
            return f"{name} is {'altered' if path.is_file() else 'missing'}"
    return ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
