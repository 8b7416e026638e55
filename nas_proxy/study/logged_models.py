"""Retrained networks in MLflow: a run for each, and the models that are to be used."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from nas_proxy.compress.result import CompressedVersion
from nas_proxy.errors import required
from nas_proxy.export.folder import ARCHITECTURE_FILE, MODEL_FILE
from nas_proxy.export.programs import PROGRAMS
from nas_proxy.retrain.card import ModelCard
from nas_proxy.retrain.result import RetrainRow
from nas_proxy.study.context import StudyContext
from nas_proxy.tracking import LoggedDataset, Period, RunLog, Tracker
from nas_proxy.tracking.registry.models import ModelEntry, model_name, write_mlflow_model

logger = logging.getLogger("nas_proxy")


def log_contender(tracker: Tracker, row: RetrainRow, trained_on: LoggedDataset) -> None:
    """The run of a network that was trained fully; logging it again changes nothing.

    Args:
        tracker: The study's.
        row: Of the network.
        trained_on: The real images.
    """
    run = _run_of(tracker, row)
    run.params(
        {
            "architecture": row.description,
            "architecture_id": row.architecture_id,
            "role": row.role,
        }
    )
    run.description(f"{row.description}, trained fully ({row.role})")
    run.dataset(trained_on, "training")
    run.metrics({"num_params": row.num_params, "seconds": sum(row.train_seconds)})
    if row.flops is not None:
        run.metrics({"flops": row.flops})
    accuracies = {"val_accuracy": row.val_accuracy, "test_accuracy": row.test_accuracy}
    for name, accuracy in accuracies.items():
        if accuracy is None:
            continue
        run.metrics({name: accuracy.mean})
        if accuracy.standard_error is not None:
            run.metrics({f"{name}_standard_error": accuracy.standard_error})
        for seed, value in enumerate(accuracy.values):
            run.metrics({f"{name}_seed_{seed}": value})
    if row.base_rate is not None:
        run.metrics(
            {
                "test_majority_share": row.base_rate.majority_share,
                "test_balanced_accuracy": row.base_rate.balanced_accuracy,
            }
        )
    if row.curves is not None:
        curves = {"train_loss": row.curves.train_loss, "val_accuracy": row.curves.val_accuracy}
        for name, points in curves.items():
            steps, values = [step for step, _ in points], [value for _, value in points]
            run.curve(f"curve/{name}", values, steps)
    if row.val_accuracy is None:
        run.finish("FAILED", "; ".join(row.failures))
    else:
        run.finish()


def log_compressed(
    tracker: Tracker, row: RetrainRow, versions: Sequence[CompressedVersion], folder: Path
) -> None:
    """Files and figures of the smaller versions, in the run of the network they were made from.

    Args:
        tracker: The study's.
        row: Of the network.
        versions: A row of figures for each.
        folder: The files are in it.
    """
    run = _run_of(tracker, row)
    for version in versions:
        run.artifact(folder / version.file, "compressed")
        figures = {
            "test_accuracy": version.test_accuracy.value,
            "file_kb": version.file_bytes / 1000,
            "latency_ms": 1000 * version.latency.median_seconds,
            "peak_memory_mib": version.peak_memory_mib,
        }
        # MLflow's charts group what stands before the slash.
        run.metrics({f"{name}/{version.name}": value for name, value in figures.items()})


def log_model(
    study: StudyContext, row: RetrainRow, card: ModelCard, folder: Path, example: Tensor
) -> None:
    """Log and register the model in `folder`, if there is an ONNX file that MLflow can hold."""
    onnx_file = folder / PROGRAMS["onnx"][0]
    if not study.config.tracking.enabled:
        return
    if not onnx_file.is_file():
        settings = required(study.config.retrain, "the section retrain")
        reason = "could not be written" if "onnx" in settings.formats else "is not asked for"
        study.display.say(
            f"model: no entry in MLflow's registry, which takes ONNX: {onnx_file.name} {reason} "
            f"(retrain.formats: {list(settings.formats)}); {MODEL_FILE} lies in {folder}"
        )
        return
    spec = card.origin.spec
    # Aside: no part of what a user copies.
    mlflow_folder = folder.parent / "mlflow" / folder.name
    files = [folder / name for name in (MODEL_FILE, ARCHITECTURE_FILE, "card.md", "card.json")]
    program = folder / PROGRAMS["torch_export"][0]
    try:
        write_mlflow_model(
            mlflow_folder,
            onnx_file,
            spec,
            example,
            [*files, *([program] if program.is_file() else [])],
        )
    except Exception as error:  # noqa: BLE001 - whatever MLflow raises, the study goes on
        logger.warning(
            "tracking: %s was not made an MLflow model (%s); the model files are complete, and "
            "the study goes on", folder, error,
        )  # fmt: skip
        return
    name = model_name(study.config.space.name, spec.name, spec.source_hash)
    run = _run_of(study.tracker, row)
    run.model(
        mlflow_folder,
        ModelEntry(
            registered_name=name,
            title=f"{study.config.study_name} {folder.name}",
            page=card.to_markdown(),
            content_hash=_model_id(folder / MODEL_FILE),
            source_hash=spec.source_hash,
            val_accuracy=card.val_accuracy,
            may_be_champion=folder.name == "champion",
            tags={
                "test_accuracy": f"{card.test_accuracy.value:.4f}",
                "architecture_id": row.architecture_id,
                "study": study.config.study_name,
                "input": "float32 images in [0, 1]",
            },
        ),
    )
    study.display.say(f"model: logged as {name}")


def _run_of(tracker: Tracker, row: RetrainRow) -> RunLog:
    period = None if row.unix_seconds is None else Period(*row.unix_seconds)
    return tracker.trained(row.architecture_id, f"trained: {row.role}", period)


def _model_id(file: Path) -> str:
    """The content hash that the file's header states."""
    with safe_open(str(file), framework="pt") as opened:
        found: str = json.loads(opened.metadata()["nas_proxy"])["id"]
    return found
