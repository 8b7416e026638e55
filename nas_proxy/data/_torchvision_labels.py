"""What the images of torchvision's data sets show: their classes, read without decoding any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Where torchvision's classes keep what the classes of their images are.
_LABELS = ("targets", "labels", "_labels", "y")
_SAMPLES = ("_samples", "samples")


def read_labels(parts: Mapping[str, Any]) -> tuple[tuple[str, ...], Tensor]:
    """Names of the classes, and the labels of all parts one after the other, int64 `(n,)`.

    Args:
        parts: What torchvision opened, `train` first.

    Returns:
        The names are numbers where torchvision has none.

    Raises:
        ValueError: If the parts have other classes, or one has not a known label for each image.
    """
    names = _class_names(parts)
    labels = torch.cat([_labels(name, part, names) for name, part in parts.items()])
    return names or tuple(map(str, range(int(labels.max()) + 1))), labels


def as_it_is(part: Any) -> None:
    """Leave what torchvision opened: it is complete."""


def read_pcam_labels(part: Any) -> None:
    """Read all labels of PCAM, which torchvision reads one by one, each with its image."""
    path = part._base_folder / part._FILES[part._split]["targets"][0]
    with part.h5py.File(path) as file:
        part.targets = np.asarray(file["y"]).reshape(-1)


def label_by_folder(part: Any) -> None:
    """Take the labels that folders are called by; torchvision numbers those that are there."""
    part._samples = [
        (path, int(folder) if (folder := Path(path).parent.name).isdigit() else label)
        for path, label in part._samples
    ]


def sort_by_path(part: Any) -> None:
    """Sort what is in the file system's order: other images would be held out elsewhere."""
    pairs = sorted(zip(part._image_files, part._labels, strict=True))
    part._image_files, part._labels = map(list, zip(*pairs, strict=True))


def _class_names(parts: Mapping[str, Any]) -> tuple[str, ...]:
    """Some of torchvision's classes number those that a part happens to have: all must agree."""
    named = {
        name: tuple(str(c) for c in getattr(part, "classes", getattr(part, "categories", ())))
        for name, part in parts.items()
    }
    for name, classes in named.items():
        odd = sorted(set(classes) ^ set(named["train"]))
        if odd:
            raise ValueError(f"only one of its parts train and {name} has the class {odd[0]!r}")
    return named["train"]


def _labels(name: str, part: Any, names: Sequence[str]) -> Tensor:
    found = _found_labels(part)
    if any(label is None for label in found):
        raise ValueError(f"its part {name} has images without labels, as of a competition")
    labels = torch.tensor(found, dtype=torch.int64)
    if len(labels) != len(part):
        raise ValueError(f"its part {name} has {len(part)} images and {len(labels)} labels")
    if names and not ((labels >= 0) & (labels < len(names))).all():
        low, high = int(labels.min()), int(labels.max())
        raise ValueError(
            f"its part {name} has labels from {low} to {high}, but {len(names)} classes"
        )
    return labels


def _found_labels(part: Any) -> list[Any]:
    for name in _LABELS:
        if hasattr(part, name):
            found: list[Any] = np.asarray(getattr(part, name)).tolist()
            return found
    samples = next(getattr(part, name) for name in _SAMPLES if hasattr(part, name))
    return [sample[1] for sample in samples]
