"""The pictures of docs/distillation.md: ten images of each class for each method.

python benchmarks/gallery.py --work results/benchmarks/unfinished --out docs/images/gallery
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from PIL import Image
from recipes import RECIPES
from torchvision.utils import make_grid

from nas_proxy.data.proxy_dataset import ProxyDataset

_QUALITY = 75  # of a JPEG: pictures to look at, not data to train on


def main() -> None:
    """Write a picture of every set that is there."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--work", type=Path, required=True, help="where the sets are")
    made.add_argument("--size", default="cpu", help="in the names of the sets")
    made.add_argument("--out", type=Path, required=True)
    arguments = made.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in RECIPES:
        file = arguments.work / f"{arguments.size}-{name}-10.safetensors"
        if file.is_file():
            pixels = ProxyDataset.load(file).pixels()
            columns = math.isqrt(len(pixels))
            grid = make_grid(pixels, nrow=columns, padding=1, pad_value=255)
            picture = Image.fromarray(grid.to(torch.uint8).permute(1, 2, 0).numpy())
            picture.save(arguments.out / f"{name}.jpg", quality=_QUALITY)
            print(arguments.out / f"{name}.jpg")


if __name__ == "__main__":
    main()
