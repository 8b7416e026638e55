"""Trained networks as MLflow models: on a real server, and in the store of the results folder."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.export.folder import export_model
from nas_proxy.export.model_file import ModelOrigin, load_model
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.tracking import Tracker
from nas_proxy.tracking.registry.models import ModelEntry, model_name, write_mlflow_model
from nas_proxy.types import DatasetSpec
from tests.tracking.helpers import Store, closed_port, python_environment, warnings_of

# Run where importing nas_proxy would fail.
STRANGER = """
import sys
sys.modules["nas_proxy"] = None
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
np.save(sys.argv[4], model.predict(np.load(sys.argv[3]))["logits"])
"""


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """100 real ones that no export was checked on."""
    return load_splits(DataSettings()).test.images[:100]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network as model files, and as an MLflow model in `mlflow` beside them."""
    folder = tmp_path_factory.mktemp("model")
    splits = load_splits(DataSettings())
    space = ConvNetSpace(widths=(8,), depths=(1,))
    architecture = space.sample(make_generator(0))
    with isolated_rng(0):
        network: nn.Module = space.build(architecture, splits.spec)
    origin = ModelOrigin.of(space, architecture, splits.spec)
    export_model(network, origin, splits.search_val.images, folder, ("onnx",))
    write_mlflow_model(
        folder / "mlflow",
        folder / "model.onnx",
        splits.spec,
        splits.search_val.images[:2],
        [folder / "model.safetensors"],
    )
    return folder


def registered(dataset: str) -> str:
    return model_name("convnet", dataset, "84f90caa9d0b417f")


def entry(name: str, content: str = "one", accuracy: float = 0.9, **changes: Any) -> ModelEntry:
    made = ModelEntry(
        registered_name=registered(name),
        title="study champion",
        page="# A page",
        content_hash=content,
        source_hash="this split",
        val_accuracy=accuracy,
        may_be_champion=True,
        tags={"study": "some"},
    )
    return replace(made, **changes)


def log(tracker: Tracker, folder: Path, *entries: ModelEntry) -> None:
    run = tracker.trained("a1", "trained: best")
    run.metrics({"test_accuracy": 0.75})
    for each in entries:
        run.model(folder, each)
    run.finish()
    tracker.study.finish()


def aliases(store: Store, name: str) -> dict[str, str]:
    found = store.client().get_registered_model(registered(name)).aliases
    return {alias: str(version) for alias, version in found.items()}


def versions(store: Store, name: str) -> list[Any]:
    found = store.client().search_model_versions(f"name = '{registered(name)}'")
    return sorted(found, key=lambda version: int(version.version))


def answers_elsewhere(uri: str, reference: str, images: torch.Tensor, folder: Path) -> np.ndarray:
    np.save(folder / "images.npy", (images.float() / 255).numpy())
    arguments = [uri, reference, str(folder / "images.npy"), str(folder / "answers.npy")]
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, *arguments],
        env=python_environment(), capture_output=True, text=True, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return np.load(folder / "answers.npy")  # type: ignore[no-any-return]


@pytest.mark.exhaustive
@pytest.mark.parametrize("where", ["server", "local"])
def test_round_trip(
    where: str,
    request: pytest.FixtureRequest,
    model_folder: Path,
    images: torch.Tensor,
    tmp_path: Path,
) -> None:
    store: Store = request.getfixturevalue("store")
    if where == "server":
        store = Store(tmp_path / "results", request.getfixturevalue("server").uri)
    study = f"test_round {where}"
    with store.open(study) as tracker:
        log(tracker, model_folder / "mlflow", entry(study))
    uri = store.uri or f"sqlite:///{store.results}/mlflow.db"
    name = registered(study)
    assert name == f"nas_proxy.model.convnet.test_round_{where}.84f90caa"
    logits = answers_elsewhere(uri, f"models:/{name}@champion", images, tmp_path)
    with torch.no_grad():
        expected = load_model(model_folder / "model.safetensors")(images.float() / 255).numpy()
    assert np.abs(logits - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())

    (version,) = versions(store, study)
    run = store.client().get_run(version.run_id)
    assert run.info.run_name == "trained: best"
    (output,) = run.outputs.model_outputs
    logged = store.client().get_logged_model(output.model_id)
    assert logged.name == "study champion"
    assert str(logged.status).endswith("READY")
    assert logged.source_run_id == version.run_id
    assert version.tags["val_accuracy"] == "0.900000"
    assert store.find_one(study)["trained: best"].parent == store.find_one(study)[study].run_id


