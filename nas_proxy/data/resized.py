"""Training images at another size in a file that every process maps, so that one alone resizes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas_proxy.data import transforms
from nas_proxy.data._decoded import read_decoded, write_decoded
from nas_proxy.data.folder import cache_folder
from nas_proxy.data.transforms import resize
from nas_proxy.reproducibility import content_hash
from nas_proxy.types import ImageDataset

logger = logging.getLogger("nas_proxy")

_WORTH_KEEPING = 2**24  # bytes; fewer are resized sooner than a file is checked


def resized_images(search_train: ImageDataset, image_size: int) -> Tensor:
    """The images of search_train as `resize` gives them, mapped where they are many.

    Args:
        search_train: Its specification tells its content; images that are on no CPU are resized
            there, and not kept.
        image_size: Height and width of the result.
    """
    images = search_train.images
    num_images, num_channels, height, width = images.shape
    shape = (num_images, num_channels, image_size, image_size)
    is_small = num_images * num_channels * image_size**2 < _WORTH_KEEPING
    if is_small or images.device.type != "cpu" or (height, width) == shape[2:]:
        return resize(images, image_size)
    code = Path(transforms.__file__).read_text(encoding="utf-8")
    name = content_hash(
        "resized", torch.__version__, code, search_train.spec.source_hash, shape, length=32
    )
    path = cache_folder() / f"{name}.images"
    kept = read_decoded(path, shape)
    if kept is not None:
        return torch.from_numpy(kept[1])

    def pixels() -> Iterator[NDArray[np.uint8]]:
        for part in images.split(transforms.chunk_length(images)):
            yield from resize(part, image_size).numpy()

    try:
        made = write_decoded(path, shape, rows=np.arange(num_images), pixels=pixels)
    except OSError as error:
        logger.warning(
            "each process resizes images for itself: %s cannot be written (%s)", path, error
        )
        return resize(images, image_size)
    return torch.from_numpy(made)
