"""Decoded images in files that are mapped rather than read.

Decoded images may not fit into memory, and decoding costs far more than reading the result back.
So they go straight into a file, and that file is mapped: the system reads what is looked at,
shares it between processes, and drops it when memory is short.

A file holds, one after another, the SHA-256 of the rest, the row of each image in the listing's
order (int64), and the pixels.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import mmap
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from nas_proxy.core.files import new_file
from nas_proxy.errors import DataError
from nas_proxy.types import Progress

logger = logging.getLogger("nas_proxy")

_STALE_SECONDS = 3600  # a living process writes to its unfinished file all the time

# Without this flag Linux refuses a private mapping that is larger than the memory; Python before
# 3.13 does not name it.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


def read_decoded(
    path: Path, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]] | None:
    """Rows and images of a file, mapped; None if it is missing or not what was written.

    Args:
        path: The file.
        shape: `(n, c, h, w)` of its images.
    """
    try:
        with path.open("rb") as file:
            expected = file.read(hashlib.sha256().digest_size)
            if hashlib.file_digest(file, "sha256").digest() == expected:
                return _map(file, shape)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        logger.warning("cached images %s cannot be read (%s) and are made again", path, error)
        return None
    logger.warning("cached images %s are damaged and are made again", path)
    return None


def _map(file: BinaryIO, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Rows and images; pages that are written to become copies of this process alone."""
    content = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | _NO_RESERVE)
    start = hashlib.sha256().digest_size
    rows = np.frombuffer(content, np.int64, shape[0], start)
    return rows, np.frombuffer(content, np.uint8, offset=start + rows.nbytes).reshape(shape)


def copy_decoded(
    images: NDArray[np.uint8], rows: NDArray[np.int64], *, progress: Progress
) -> Iterator[NDArray[np.uint8]]:
    """The images of the given rows, in their order, for a file that holds them in another."""
    for done, row in enumerate(rows.tolist(), start=1):
        yield images[row]
        progress(done, len(rows), "copying")


def keep_decoded(
    path: Path,
    shape: tuple[int, ...],
    *,
    rows: NDArray[np.int64],
    pixels: Callable[[], Iterator[NDArray[np.uint8]]],
) -> NDArray[np.uint8]:
    """Write images to a file and map it; if it cannot be written, gather them in memory.

    Args:
        path: The file to be.
        shape: `(n, c, h, w)` of the images.
        rows: The row of each image in the listing's order, `(n,)`.
        pixels: Starts decoding or copying from the first image on; yields uint8 `(c, h, w)`.

    Raises:
        DataError: If neither the disk nor the memory can hold the images.
    """
    num_bytes = math.prod(shape)
    try:
        return write_decoded(path, shape, rows=rows, pixels=pixels)
    except OSError as error:
        reason = f"{path} cannot be written ({error})"
    logger.warning(
        "decoded images are not kept: %s; they take %.1f GB of memory", reason, num_bytes / 1e9
    )
    try:
        images = np.empty(shape, np.uint8)
    except MemoryError as error:
        raise DataError(
            f"{shape[0]} images of {shape[2]}x{shape[3]} do not fit into memory, and {reason}: "
            "set NAS_PROXY_CACHE to a folder with room for them, or lower data.images_per_class "
            "or data.image_size"
        ) from error
    for row, image in enumerate(pixels()):
        images[row] = image
    return images


def write_decoded(
    path: Path,
    shape: tuple[int, ...],
    *,
    rows: NDArray[np.int64],
    pixels: Callable[[], Iterator[NDArray[np.uint8]]],
) -> NDArray[np.uint8]:
    """Write images to a file and map it; the arguments are those of `keep_decoded`.

    Raises:
        OSError: If it cannot be written.
    """
    _make_room(path, math.prod(shape))
    with new_file(path) as file:
        digest = hashlib.sha256(rows.data)
        file.write(bytes(digest.digest_size))
        file.write(rows.data)
        for image in pixels():
            digest.update(image.data)
            file.write(image.data)
        file.seek(0)
        file.write(digest.digest())
    with path.open("rb") as file:
        return _map(file, shape)[1]


def _make_room(path: Path, num_bytes: int) -> None:
    """Remove what killed processes left of a file; refuse to begin one that cannot be finished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*"):
        with suppress(FileNotFoundError):  # another process has just finished it
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                left.unlink()
    if shutil.disk_usage(path.parent).free < num_bytes:  # known before hours of decoding
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
