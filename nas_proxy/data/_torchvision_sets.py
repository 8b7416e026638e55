"""Torchvision's data sets for classification by name, with their authors' own parts.

What they hold is read through torchvision's own classes; what differs between them is said in
`_torchvision_table`. Decoded images are kept as those of folders are, under a name that depends on
the files' sizes and times.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas_proxy.data._decoded import keep_decoded, read_decoded
from nas_proxy.data._found import (
    DataSettings,
    FoundImages,
    not_fetched,
    not_found,
    required_image_size,
    torchvision_datasets,
)
from nas_proxy.data._kept_splits import Identity, identity_below
from nas_proxy.data._torchvision_labels import read_labels
from nas_proxy.data._torchvision_table import DESCRIBED_SETS, TorchvisionSet
from nas_proxy.data.folder import cache_folder, data_root, square, to_rgb
from nas_proxy.errors import DataError, first_line
from nas_proxy.reproducibility import content_hash
from nas_proxy.types import Progress

_VERSION = 1  # raised by hand when decoding changes, so that older cache files are not read
_IMAGES_AT_ONCE = 256  # in memory while they are decoded


def _find(described: TorchvisionSet, settings: DataSettings, progress: Progress) -> FoundImages:
    size = settings.image_size or described.image_size or required_image_size(settings)
    root, _ = data_root(settings.root)
    opened = {name: _open(described, name, settings) for name in described.parts}
    sets = list(opened.values())
    try:
        names, labels = read_labels(opened)
    except ValueError as error:
        raise DataError(
            f"{described.class_name} in {root} cannot be used: {error}; put a whole copy of "
            f"{described.folder} there"
        ) from error
    lengths = [len(part) for part in sets]
    of_part = torch.repeat_interleave(torch.arange(len(sets)), torch.tensor(lengths))
    masks = {name: of_part == number for number, name in enumerate(opened)}
    read = partial(
        _read, sets, size, described.num_channels, _identity(described, root), progress=progress
    )
    return FoundImages(names, labels, masks.get("test"), read, masks.get("val"))


def _open(described: TorchvisionSet, part: str, settings: DataSettings) -> Any:
    root, origin = data_root(settings.root)
    name = f"{described.class_name} ({part})"
    folder = described.folder
    fetches = {"download": True} if settings.download else {}
    if fetches and not described.can_download:
        raise DataError(
            f"torchvision cannot download {described.class_name}: put {folder} into {root}, as the "
            "page of that class says, and leave data.download out"
        )
    try:
        if fetches:
            root.mkdir(parents=True, exist_ok=True)
        opened = getattr(torchvision_datasets(), described.class_name)(
            root, **fetches, **described.parts[part]
        )
        described.complete(opened)
        return opened
    except Exception as error:  # of damaged files torchvision's classes raise anything
        if not _identity(described, root):
            if fetches:
                raise not_fetched(name, root, error) from error
            raise not_found(name, root, origin, folder, "it") from error
        reason = first_line(error).rstrip(".")
        raise DataError(
            f"{name} in {root} cannot be read ({reason}): put a whole copy of {folder} there, or "
            "delete it and pass data.download=true to fetch one"
        ) from error


def _identity(described: TorchvisionSet, root: Path) -> Identity:
    return identity_below(root, *described.files)


def _read(
    sets: Sequence[Any],
    image_size: int,
    num_channels: int,
    identity: Identity,
    parts: Sequence[Tensor],
    *,
    progress: Progress,
) -> list[Tensor]:
    """The images at the indices of each part, decoded once and then mapped from a file."""
    order = torch.cat(list(parts))
    maker = ["torchvision", _VERSION, PIL.__version__, image_size, num_channels]
    path = cache_folder() / f"{content_hash(maker, identity, order, length=32)}.images"
    shape = (len(order), num_channels, image_size, image_size)
    kept = read_decoded(path, shape)
    images = (
        kept[1]
        if kept is not None
        else keep_decoded(
            path,
            shape,
            rows=order.numpy(),
            pixels=partial(_decode, sets, order.tolist(), image_size, num_channels, progress),
        )
    )
    starts = np.cumsum([len(part) for part in parts])[:-1]
    return [torch.from_numpy(part) for part in np.split(images, starts)]


def _decode(
    sets: Sequence[Any],
    order: Sequence[int],
    image_size: int,
    num_channels: int,
    progress: Progress,
) -> Iterator[NDArray[np.uint8]]:
    """Images one after the other, uint8 `(c, image_size, image_size)`.

    Raises:
        DataError: If one is damaged; the message gives its place.
    """
    starts = np.cumsum([0, *(len(part) for part in sets)])

    def work(index: int) -> NDArray[np.uint8]:
        number = int(np.searchsorted(starts, index, side="right")) - 1
        place = index - int(starts[number])
        try:
            image = sets[number][place][0]
            image = image.convert("L") if num_channels == 1 else to_rgb(image)
        except Exception as error:  # Pillow's decoders raise anything
            kind = type(sets[number]).__name__
            raise DataError(
                f"image {place} of part {number + 1} of {kind} cannot be read ({error}); put a "
                "whole copy of the data set there"
            ) from error
        if image.size != (image_size, image_size):
            image = square(image, image_size)
        pixels = np.asarray(image).reshape(image_size, image_size, num_channels)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    with ThreadPoolExecutor(os.cpu_count() or 1) as executor:
        for start in range(0, len(order), _IMAGES_AT_ONCE):
            yield from executor.map(work, order[start : start + _IMAGES_AT_ONCE])
            progress(min(start + _IMAGES_AT_ONCE, len(order)), len(order), "decoding")


FIND_TORCHVISION: Mapping[str, Callable[[DataSettings, Progress], FoundImages]] = {
    name: partial(_find, described) for name, described in DESCRIBED_SETS.items()
}
"""By the lower-case name of torchvision's class."""
