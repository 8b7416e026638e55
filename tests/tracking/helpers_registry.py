"""Recipes to register: their cards, their files and their proxy data set."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.statistics.ranks import Estimate
from nas_proxy.tracking import TrackingSettings
from nas_proxy.tracking.registry.rank_card import RankCard
from nas_proxy.tracking.registry.recipes import RecipeRegistry, RegisteredRecipe
from nas_proxy.types import DatasetSpec
from tests.tracking.helpers import Server, Store

SPACE = NASBench201Space()


def make_spec(name: str) -> DatasetSpec:
    classes = ("cat", "dög")
    return DatasetSpec(name, classes, (1, 2, 2), (0.5,), (0.2,), "none", f"hash of {name}")


def make_card(spec: DatasetSpec, low: float = 0.9, **changes: Any) -> RankCard:
    values = {
        "recipe": {"train": {"num_steps": 20}, "score": {"signals": ["val_loss", "naswot"]}},
        "recipe_name": f"a recipe with {low}",
        "space": SPACE.name,
        "space_options": asdict(SPACE),
        "space_fingerprint": SPACE.fingerprint(),
        "dataset": spec.name,
        "class_names": spec.class_names,
        "image_shape": spec.image_shape,
        "source_hash": spec.source_hash,
        "proxy_dataset_id": None,
        "reference_name": "test accuracy | 200 epochs",
        "spearman": Estimate(0.96, low, 0.98),
        "n": 40,
        "threshold": 0.85,
        "judged_by": "validation",
        "trusted": low >= 0.85,
        "core_seconds_per_architecture": 18.25,
        "one_off_seconds": 6000.0,
        "hardware": "a processor",
        "created": "2026-01-02T03:04:05+00:00",
        "versions": {"torch": "2.9"},
    }
    return RankCard(**{**values, **changes})


def make_proxy(spec: DatasetSpec, folder: Path) -> tuple[ProxyDataset, Path]:
    """A tiny proxy data set and its file, with a file for a teacher beside it."""
    proxy_dataset = ProxyDataset(
        images=torch.linspace(-1, 1, 8).reshape(2, 1, 2, 2),
        labels=torch.tensor([0, 1]),
        spec=spec,
        method="some_method",
        parameters={"num_steps": 3, "sizes": (1, 2)},
        images_per_class=1,
        seed=0,
        costs={"distilling": 1.5},
        hardware="a processor",
    )
    file = folder / "study" / "proxy.safetensors"
    proxy_dataset.save(file)
    (file.parent / "teachers").mkdir()
    (file.parent / "teachers" / "a1.safetensors").write_bytes(b"a network")
    return proxy_dataset, file


@dataclass(frozen=True)
class Shelf:
    """A registry, and the folder in which its store keeps files."""

    results: Path
    uri: str | None
    files: Path

    @property
    def registry(self) -> RecipeRegistry:
        return RecipeRegistry(TrackingSettings(uri=self.uri), self.results)

    def client(self) -> Any:
        return Store(self.results, self.uri).client()

    def versions(self, model: str) -> list[Any]:
        found = self.client().search_model_versions(f"name = '{model}'")
        return sorted(found, key=lambda version: int(version.version))

    def aliases(self, model: str) -> dict[str, int]:
        aliases = self.client().get_registered_model(model).aliases
        return {alias: int(version) for alias, version in aliases.items()}

    def artifact(self, recipe: RegisteredRecipe, name: str) -> Path:
        """The stored file itself."""
        version = self.client().get_model_version(recipe.model, str(recipe.version))
        (file,) = self.files.glob(f"**/{version.run_id}/artifacts/files/{name}")
        return file


def local_shelf(store: Store) -> Shelf:
    return Shelf(store.results, None, store.results / "mlartifacts")


def served_shelf(server: Server) -> Shelf:
    return Shelf(server.folder / "results", server.uri, server.folder / "files")


def evidence(folder: Path) -> dict[str, Path]:
    """Two files with names of their own."""
    (folder / "log.jsonl").write_text(json.dumps({"é": 1}) + "\n")
    (folder / "truth.csv").write_text("a,1\n")
    return {"calibration/evaluations.jsonl": folder / "log.jsonl", "t.csv": folder / "truth.csv"}
