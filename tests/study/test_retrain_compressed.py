"""Smaller versions of what was retrained: the files give the figures that are reported."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from nas_proxy.compress import compressing
from nas_proxy.compress.result import CompressionRow
from nas_proxy.data.sources import load_splits
from nas_proxy.errors import CompressionError
from nas_proxy.evaluate.latency import Latency
from nas_proxy.study.config import check_config
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.study.stages import retrain
from nas_proxy.tracking._runs import RunLog
from nas_proxy.types import ImageDataset
from tests.helpers.display import Quiet
from tests.study.helpers_retrain import TINY, read

VARIANTS = [["post_training_quantisation"], ["structured_pruning", "distillation"]]


def config(results: Path) -> Any:
    retrain = {
        **TINY["retrain"],
        "num_architectures": 1,
        "num_seeds": 1,
        "comparisons": [],
        "compress": {"variants": VARIANTS, "num_calibration_images": 32},
    }
    return check_config({**TINY, "results": str(results), "retrain": retrain})


def accuracy(file: Path, dataset: ImageDataset) -> float:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    images = dataset.images.numpy().astype(np.float32) / 255
    (logits,) = session.run(None, {"images": images})
    return float((logits.argmax(axis=1) == dataset.labels.numpy()).mean())


@pytest.mark.exhaustive
def test_each_version_is_a_file_with_the_reported_accuracies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics: dict[str, float] = {}
    uploaded: list[Path] = []
    monkeypatch.setattr(RunLog, "metrics", lambda self, values, step=0: metrics.update(values))
    monkeypatch.setattr(RunLog, "artifact", lambda self, path, folder="": uploaded.append(path))
    study = config(tmp_path)
    run_pipeline(study, Quiet())
    costs = read(study.layout.folder, "report.json")["costs"]
    (paid,) = (entry for entry in costs if entry["what"] == "retrain: fine-tuning smaller versions")
    assert paid["count"] == 1  # rounding alone trains nothing
    assert paid["seconds"] > 0
    folder = study.layout.folder / "retrain"
    rows = read(folder, "retrain.json")["compressed"]["versions"]
    assert [row["name"] for row in rows] == [
        "float32",
        "post_training_quantisation",
        "structured_pruning-distillation",
    ]
    splits = load_splits(study.data)
    for row in rows:
        file = folder / "compressed" / row["file"]
        assert file.stat().st_size == row["file_bytes"]
        # Whether a tie goes this way or that may differ with the size of a batch.
        assert accuracy(file, splits.search_val) == pytest.approx(row["val_accuracy"], abs=0.02)
        found = row["test_accuracy"]
        assert accuracy(file, splits.test) == pytest.approx(found["value"], abs=0.02)
        assert found["low"] <= found["value"] <= found["high"]
        assert file in uploaded
        assert metrics[f"test_accuracy/{row['name']}"] == found["value"]
        assert metrics[f"file_kb/{row['name']}"] == row["file_bytes"] / 1000
    assert rows[2]["num_parameters"] < rows[0]["num_parameters"]


def test_what_cannot_be_compressed_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise CompressionError("the layer body.3 cannot be quantised")

    monkeypatch.setattr(compressing, "compress", refuse)
    study, display = config(tmp_path), Quiet()
    run_pipeline(study, display, last="retrain")
    found = read(study.layout.folder / "retrain", "retrain.json")["compressed"]
    assert found == {"versions": [], "reason": "the layer body.3 cannot be quantised"}
    assert (study.layout.folder / "retrain" / "champion" / "model.safetensors").is_file()
    assert any("body.3" in line for line in display.said)


def test_a_variant_that_cannot_be_made_is_said_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_float32(*arguments: Any, folder: Path, on_failure: Any, **options: Any) -> Any:
        onnx = folder / "float32.onnx"
        onnx.write_bytes(b"a model")
        on_failure("structured_pruning", CompressionError("no channel can be followed"))
        runtime = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        latency = Latency(0.001, 0.001, 0.001, 100, 1, 1, "here")
        row = CompressionRow(
            "float32", 0.5, 650, 7, 7, latency, 1.0, 1.0, 0.0, 1.0, train_seconds=0.0,
            paid_seconds=0.0,
        )  # fmt: skip
        return (SimpleNamespace(runtime=runtime, row=row, onnx=onnx),)

    monkeypatch.setattr(compressing, "compress", only_float32)
    monkeypatch.setattr(retrain, "log_compressed", lambda *arguments: None)
    study, display = config(tmp_path), Quiet()
    run_pipeline(study, display, last="retrain")
    found = read(study.layout.folder / "retrain", "retrain.json")["compressed"]
    assert [version["name"] for version in found["versions"]] == ["float32"]
    assert found["reason"] == "structured_pruning: no channel can be followed"
    assert any("no channel can be followed" in line for line in display.said)
