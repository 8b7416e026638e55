"""Images for a person to look at. Nothing here imports torch: a look at a file needs none."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from nas_proxy.core.files import write_atomically

_MIN_SIDE = 48  # pixels on the screen for one image; smaller ones are enlarged without smoothing
_MAX_COLUMNS = 10
_MAX_ROWS = 20
_FONT_SIZE = 14  # pixels
_MAX_NAME = 20  # characters of a class's name
_GAP = 2  # white pixels between images and around them


def write_image_grid(
    path: Path, images: ArrayLike, images_per_class: int, class_names: Sequence[str] = ()
) -> None:
    """A PNG with one row for each class: its first ten images; twenty classes at most.

    Args:
        path: Where to.
        images: On the CPU, uint8, `(num_classes * images_per_class, c, h, w)`, class by class; c is
            1 or 3.
        images_per_class: How many belong to each class.
        class_names: In label order, written before the rows; none: nothing is written.

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
    picture = Image.fromarray(framed)
    if class_names:
        picture = _named(picture, class_names[:num_rows], height + _GAP)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def _named(grid: Image.Image, names: Sequence[str], row_height: int) -> Image.Image:
    """The same with a name before each row."""
    font = ImageFont.load_default(_FONT_SIZE)
    words = [shorten(name, _MAX_NAME, placeholder="…") for name in names]
    margin = _FONT_SIZE + max(round(font.getlength(word)) for word in words)
    picture = Image.new("RGB", (margin + grid.width, grid.height), "white")
    picture.paste(grid, (margin, 0))
    draw = ImageDraw.Draw(picture)
    for row, word in enumerate(words):
        middle = _GAP + row * row_height + (row_height - _GAP) // 2
        draw.text((margin - _FONT_SIZE // 2, middle), word, "black", font, anchor="rm")
    return picture
