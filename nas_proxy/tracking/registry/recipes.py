"""Recipes that can be trusted, and the proxy data sets they use, in MLflow's model registry.

One registered model holds the recipes of one search space on one data set, a version is one
calibrated recipe: a folder with its rank card, its evidence and its proxy data set. MLflow wants a
version's files to be a run's artifacts, so each has a run in an experiment of its own, which also
lets a person compare the recipes' figures in a table.

Registering never fails a study: what went wrong is said. Loading does: a study that asks for a
recipe cannot go on without it.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from nas_proxy.errors import StudyError, did_you_mean, masked
from nas_proxy.tracking._mlflow_border import (
    default_uri,
    exclusive,
    make_database,
    prepare_environment,
    reason_of,
    results_beside,
)
from nas_proxy.tracking._runs import TrackingSettings
from nas_proxy.tracking._store import Store
from nas_proxy.tracking.registry._pages import TRUSTED
from nas_proxy.tracking.registry._registrar import CONTENT_HASH, SOURCE_HASH, Registrar
from nas_proxy.tracking.registry._versions import (
    COMPLETED,
    FILES,
    RANK_CARD_FILE,
    RECIPE_PREFIX,
    SPACE_FINGERPRINT,
    StagedEntry,
    find_damage,
    proxy_entry,
    recipe_entry,
    recipe_model_name,
    trust_and_link,
    upload_as_run,
)
from nas_proxy.tracking.registry.rank_card import RankCard

if TYPE_CHECKING:
    from nas_proxy.data.proxy_dataset import ProxyDataset
    from nas_proxy.interfaces import SearchSpace
    from nas_proxy.types import DatasetSpec

logger = logging.getLogger("nas_proxy")

PROXY_FILE = "proxy.safetensors"


@dataclass(frozen=True)
class RegisteredRecipe:
    """One version of a registered recipe.

    Attributes:
        model: Name of the registered model.
        version: Its version.
        card: What the recipe is worth.
    """

    model: str
    version: int
    card: RankCard


class RecipeRegistry:
    """The recipes and proxy data sets in the store that a study is tracked in.

    Args:
        settings: The store; `enabled: false` turns registering off, not loading.
        results: The results folder, which holds the default store.
    """

    def __init__(self, settings: TrackingSettings, results: Path) -> None:
        self._settings = settings
        self._results = results
        self._uri = settings.uri or default_uri(results)
        self._artifacts = results_beside(self._uri, results)

    def register(
        self, card: RankCard, files: Mapping[str, Path], *, proxy_file: Path | None = None
    ) -> RegisteredRecipe | None:
        """Register a recipe and its proxy data set; what is there already stays as it is.

        The alias `trusted` moves to a new version whose card says so.

        Args:
            card: What calibration found out.
            files: The recipe's evidence, such as the calibration's evaluations, by the name that
                each file gets.
            proxy_file: The proxy data set that the recipe trains on, with its teachers beside it.

        Returns:
            The version, or None if nothing is tracked or the store does not take it. That is said.

        Raises:
            ProxyFileError: If the proxy data set's file is damaged.
            ValueError: If it is not the set that the card names.
        """
        from nas_proxy.data.proxy_dataset import ProxyDataset

        if not self._settings.enabled:
            return None
        proxy_dataset = ProxyDataset.load(proxy_file) if proxy_file is not None else None
        found = proxy_dataset.id if proxy_dataset is not None else None
        if card.proxy_dataset_id != found:
            raise ValueError(
                f"the card is of the proxy data set {card.proxy_dataset_id}, the file of {found}"
            )
        try:
            version = self._put(card, files, proxy_dataset, proxy_file)
        except Exception as error:  # noqa: BLE001 - whatever MLflow raises, the study goes on
            logger.warning(
                "tracking: the recipe %r was not registered in %s (%s); the study goes on, and the "
                "next run of the same command tries again",
                card.recipe_name, masked(self._uri), reason_of(error),
            )  # fmt: skip
            return None
        return RegisteredRecipe(version.name, int(version.version), card)

    def _put(
        self,
        card: RankCard,
        files: Mapping[str, Path],
        proxy_dataset: ProxyDataset | None,
        proxy_file: Path | None,
    ) -> Any:
        with TemporaryDirectory() as drafts, self._open(make=True) as client:
            registrar, experiment_id = Registrar(client, COMPLETED), self._experiment_id()

            def put(entry: StagedEntry) -> Any:
                return registrar.ensure(entry, partial(upload_as_run, client, experiment_id, entry))

            proxy = None
            if proxy_dataset is not None and proxy_file is not None:
                proxy_files = _proxy_files(proxy_file)
                proxy = put(proxy_entry(proxy_dataset, proxy_files, Path(drafts) / "proxy"))
                files = {**files, **proxy_files}
            version = put(recipe_entry(card, files, Path(drafts) / "recipe", proxy))
            registrar.complete(
                version, partial(trust_and_link, registrar, version, proxy, trusted=card.trusted)
            )
        return version

    def load(
        self, reference: str, folder: Path, *, space: SearchSpace, spec: DatasetSpec
    ) -> RegisteredRecipe:
        """Fetch a recipe for a study, with all its files.

        Args:
            reference: An alias such as `trusted` or a version number, of the recipes for the
                study's space and data set; or of any other as `MODEL@ALIAS` or `MODEL/VERSION`.
            folder: Where the files go; replaced if it exists, left alone if anything is wrong.
            space: What the study searches.
            spec: The data set that it searches on.

        Raises:
            StudyError: If there is no such recipe, the store cannot be reached, the files are
                damaged, or the recipe was calibrated for another space or other data.
            OSError: If the folder cannot be written or the disk is full.
        """
        model, wanted = _parse(reference, recipe_model_name(space.name, spec.name))
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as draft:
            try:
                with self._open(make=False) as client:
                    version = self._find(client, model, wanted)
                    card = self._fetch(client, version, Path(draft))
                    self._check_fits(client, card, model, space, spec)
            except StudyError:
                raise
            except Exception as error:
                raise StudyError(
                    f"the recipe {reference!r} cannot be looked up in {masked(self._uri)} "
                    f"({reason_of(error)}); check tracking.uri and that its server runs, or spell "
                    "the recipe out in the config"
                ) from error
            if folder.exists():
                shutil.rmtree(folder)
            (Path(draft) / FILES).rename(folder)
        return RegisteredRecipe(model, int(version.version), card)

    @contextmanager
    def _open(self, *, make: bool) -> Iterator[Any]:
        """A client of the store; other processes wait as long as a local one is in use."""
        prepare_environment()
        from mlflow.tracking import MlflowClient

        database = self._results / "mlflow.db"
        if self._settings.uri is None and not make and not database.is_file():
            raise StudyError(
                f"nothing has been registered in {self._results} yet: run `nas-proxy calibrate` "
                "first, or set tracking.uri to the server that holds the recipe"
            )
        self._results.mkdir(parents=True, exist_ok=True)
        with exclusive(self._artifacts):
            if self._settings.uri is None:
                make_database(self._results.resolve() / "mlflow.db")
            yield MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)

    def _experiment_id(self) -> str:
        return Store(
            self._uri, f"{self._settings.experiment} recipes", self._artifacts
        ).experiment_id

    def _find(self, client: Any, model: str, wanted: str) -> Any:
        """The version behind an alias or a number."""
        versions = {str(v.version): v for v in client.search_model_versions(f"name = '{model}'")}
        if not versions:
            raise StudyError(
                f"no recipe {model!r} is registered in {masked(self._uri)} "
                f"({_in_words(client)}); run `nas-proxy calibrate` with this study's config first"
            )
        aliases = client.get_registered_model(model).aliases
        found = versions.get(str(aliases.get(wanted, wanted)))
        if found is None:
            known = ", ".join(f"{a} (version {v})" for a, v in sorted(aliases.items())) or "none"
            what = "version" if wanted.isdecimal() else "alias"
            raise StudyError(
                f"the recipe {model!r} in {masked(self._uri)} has no {what} {wanted!r} (aliases: "
                f"{known}; versions: {', '.join(sorted(versions, key=int))})"
                + (
                    "; none of its versions has been shown in a validation to reach its threshold, "
                    "so run `nas-proxy run` with the sections calibrate and validate"
                    if wanted == TRUSTED
                    else f"; {did_you_mean(wanted, [*aliases, *versions])}"
                )
            )
        return found

    def _fetch(self, client: Any, version: Any, draft: Path) -> RankCard:
        """Download a version's files and make sure that they are what was registered."""
        name = f"version {version.version} of {version.name!r}"
        advice = "calibrate again, or choose another alias or version"
        try:
            client.download_artifacts(version.run_id, FILES, str(draft))
        except Exception as error:
            raise StudyError(
                f"the files of {name} cannot be downloaded from {masked(self._uri)} "
                f"({reason_of(error)}); {advice}"
            ) from error
        damage = find_damage(draft / FILES, version.tags.get(CONTENT_HASH, ""))
        if damage:
            raise StudyError(f"{name} in {masked(self._uri)} is damaged: {damage}; {advice}")
        return RankCard.from_json(json.loads((draft / FILES / RANK_CARD_FILE).read_text()))

    def _check_fits(
        self, client: Any, card: RankCard, model: str, space: SearchSpace, spec: DatasetSpec
    ) -> None:
        """As `RankCard.check_fits`, and name versions that do fit."""
        try:
            card.check_fits(space, spec)
        except StudyError as error:
            wanted = {SPACE_FINGERPRINT: space.fingerprint(), SOURCE_HASH: spec.source_hash}
            fitting = sorted(
                int(version.version)
                for version in client.search_model_versions(f"name = '{model}'")
                if wanted.items() <= version.tags.items()
            )
            if not fitting:
                raise
            listed = ", ".join(map(str, fitting))
            raise StudyError(f"{error} (these versions of it do fit: {listed})") from error


def _proxy_files(file: Path) -> dict[str, Path]:
    """The proxy data set and the teachers beside it."""
    from nas_proxy.teachers.labelling import teacher_files

    teachers = {f"{path.parent.name}/{path.name}": path for path in teacher_files(file)}
    return {PROXY_FILE: file, **teachers}


def _parse(reference: str, default_model: str) -> tuple[str, str]:
    """Registered model, and alias or version number."""
    model, _, wanted = re.sub(r"[@/](?=[^@/]*$)", "\0", reference).rpartition("\0")
    return model or default_model, wanted


def _in_words(client: Any) -> str:
    """All recipes that there are."""
    models = client.search_registered_models(f"name LIKE '{RECIPE_PREFIX}%'")
    listed = [
        f"{model.name} with {', '.join(sorted(model.aliases)) or 'no alias'}" for model in models
    ]
    return f"there are: {'; '.join(listed)}" if listed else "there is none"
