"""Trained networks as MLflow models: folders that load without nas_proxy, and their registration.

A model is an ONNX program with signature and input example. Its folder is written here, at once;
the uploader carries it to the store as it does everything else, registers it under
`nas_proxy.model.<space>.<data set>.<data>`, and moves the alias `champion` to the best.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_proxy.tracking._mlflow_border import accepted_text, prepare_environment
from nas_proxy.tracking.registry._registrar import (
    CONTENT_HASH,
    SOURCE_HASH,
    Registrar,
    StoredFiles,
    VersionEntry,
    registered_model,
)

if TYPE_CHECKING:
    from torch import Tensor

    from nas_proxy.types import DatasetSpec

CHAMPION = "champion"
VAL_ACCURACY = "val_accuracy"
_HASH_LENGTH = 8  # of the data's hash in a name that people type
_REGISTERED = "nas_proxy.registered"


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """What the store is told of a model.

    Attributes:
        registered_name: The registered model that it is a version of.
        title: Its name among the experiment's models.
        page: What a person reads about it, as Markdown.
        content_hash: Identifies its weights; the same are registered once.
        source_hash: Of the images; only models that were validated on the same are comparable.
        val_accuracy: By which `champion` is chosen; never the test accuracy.
        may_be_champion: Whether the study recommends it.
        tags: Further ones.
    """

    registered_name: str
    title: str
    page: str
    content_hash: str
    source_hash: str
    val_accuracy: float
    may_be_champion: bool
    tags: Mapping[str, str] = field(default_factory=dict)


def model_name(space: str, dataset: str, source_hash: str) -> str:
    """The registered model of a search space's networks for a data set.

    Args:
        space: Name of the search space.
        dataset: Name of the data set, which says nothing of its classes or of its split.
        source_hash: Tells those apart: versions of one model are comparable.
    """
    return registered_model("nas_proxy.model.", space, dataset, source_hash[:_HASH_LENGTH])


def write_mlflow_model(
    folder: Path, onnx_file: Path, spec: DatasetSpec, example: Tensor, files: Sequence[Path]
) -> None:
    """Write an ONNX program as an MLflow model, which loads as a pyfunc without nas_proxy.

    Args:
        folder: Is replaced if it exists.
        onnx_file: Takes float32 images in [0, 1].
        spec: Their shape and classes.
        example: Images to try it with, uint8 `(n, c, h, w)`.
        files: Further files that travel with it, such as its card.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
    """
    prepare_environment()
    import mlflow.onnx
    import numpy as np
    import onnx
    import onnxruntime
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    kind = np.dtype(np.float32)
    mlflow.onnx.save_model(
        onnx.load(str(onnx_file)),
        str(folder),
        signature=ModelSignature(
            inputs=Schema([TensorSpec(kind, (-1, *spec.image_shape))]),
            outputs=Schema([TensorSpec(kind, (-1, spec.num_classes), "logits")]),
        ),
        input_example=(example.cpu().float() / 255).numpy(),
        # Named, because MLflow would otherwise start a process to find out.
        pip_requirements=[
            f"onnx=={onnx.__version__}",
            f"onnxruntime=={onnxruntime.__version__}",
            f"numpy=={np.__version__}",
        ],
        # Asked for CUDA where there is none, ONNX Runtime warns at each load.
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
        extra_files=[str(file) for file in files],
    )


def register_model(
    client: Any, experiment_id: str, run_id: str, folder: Path, entry: ModelEntry
) -> None:
    """Log a model's folder and register it; what is there already stays as it is."""
    registrar, version_entry = Registrar(client, _REGISTERED), _version_entry(entry)

    def upload() -> StoredFiles:
        return _log_model(client, experiment_id, run_id, folder, entry.title, version_entry)

    def crown() -> None:
        if entry.may_be_champion:
            champion = registrar.with_alias(entry.registered_name, CHAMPION)
            if _is_better(entry, champion):
                registrar.set_alias(version, CHAMPION)

    version = registrar.ensure(version_entry, upload)
    registrar.complete(version, crown)


def _version_entry(entry: ModelEntry) -> VersionEntry:
    return VersionEntry(
        model=entry.registered_name,
        model_page=(
            "Networks that a search found and that were then trained fully. They take float32 "
            "images in [0, 1], `(n, c, h, w)`, and answer with logits; no other library than ONNX "
            f"Runtime is needed.\n\nThe alias `{CHAMPION}` marks the one of the highest accuracy "
            "on the search-validation images; the test images choose nothing."
        ),
        page=entry.page,
        content_hash=entry.content_hash,
        tags={
            **{name: accepted_text(text) for name, text in entry.tags.items()},
            SOURCE_HASH: entry.source_hash,
            VAL_ACCURACY: f"{entry.val_accuracy:.6f}",
        },
    )


def _log_model(
    client: Any, experiment_id: str, run_id: str, folder: Path, title: str, entry: VersionEntry
) -> StoredFiles:
    from mlflow.entities import LoggedModelOutput

    # It may exist: a kill, or a lost answer, can come before its version is there.
    found = client.search_logged_models(
        [experiment_id], f"tags.`{CONTENT_HASH}` = '{entry.content_hash}'"
    )
    model = next((m for m in found if m.source_run_id == run_id), None)
    if model is None:
        model = client.create_logged_model(
            experiment_id,
            name=title,
            source_run_id=run_id,
            tags={**entry.tags, CONTENT_HASH: entry.content_hash},
            model_type="classifier",
        )
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    linked = client.get_run(run_id).outputs.model_outputs
    if model.model_id not in {output.model_id for output in linked}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    # Not models:/<id>: a database store would look that up in the global tracking URI.
    return StoredFiles(model.artifact_location, run_id, model.model_id)


def _is_better(entry: ModelEntry, champion: Any) -> bool:
    """Whether no champion was as good; accuracies on other images cannot be compared with it."""
    if champion is None:
        return True
    if champion.tags.get(SOURCE_HASH) != entry.source_hash:
        return False
    return float(champion.tags.get(VAL_ACCURACY, "-inf")) < entry.val_accuracy
