"""Trained networks as MLflow models: folders that load without nas_proxy, and their registration.

A model is an ONNX program with signature and input example. Its folder is written here, at once;
the uploader carries it to the store as it does everything else, registers it under
`nas_proxy.model.<space>.<data set>`, and moves the alias `champion` to the best.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_proxy.tracking.store import accepted_text, prepare_environment

if TYPE_CHECKING:
    from torch import Tensor

    from nas_proxy.types import DatasetSpec

CHAMPION = "champion"
CONTENT_HASH = "nas_proxy.content_hash"
SOURCE_HASH = "nas_proxy.source_hash"
VAL_ACCURACY = "val_accuracy"
_REGISTERED = "nas_proxy.registered"  # a kill may come before the alias is there


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


def model_name(space: str, dataset: str) -> str:
    """The registered model of a search space's networks for a data set."""
    parts = (re.sub(r"[^\w-]", "_", part) for part in (space, dataset))
    return f"nas_proxy.model.{'.'.join(parts)}"


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
    _ensure_registered(client, entry)
    versions = client.search_model_versions(f"name = '{entry.registered_name}'")
    version = _with_content(versions, entry) or _create_version(
        client, experiment_id, run_id, folder, entry
    )
    if _REGISTERED in version.tags:
        return  # a person may have moved the alias since
    if entry.may_be_champion and _beats_champion(client, versions, entry):
        client.set_registered_model_alias(entry.registered_name, CHAMPION, str(version.version))
    client.set_model_version_tag(entry.registered_name, str(version.version), _REGISTERED, "yes")


def _ensure_registered(client: Any, entry: ModelEntry) -> None:
    from mlflow.exceptions import MlflowException

    page = (
        "Networks that a search found and that were then trained fully. They take float32 images "
        "in [0, 1], `(n, c, h, w)`, and answer with logits; no other library than ONNX Runtime is "
        f"needed.\n\nThe alias `{CHAMPION}` marks the one of the highest accuracy on the "
        "search-validation images; the test images choose nothing."
    )
    try:
        client.create_registered_model(entry.registered_name, description=page)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _create_version(
    client: Any, experiment_id: str, run_id: str, folder: Path, entry: ModelEntry
) -> Any:
    from mlflow.entities import LoggedModelOutput

    tags = {
        **{name: accepted_text(text) for name, text in entry.tags.items()},
        CONTENT_HASH: entry.content_hash,
        SOURCE_HASH: entry.source_hash,
        VAL_ACCURACY: f"{entry.val_accuracy:.6f}",
    }
    # It may exist: a kill, or a lost answer, can come before its version is there.
    found = client.search_logged_models(
        [experiment_id], f"tags.`{CONTENT_HASH}` = '{entry.content_hash}'"
    )
    model = next((m for m in found if m.source_run_id == run_id), None)
    if model is None:
        model = client.create_logged_model(
            experiment_id,
            name=entry.title,
            source_run_id=run_id,
            tags=tags,
            model_type="classifier",
        )
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    linked = client.get_run(run_id).outputs.model_outputs
    if model.model_id not in {output.model_id for output in linked}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return client.create_model_version(
        entry.registered_name,
        # Not models:/<id>: a database store would look that up in the global tracking URI.
        model.artifact_location,
        run_id,
        tags=tags,
        description=accepted_text(entry.page),
        model_id=model.model_id,
    )


def _with_content(versions: Sequence[Any], entry: ModelEntry) -> Any:
    found = [v for v in versions if v.tags.get(CONTENT_HASH) == entry.content_hash]
    return found[0] if found else None


def _beats_champion(client: Any, versions: Sequence[Any], entry: ModelEntry) -> bool:
    """Whether no champion was as good on the same search-validation images."""
    aliases = client.get_registered_model(entry.registered_name).aliases
    now = [v for v in versions if str(v.version) == str(aliases.get(CHAMPION, ""))]
    if not now or now[0].tags.get(SOURCE_HASH) != entry.source_hash:
        return True
    return float(now[0].tags.get(VAL_ACCURACY, "-inf")) < entry.val_accuracy
