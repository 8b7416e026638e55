"""Images for a person to look at. Nothing here imports torch: a look at a file needs none."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from nas_proxy.core.files import write_atomically

_MIN_SIDE = 48  # pixels on the screen for one image; smaller ones are enlarged without smoothing
_MAX_COLUMNS = 10
_MAX_ROWS = 20
_GAP = 2  # white pixels between images and around them


def write_image_grid(path: Path, images: ArrayLike, images_per_class: int) -> None:
    """A PNG with one row for each class: its first ten images; twenty classes at most.

    Args:
        path: Where to.
        images: On the CPU, uint8, `(num_classes * images_per_class, c, h, w)`, class by class; c is
            1 or 3.
        images_per_class: How many belong to each class.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
    """
    every = np.asarray(images).transpose(0, 2, 3, 1)
    rows = every.reshape(-1, images_per_class, *every.shape[1:])[:_MAX_ROWS, :_MAX_COLUMNS]
    scale = max(1, -(-_MIN_SIDE // rows.shape[3]))
    rows = rows.repeat(scale, axis=2).repeat(scale, axis=3)
    num_rows, num_columns, height, width = rows.shape[:4]
    cells = np.full((num_rows, height + _GAP, num_columns, width + _GAP, 3), 255, dtype=np.uint8)
    cells[:, :height, :, :width] = rows.transpose(0, 2, 1, 3, 4)
    grid = cells.reshape(num_rows * (height + _GAP), num_columns * (width + _GAP), 3)
    framed = np.pad(grid, ((_GAP, 0), (_GAP, 0), (0, 0)), constant_values=255)
    if num_rows * num_columns == 1:  # it needs no frame
        framed = grid[:height, :width]
    buffer = io.BytesIO()
    Image.fromarray(framed).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())
