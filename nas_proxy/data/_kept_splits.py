"""Divided data sets in files that every process maps, so that one of them alone reads the source.

Without this, each worker process would import a library, unpack and divide the whole data set, and
hold a copy of it. A file's name is a hash of what the images were read from, of the settings and of
the code that divides them: a stale file is never read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nas_proxy.core.files import write_atomically
from nas_proxy.data._decoded import read_decoded, write_decoded
from nas_proxy.data._found import DataSettings
from nas_proxy.data.folder import cache_folder
from nas_proxy.reproducibility import content_hash
from nas_proxy.types import DatasetSpec, ImageDataset, Splits

logger = logging.getLogger("nas_proxy")

Identity = list[tuple[str, int, int]]
"""Name, size and time of each file of a source, or what else tells one content from another."""

_CODE = [Path(__file__).with_name(name) for name in ("sources.py", "splits.py", "transforms.py")]
_NOT_IN_NAME = ("root", "download", "ship")  # where they are; which they are is in the identity


def identity_below(folder: Path, *patterns: str) -> Identity:
    """Of the files below `folder` that match one of the patterns."""
    files = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return [
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(files)
    ]


Kept = tuple[Splits, list[str]]
"""The parts, and in words which of them hold images of another."""


def read_kept(settings: DataSettings, identity: Identity, licence: str) -> Kept | None:
    """What `keep` wrote for equal settings and an equal source, mapped; None if it is not there."""
    path = _path(settings, identity)
    try:
        kept = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        lengths, shared = list(kept["lengths"]), list(kept["shared"])
        spec = DatasetSpec(
            name=settings.name,
            class_names=tuple(kept["class_names"]),
            image_shape=tuple(kept["image_shape"]),
            mean=tuple(kept["mean"]),
            std=tuple(kept["std"]),
            licence=licence,
            source_hash=kept["source_hash"],
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("cached images %s cannot be read (%s) and are made again", path, error)
        return None
    decoded = read_decoded(path, (sum(lengths), *spec.image_shape))
    if decoded is None:
        return None
    return _divided(*decoded, lengths, spec), shared


def keep(
    splits: Splits, settings: DataSettings, identity: Identity, shared: Sequence[str]
) -> Splits:
    """Write the images of all parts into a file; the same splits, mapped from it.

    Where that cannot be written they are returned as they are, after a warning.

    Args:
        splits: The parts.
        settings: What they were divided by.
        identity: Of the source.
        shared: Which parts hold images of another, in words; to find that, every image is read.
    """
    path, spec, parts = _path(settings, identity), splits.spec, _parts(splits)
    labels = torch.cat([part.labels for part in parts]).numpy()
    lengths = [len(part) for part in parts]
    described = {
        "lengths": lengths,
        "shared": list(shared),
        "class_names": spec.class_names,
        "image_shape": spec.image_shape,
        "mean": spec.mean,
        "std": spec.std,
        "source_hash": spec.source_hash,
    }

    def pixels() -> Iterator[NDArray[np.uint8]]:
        for part in parts:
            yield from part.images.contiguous().numpy()

    try:
        shape = (len(labels), *spec.image_shape)
        images = write_decoded(path, shape, rows=labels, pixels=pixels)
        write_atomically(path.with_suffix(".json"), json.dumps(described))
    except OSError as error:
        logger.warning(
            "each process loads the images for itself: %s cannot be written (%s); set "
            "NAS_PROXY_CACHE to a folder with room for them",
            path,
            error,
        )
        return splits
    return _divided(labels, images, lengths, spec)


def _path(settings: DataSettings, identity: Identity) -> Path:
    chosen = {name: v for name, v in asdict(settings).items() if name not in _NOT_IN_NAME}
    code = [path.read_text(encoding="utf-8") for path in _CODE]
    name = content_hash("splits", torch.__version__, code, chosen, identity, length=32)
    return cache_folder() / f"{name}.images"


def _parts(splits: Splits) -> tuple[ImageDataset, ...]:
    return splits.search_train, splits.search_val, splits.test


def _divided(
    labels: NDArray[np.int64], images: NDArray[np.uint8], lengths: list[int], spec: DatasetSpec
) -> Splits:
    of_images = torch.from_numpy(images).split(lengths)
    of_labels = torch.from_numpy(labels).split(lengths)
    train, val, test = (
        ImageDataset(part, part_labels, spec)
        for part, part_labels in zip(of_images, of_labels, strict=True)
    )
    return Splits(search_train=train, search_val=val, test=test)
