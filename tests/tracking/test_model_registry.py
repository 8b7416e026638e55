"""Recipes in MLflow's model registry: on a real server, and in the store of the results folder."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.errors import StudyError
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.tracking import TrackingSettings
from nas_proxy.tracking.registry.recipes import RecipeRegistry
from nas_proxy.types import DatasetSpec
from tests.tracking.helpers import Store, closed_port, warnings_of
from tests.tracking.helpers_registry import (
    SPACE,
    Shelf,
    evidence,
    local_shelf,
    make_card,
    make_proxy,
    make_spec,
    served_shelf,
)

SERVER = pytest.param("server", marks=pytest.mark.exhaustive)


@pytest.fixture
def shelf(request: pytest.FixtureRequest) -> Shelf:
    """The one that `parametrize` names."""
    if request.param == "server":
        return served_shelf(request.getfixturevalue("server"))
    return local_shelf(request.getfixturevalue("store"))


@pytest.fixture
def local(store: Store) -> Shelf:
    return local_shelf(store)


@pytest.fixture
def spec(request: pytest.FixtureRequest) -> DatasetSpec:
    """Data of this test alone, so that its recipes are too."""
    return make_spec(request.node.originalname)


def model_of(spec: DatasetSpec) -> str:
    return f"nas_proxy.recipe.nasbench201.{spec.name}"


@pytest.mark.parametrize("shelf", [SERVER, "local"], indirect=True)
def test_round_trip(shelf: Shelf, spec: DatasetSpec, tmp_path: Path) -> None:
    proxy_dataset, proxy_file = make_proxy(spec, tmp_path)
    card = make_card(spec, proxy_dataset_id=proxy_dataset.id)
    files = evidence(tmp_path)
    registered = shelf.registry.register(card, files, proxy_file=proxy_file)
    assert registered is not None
    assert (registered.model, registered.version) == (model_of(spec), 1)

    folder = tmp_path / "fetched" / "recipe"
    loaded = shelf.registry.load("trusted", folder, space=SPACE, spec=spec)
    assert loaded == registered
    assert loaded.card == card
    for name, file in files.items():
        assert (folder / name).read_bytes() == file.read_bytes()
    assert ProxyDataset.load(folder / "proxy.safetensors").id == proxy_dataset.id
    assert (folder / "teachers" / "a1.safetensors").read_bytes() == b"a network"
    assert [path.name for path in folder.parent.iterdir()] == ["recipe"]
    sums = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True)
    assert sums.stdout.count(b": OK\n") == 5, sums

    # The same again changes nothing.
    before = [vars(version) for version in shelf.versions(model_of(spec))]
    assert shelf.registry.register(card, files, proxy_file=proxy_file) == registered
    assert [vars(version) for version in shelf.versions(model_of(spec))] == before

    (version,) = shelf.versions(model_of(spec))
    proxy_model = f"nas_proxy.proxy_dataset.{spec.name}.some_method"
    (proxy_version,) = shelf.versions(proxy_model)
    assert version.tags["spearman"] == ".96 [.90, .98], n = 40"
    assert version.tags["proxy_dataset"] == f"{proxy_model}/1"
    assert proxy_version.tags["recipes"] == f"{model_of(spec)}/1"
    assert proxy_version.tags["proxy_dataset_id"] == proxy_dataset.id
    assert version.description.startswith("Trusted: Spearman .96 [.90, .98], n = 40. ")
    assert f"(#/models/{proxy_model}/versions/1)" in version.description
    run = shelf.client().get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["spearman"] == 0.96
    assert run.data.metrics["spearman_low"] == 0.9
    assert run.data.params["train.num_steps"] == "20"


@pytest.mark.slow
@pytest.mark.parametrize("shelf", [SERVER, "local"], indirect=True)
def test_the_alias_is_the_newest_that_is_trusted(
    shelf: Shelf, spec: DatasetSpec, tmp_path: Path
) -> None:
    def load(reference: str) -> float:
        loaded = shelf.registry.load(reference, tmp_path / "recipe", space=SPACE, spec=spec)
        assert loaded.card.spearman.low is not None
        return loaded.card.spearman.low

    shelf.registry.register(make_card(spec, 0.8), {})
    assert shelf.aliases(model_of(spec)) == {}
    with pytest.raises(StudyError, match=r"no alias 'trusted' \(aliases: none; versions: 1\); .*"):
        load("trusted")
    shelf.registry.register(make_card(spec, 0.9), {})
    assert load("trusted") == 0.9
    shelf.registry.register(make_card(spec, 0.95), {})
    shelf.registry.register(make_card(spec, 0.7), {})
    assert shelf.aliases(model_of(spec)) == {"trusted": 3}
    assert load("trusted") == 0.95
    assert load("1") == 0.8
    # A person who trusts an earlier one more is not overruled by a study that is run again.
    shelf.client().set_registered_model_alias(model_of(spec), "trusted", "2")
    shelf.registry.register(make_card(spec, 0.95), {})
    assert load("trusted") == load(f"{model_of(spec)}@trusted") == load(f"{model_of(spec)}/2")
    assert load("trusted") == 0.9


@pytest.mark.slow
@pytest.mark.parametrize("shelf", [SERVER, "local"], indirect=True)
@pytest.mark.parametrize("harm", ["altered", "missing", "sums altered", "all missing"])
def test_damage_is_refused(harm: str, shelf: Shelf, spec: DatasetSpec, tmp_path: Path) -> None:
    spec = replace(spec, name=f"{spec.name} {harm}")  # a blank in a name is no obstacle
    recipe = shelf.registry.register(make_card(spec), evidence(tmp_path))
    assert recipe is not None
    stored = shelf.artifact(recipe, "t.csv")
    if harm == "altered":
        stored.write_text("a,2\n")
    elif harm == "missing":
        stored.unlink()
    elif harm == "sums altered":
        sums = stored.with_name("SHA256SUMS")
        sums.write_text(sums.read_text().replace("a", "b"))
    else:
        stored.parent.rename(stored.parent.with_name("elsewhere"))
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(StudyError) as caught:
        shelf.registry.load("trusted", folder, space=SPACE, spec=spec)
    said = {"altered": "t.csv is altered", "missing": "t.csv is missing"}
    said |= {"sums altered": "SHA256SUMS is altered", "all missing": ""}
    assert said[harm] in str(caught.value)
    assert f"version 1 of '{recipe.model}'" in str(caught.value)
    assert "calibrate again" in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl", "truth.csv", "recipe"}


def test_another_space_or_other_data_are_refused(
    local: Shelf, spec: DatasetSpec, tmp_path: Path
) -> None:
    other = replace(spec, source_hash="another split")
    local.registry.register(make_card(other, 0.88), {})
    local.registry.register(make_card(spec), {})
    model = model_of(spec)

    def refusal(reference: str, space: Any, spec: DatasetSpec) -> str:
        with pytest.raises(StudyError) as caught:
            local.registry.load(reference, tmp_path / "recipe", space=space, spec=spec)
        assert not (tmp_path / "recipe").exists()
        return str(caught.value)

    message = refusal("trusted", replace(SPACE, num_cells=1), spec)
    assert "'nasbench201' with num_cells 5 (here 1)" in message
    # Of the space itself there is none; of the one that is named, it does not fit.
    message = refusal("trusted", ConvNetSpace(), spec)
    assert f"no recipe 'nas_proxy.recipe.convnet.{spec.name}' is registered" in message
    assert f"{model} with trusted" in message
    message = refusal(f"{model}@trusted", ConvNetSpace(), spec)
    assert "the space 'nasbench201', not 'convnet'" in message
    message = refusal("trusted", SPACE, other)
    assert "search-training images" in message
    assert message.endswith("(these versions of it do fit: 1)")
    loaded = local.registry.load("1", tmp_path / "recipe", space=SPACE, spec=other)
    assert loaded.card.spearman.low == 0.88


def test_unknown_names_are_refused(local: Shelf, spec: DatasetSpec, tmp_path: Path) -> None:
    local.registry.register(make_card(spec), {})
    for reference, said in (
        (
            "trustd",
            r"no alias 'trustd' \(aliases: trusted \(version 1\); .* did you mean 'trusted'",
        ),
        ("7", r"no version '7' .*; versions: 1\)"),
        ("nas_proxy.recipe.x@trusted", r"no recipe 'nas_proxy.recipe.x' .* \(there are: nas_proxy"),
    ):
        with pytest.raises(StudyError, match=said):
            local.registry.load(reference, tmp_path / "recipe", space=SPACE, spec=spec)


def test_a_store_that_is_away_ends_no_study_but_loads_nothing(
    spec: DatasetSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = TrackingSettings(uri=f"http://me:secret@127.0.0.1:{closed_port()}")
    registry = RecipeRegistry(settings, tmp_path)
    began = time.monotonic()
    assert registry.register(make_card(spec), {}) is None
    (warning,) = warnings_of(caplog)
    assert "was not registered in http://***@127.0.0.1" in warning
    assert "the study goes on" in warning
    with pytest.raises(StudyError, match=r"cannot be looked up in http://\*\*\*@.*Connection"):
        registry.load("trusted", tmp_path / "recipe", space=SPACE, spec=spec)
    assert time.monotonic() - began < 60  # MLflow's own retries take minutes
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_made_without_tracking_or_by_looking(spec: DatasetSpec, tmp_path: Path) -> None:
    registry = RecipeRegistry(TrackingSettings(enabled=False), tmp_path)
    assert registry.register(make_card(spec), {}) is None
    with pytest.raises(StudyError, match="nothing has been registered in"):
        registry.load("trusted", tmp_path / "recipe", space=SPACE, spec=spec)
    assert list(tmp_path.iterdir()) == []


def test_what_was_interrupted_is_completed(
    local: Shelf, spec: DatasetSpec, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from mlflow.tracking import MlflowClient

    def fail(*_: Any) -> None:
        raise ConnectionError("no route")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", fail)
        assert local.registry.register(make_card(spec), {}) is None
    assert "no route" in warnings_of(caplog)[0]
    assert local.aliases(model_of(spec)) == {}
    assert local.registry.register(make_card(spec), {}) is not None
    assert local.aliases(model_of(spec)) == {"trusted": 1}
    assert len(local.versions(model_of(spec))) == 1
