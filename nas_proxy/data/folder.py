"""Folders of images: listing them, decoding them in parallel, keeping what was decoded.

Each selection of images is decoded into a file below `cache_folder()`, which `decoded.py` writes
and maps. Its name is a hash of what it was made from, and one of the order in which it holds that:
an image that is edited, added or removed gives another name, and a stale file is never read; the
same images in another order are copied from the file that has them.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from nas_proxy.data._decoded import copy_decoded, keep_decoded, read_decoded
from nas_proxy.data._listing import (
    IMAGE_ENDINGS,
    FolderListing,
    images_below,
    left_out_words,
    list_folder,
    printable,
)
from nas_proxy.errors import DataError
from nas_proxy.reproducibility import content_hash
from nas_proxy.types import Progress, no_progress

logger = logging.getLogger("nas_proxy")

__all__ = [
    "IMAGE_ENDINGS",
    "FolderListing",
    "cache_folder",
    "data_root",
    "decode",
    "images_below",
    "left_out_words",
    "list_folder",
    "printable",
    "read_images",
    "square",
    "to_rgb",
    "user_cache_folder",
]

FORMAT_VERSION = 1
"""Raised by hand when decoding changes, so that older cache files are not read."""

_FILES_PER_TASK = 16
_MAX_THREADS = 16

_Result = TypeVar("_Result")


def user_cache_folder() -> Path:
    """`$XDG_CACHE_HOME/nas_proxy`, or `~/.cache/nas_proxy` without that variable."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base).absolute() / "nas_proxy"


def data_root(root: str | None) -> tuple[Path, str]:
    """The absolute folder where data sets are looked for, and in words what named it.

    Args:
        root: The setting `data.root`; without it, $NAS_PROXY_DATA or `user_cache_folder()`.
    """
    variable = os.environ.get("NAS_PROXY_DATA")
    if root:
        return Path(os.path.expanduser(root)).absolute(), "data.root"
    if variable:
        return Path(os.path.expanduser(variable)).absolute(), "NAS_PROXY_DATA"
    return user_cache_folder(), "the default; set data.root for another"


def cache_folder(of: str = "decoded") -> Path:
    """Where decoded images are kept, and `of` what else a machine makes once.

    It is a folder of that name in $NAS_PROXY_CACHE or the user's cache folder.
    """
    base = os.environ.get("NAS_PROXY_CACHE")
    folder = Path(os.path.expanduser(base)).absolute() if base else user_cache_folder()
    return folder / of


def read_images(
    listing: FolderListing,
    parts: Sequence[Tensor],
    *,
    image_size: int,
    progress: Progress = no_progress,
) -> list[Tensor]:
    """Map decoded images, from a file that is made first where there is none.

    What is written into the result is seen by this process alone; the file stays as it is. Where
    no file can be made, the images are in memory, after a warning.

    Args:
        listing: What `list_folder` found.
        parts: Which of its files to read, int64, `(k,)` each.
        image_size: Height and width of the result; see `decode`.
        progress: Told about the files read, and decoded or copied if they must be.

    Returns:
        The images of each part, uint8, `(k, 3, image_size, image_size)`.

    Raises:
        DataError: If a file cannot be read or decoded, see `decode`, or neither the disk nor the
            memory can hold the images.
    """
    order = torch.cat(list(parts))
    listed, rows = order.sort()
    names = [listing.files[index] for index in listed.tolist()]
    selection = _selection_key(listing.root, names, image_size, progress)
    path = cache_folder() / f"{selection}-{content_hash(rows)}.images"
    shape = (len(order), 3, image_size, image_size)

    def pixels() -> Iterator[NDArray[np.uint8]]:
        for other in sorted(path.parent.glob(f"{selection}-*")):
            kept = read_decoded(other, shape) if other != path else None
            if kept is not None:
                return copy_decoded(kept[1], kept[0][rows.argsort().numpy()], progress=progress)
        files = [listing.files[index] for index in order.tolist()]
        return decode(listing.root, files, image_size, progress=progress)

    kept = read_decoded(path, shape)
    if kept is None:
        images = keep_decoded(path, shape, rows=rows.numpy(), pixels=pixels)
    else:
        images = kept[1]
    starts = np.cumsum([len(part) for part in parts])[:-1]
    return [torch.from_numpy(part) for part in np.split(images, starts)]


