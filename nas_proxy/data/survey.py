"""A look at a folder of images before anything is configured: every file is opened once."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nas_proxy.data._listing import FolderListing, left_out_words, list_folder, printable
from nas_proxy.types import Progress, no_progress

SIZES = (8, 16, 24, 32, 48, 64)
"""Heights that are proposed: beyond the last one a CPU takes too long for a first study."""
_MAX_THREADS = 16


@dataclass(frozen=True)
class FolderSurvey:
    """What a folder of images holds.

    Attributes:
        counts: Images of each class that can be trained on, in label order.
        num_test: Images of the folder's own test part; None where it has none.
        shorter_side: Median over the readable images, in pixels.
        smallest: The smallest shorter side.
        unreadable: Files that are no images, or damaged, relative to the folder.
        notice: What of the folder is left out, a sentence; empty if nothing is.
    """

    counts: dict[str, int]
    num_test: int | None
    shorter_side: int
    smallest: int
    unreadable: tuple[str, ...]
    notice: str

    @property
    def image_size(self) -> int:
        """The largest of `SIZES` that does not blow up the median image; else the smallest."""
        return max((s for s in SIZES if s <= self.shorter_side), default=SIZES[0])

    @property
    def num_images(self) -> int:
        """Of all classes together, without the test part."""
        return sum(self.counts.values())


def survey_folder(root: Path, *, progress: Progress = no_progress) -> FolderSurvey:
    """Open every image of a folder.

    Args:
        root: See `nas_proxy.data.folder.list_folder` for the layouts.
        progress: Told about the files.

    Raises:
        DataError: If there are not at least two class folders with images; the message says which.
    """
    listing = list_folder(root)
    sides = _shorter_sides(listing, progress)
    readable = [side for side in sides if side is not None]
    is_test = [False] * len(sides) if listing.is_test is None else listing.is_test.tolist()
    names = [listing.class_names[label] for label in listing.labels.tolist()]
    usable = Counter(
        name
        for name, side, tests in zip(names, sides, is_test, strict=True)
        if side is not None and not tests
    )
    return FolderSurvey(
        counts={name: usable[name] for name in listing.class_names},
        num_test=None if listing.is_test is None else sum(is_test),
        shorter_side=int(statistics.median(readable)) if readable else 0,
        smallest=min(readable, default=0),
        unreadable=tuple(
            printable(file) for file, side in zip(listing.files, sides, strict=True) if side is None
        ),
        notice=left_out_words(root, listing.left_out, listing.unread),
    )


def _shorter_sides(listing: FolderListing, progress: Progress) -> list[int | None]:
    """Of each file in pixels; None of one that cannot be decoded."""

    def measure(file: str) -> int | None:
        try:
            with Image.open(listing.root / file) as image:
                image.load()
                return min(image.size)
        except Exception:  # noqa: BLE001 - Pillow's decoders raise anything
            return None

    found = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS)) as pool:
        for side in pool.map(measure, listing.files):
            found.append(side)
            progress(len(found), len(listing.files), "looking at images")
    return found
