"""A network that an earlier study found and trained, as a teacher: its `model.safetensors`."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from nas_proxy.data.splits import image_hashes
from nas_proxy.errors import DataError
from nas_proxy.export.model_file import FORMAT, load_model
from nas_proxy.networks.wrapped import WrappedNetwork
from nas_proxy.teachers.teacher import Teacher
from nas_proxy.types import ImageDataset


def is_model_file(path: Path) -> bool:
    """Whether a file holds a model that the stage `retrain` wrote."""
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("nas_proxy", "{}"))
    except (OSError, SafetensorError, ValueError):
        return False
    return isinstance(header, dict) and header.get("format") == FORMAT


def teacher_of_model(path: Path, dataset: ImageDataset) -> Teacher:
    """The teacher that a model file holds.

    Args:
        path: A `model.safetensors`.
        dataset: The search-training images of this study.

    Raises:
        ModelFileError: If the file is damaged, or its search space is not installed.
        ConfigError: If the network does not end in a linear layer.
        DataError: If it knows other classes or was trained on other images: the file does not
            say which, so nobody could tell whether they judge the student.
    """
    model = load_model(path)
    origin = model.origin
    teacher = Teacher(
        network=WrappedNetwork(model.network, origin.spec.image_shape).eval(),
        spec=origin.spec,
        source_spec=dataset.spec,
        recipe={"model": origin.to_json()},
        description=f"{origin.architecture.space} {origin.architecture.id} of {path.name}",
        licence="",
        seen=image_hashes(dataset.images).sort().values,
        train_seconds=0.0,
    )
    if origin.spec.class_names != dataset.spec.class_names:
        raise DataError(
            f"the model {path} tells the classes {', '.join(origin.spec.class_names)}, but "
            f"{dataset.spec.name} here has {', '.join(dataset.spec.class_names)}; name another"
        )
    if origin.spec.source_hash != dataset.spec.source_hash:
        raise DataError(
            f"the model {path} was trained on other images of {origin.spec.name} than this study "
            "trains on, and may have seen those that judge its students; set the data section as "
            "it was in its study, or name another teacher"
        )
    teacher.network.requires_grad_(False)
    return teacher
