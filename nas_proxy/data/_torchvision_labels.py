"""What the images of torchvision's data sets show: their classes, read without decoding any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
