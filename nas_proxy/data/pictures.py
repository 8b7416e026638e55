"""Images for a person to look at."""

from __future__ import annotations

import io
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nas_proxy.core.files import write_atomically

_MIN_SIDE = 48  # pixels on the screen for one image; smaller ones are enlarged without smoothing
_MAX_COLUMNS = 10
_MAX_ROWS = 20


def write_image_grid(path: Path, images: Tensor, images_per_class: int) -> None:
    """A PNG with one row for each class: its first ten images; twenty classes at most.

    Args:
        path: Where to.
        images: uint8, `(num_classes * images_per_class, c, h, w)`, class by class; c is 1 or 3.
        images_per_class: How many belong to each class.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
    """
    from torchvision.utils import make_grid  # takes as long to import as torch itself

    columns = min(images_per_class, _MAX_COLUMNS)
    rows = images.unflatten(0, (-1, images_per_class))[:_MAX_ROWS, :columns].flatten(0, 1).cpu()
    scale = max(1, -(-_MIN_SIDE // rows.shape[-1]))
    enlarged = F.interpolate(rows.float(), scale_factor=scale, mode="nearest").to(torch.uint8)
    grid = make_grid(enlarged, nrow=columns, padding=2, pad_value=255)
    buffer = io.BytesIO()
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())