def test_the_folder_has_signature_example_and_requirements(model_folder: Path) -> None:
    from mlflow.models import Model

    spec: DatasetSpec = load_model(model_folder / "model.safetensors").origin.spec
    model = Model.load(str(model_folder / "mlflow"))
    (given,), (answer,) = model.signature.inputs.inputs, model.signature.outputs.inputs
    assert (given.shape, str(given.type)) == ((-1, 1, 8, 8), "float32")
    assert (answer.name, answer.shape) == ("logits", (-1, spec.num_classes))
    example = model.load_input_example(str(model_folder / "mlflow"))
    assert example.shape == (2, 1, 8, 8)
    assert 0 <= example.min() < example.max() <= 1
    requirements = (model_folder / "mlflow" / "requirements.txt").read_text()
    assert "onnxruntime" in requirements
    assert "nas" not in requirements
    assert (model_folder / "mlflow" / "extra_files" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_champion_is_the_best_on_validation(
    store: Store, study: str, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:1")  # meant for other programs

    def register(number: int, *entries: ModelEntry) -> dict[str, str]:
        with store.open(f"{study} {number}") as tracker:
            log(tracker, model_folder / "mlflow", *entries)
        return aliases(store, study)

    first = entry(study, "one", 0.9)
    assert register(0, first) == {"champion": "1"}
    assert register(1, entry(study, "two", 0.8)) == {"champion": "1"}
    assert register(2, entry(study, "three", 0.95)) == {"champion": "3"}
    runner_up = entry(study, "four", 0.99, may_be_champion=False)
    assert register(3, runner_up) == {"champion": "3"}
    # Accuracies on other images say nothing of these, however high.
    elsewhere = entry(study, "five", 0.999, source_hash="another split")
    assert register(4, elsewhere) == {"champion": "3"}
    # A person's choice stays, and what is there is not registered again.
    store.client().set_registered_model_alias(registered(study), "champion", "2")
    assert register(5, first) == {"champion": "2"}
    assert len(versions(store, study)) == 5


@pytest.mark.exhaustive
def test_a_store_that_is_away_gets_it_later(
    store: Store, study: str, model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = f"http://127.0.0.1:{closed_port()}"
    folder = store.results / study
    tracker = store.open(study, uri=away)
    log(tracker, model_folder / "mlflow", entry(study))
    tracker.close(timeout=1.0)
    assert any("does not take what is logged" in warning for warning in warnings_of(caplog))
    with store.open(study):
        pass
    assert aliases(store, study) == {"champion": "1"}
    assert json.loads((folder / "tracking" / "state.json").read_text())["late"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "refused",
    [
        "create_model_version",
        pytest.param("set_registered_model_alias", marks=pytest.mark.exhaustive),
    ],
)
def test_what_fails_to_be_registered_holds_up_nothing_and_is_completed(
    refused: str,
    store: Store,
    study: str,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow.tracking import MlflowClient

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    with monkeypatch.context() as patch, store.open(study) as tracker:
        patch.setattr(MlflowClient, refused, fail)
        log(tracker, model_folder / "mlflow", entry(study))
        tracker.close()
    assert aliases(store, study) == {}
    found = store.find_one(study)["trained: best"]
    assert found.status == "FINISHED"
    assert found.history["test_accuracy"] == [(0, 0.75)]
    with store.open(study):
        pass
    assert aliases(store, study) == {"champion": "1"}
    (version,) = versions(store, study)
    assert len(store.client().get_run(version.run_id).outputs.model_outputs) == 1