def decode(
    root: Path, files: Sequence[str], image_size: int, *, progress: Progress = no_progress
) -> Iterator[NDArray[np.uint8]]:
    """Decode images to RGB squares, in parallel; few are in memory at a time.

    The camera's orientation is applied. The shorter side is resized to `image_size` (bilinear
    with antialiasing) and the middle of the longer one is kept, as torchvision's `Resize` and
    `CenterCrop` do; squares are resized as they are. Transparency is dropped, 16-bit greys are
    divided by 257.

    Yields:
        The images in the order of `files`, uint8, `(3, image_size, image_size)`.

    Raises:
        DataError: At the end, if files are damaged or hold no image; the message gives their
            number, and the first five with what is wrong.
    """

    def work(path: Path) -> NDArray[np.uint8]:
        with Image.open(path) as image:
            resized = square(to_rgb(ImageOps.exif_transpose(image)), image_size)
        return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))

    return _for_each_file(root, files, work, progress, "decoding")


def to_rgb(image: Image.Image) -> Image.Image:
    """Colours of any image with a known range of values; others are a ValueError."""
    if image.mode == "RGB":
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow would clip at 255, and make nearly every pixel of a 16-bit image white.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its values do not fit 16 bits")
        grey = ((values + 128) // 257).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode == "P":
        return image.convert("RGBA").convert("RGB")  # a warning otherwise, if it is transparent
    return image.convert("RGB")


def square(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to `size` and keep the middle, without making the parts cut off."""
    (width, height), short = image.size, min(image.size)
    full = (size * width // short, size * height // short)
    left, top = (round((side - size) / 2) for side in full)
    scale_x, scale_y = width / full[0], height / full[1]
    box = (
        left * scale_x,
        top * scale_y,
        min((left + size) * scale_x, width),
        min((top + size) * scale_y, height),
    )
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def _for_each_file(
    root: Path,
    files: Sequence[str],
    work: Callable[[Path], _Result],
    progress: Progress,
    note: str,
) -> Iterator[_Result]:
    """Yield `work(path)` of every file, done in threads; at the end raise for all that failed."""

    def run(start: int) -> tuple[list[_Result], list[str]]:
        results, faults = [], []
        for file in files[start : start + _FILES_PER_TASK]:
            try:
                results.append(work(root / file))
            except Exception as error:  # noqa: BLE001 - Pillow's decoders raise anything
                faults.append(f"{printable(file)} ({_reason(error)})")
        return results, faults

    damaged: list[str] = []
    num_threads = min(os.cpu_count() or 1, _MAX_THREADS)
    executor = ThreadPoolExecutor(num_threads)
    starts = range(0, len(files), _FILES_PER_TASK)
    tasks = (executor.submit(run, start) for start in starts)
    try:
        # Not all at once: results that nobody has taken yet would fill the memory.
        pending = deque(islice(tasks, 2 * num_threads))
        for start in starts:
            results, faults = pending.popleft().result()
            pending.extend(islice(tasks, 1))
            yield from results
            damaged += faults
            progress(min(start + _FILES_PER_TASK, len(files)), len(files), note)
    finally:
        executor.shutdown(cancel_futures=True)  # an interrupted run does not decode the rest
    if damaged:
        more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        raise DataError(
            f"{len(damaged)} of {len(files)} images in {root} cannot be read: "
            f"{', '.join(damaged[:5])}{more}; replace or delete them"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is empty or not an image"  # Pillow's message repeats the path
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error) or type(error).__name__


def _selection_key(root: Path, files: Sequence[str], image_size: int, progress: Progress) -> str:
    def work(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    digests = list(_for_each_file(root, files, work, progress, "reading"))
    # Pillow's versions decode and resize slightly differently.
    maker = ["decoded", FORMAT_VERSION, PIL.__version__, image_size]
    return content_hash(maker, list(files), digests, length=32)
