"""How a version gets into MLflow's model registry: each content once, and completed once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nas_proxy.tracking._mlflow_border import accepted_text

CONTENT_HASH = "nas_proxy.content_hash"
SOURCE_HASH = "nas_proxy.source_hash"


@dataclass(frozen=True, kw_only=True)
class VersionEntry:
    """A version that is to be there.

    Attributes:
        model: The registered model that it is a version of; see `registered_model`.
        model_page: What a person reads about that model, as Markdown.
        page: What a person reads about the version, as Markdown.
        content_hash: Identifies what it consists of; the same is registered once.
        tags: Further ones.
    """

    model: str
    model_page: str
    page: str
    content_hash: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class StoredFiles:
    """Where a version's files lie in the store.

    Attributes:
        uri: Their folder.
        run_id: The run that they belong to.
        model_id: The logged model that they are; None if they are the run's artifacts.
    """

    uri: str
    run_id: str
    model_id: str | None = None


def registered_model(prefix: str, *parts: str) -> str:
    """A registered model's name, such as `nas_proxy.recipe.convnet.cifar10`."""
    return prefix + ".".join(re.sub(r"[^\w-]", "_", part) for part in parts)


class Registrar:
    """Puts versions into the registry.

    A kill may come at any time. A content is uploaded again until its version is there; what
    follows, such as an alias, is made up for until a tag says that it is done. From then on it is
    left alone, because a person may have moved the alias since.

    Args:
        client: MLflow's.
        completed_tag: Says that a version is complete.
    """

    def __init__(self, client: Any, completed_tag: str) -> None:
        self._client = client
        self._completed_tag = completed_tag

    def ensure(self, entry: VersionEntry, upload: Callable[[], StoredFiles]) -> Any:
        """The version with this content, found or new; only a new one's files are uploaded."""
        self._ensure_model(entry)
        found = [v for v in self._versions(entry.model) if _holds(v, entry.content_hash)]
        if found:
            return found[0]
        files = upload()
        return self._client.create_model_version(
            entry.model,
            files.uri,
            files.run_id,
            tags={**entry.tags, CONTENT_HASH: entry.content_hash},
            description=accepted_text(entry.page),
            model_id=files.model_id,
        )

    def complete(self, version: Any, finish: Callable[[], None]) -> None:
        """Do once what a version lacks when it is new."""
        if self._completed_tag not in version.tags:
            finish()
            self.mark_complete(version)

    def mark_complete(self, version: Any) -> None:
        """Note that nothing is to be made up for."""
        self.tag(version, self._completed_tag, "yes")

    def with_alias(self, model: str, alias: str) -> Any:
        """The version that an alias stands for; None if there is none."""
        number = self._client.get_registered_model(model).aliases.get(alias, "")
        return next((v for v in self._versions(model) if str(v.version) == str(number)), None)

    def set_alias(self, version: Any, alias: str) -> None:
        """Let an alias stand for the version from now on."""
        self._client.set_registered_model_alias(version.name, alias, str(version.version))

    def tag(self, version: Any, key: str, value: str) -> None:
        """Set one tag of a version."""
        self._client.set_model_version_tag(version.name, str(version.version), key, value)

    def _ensure_model(self, entry: VersionEntry) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(entry.model, description=entry.model_page)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _versions(self, model: str) -> list[Any]:
        return list(self._client.search_model_versions(f"name = '{model}'"))


def _holds(version: Any, content_hash: str) -> bool:
    return bool(version.tags.get(CONTENT_HASH) == content_hash)
