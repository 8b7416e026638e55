"""Images that are in memory already: checked, kept in one file, and read from it as any data set.

The file is NumPy's `.npz` without pickles: `images`, `labels`, `class_names`, `is_test` and
`notice`. Every process that needs the images reads that file, and so does the command line.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from nas_proxy.core.files import write_atomically
from nas_proxy.data._found import DataSettings, FoundImages
from nas_proxy.data.folder import data_root
from nas_proxy.errors import DataError, first_line
from nas_proxy.reproducibility import content_hash
from nas_proxy.types import Progress

Channels = Literal["first", "last"]
_NUM_CHANNELS = (1, 3)
_LEVEL = 1e-3  # of the 255: nearer to one of them, nothing is lost
_MEMBERS = ("images", "labels", "class_names", "is_test", "notice")


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """Images in memory with their classes; `of` makes it from what a user has.

    Attributes:
        images: uint8, `(n, c, h, w)`, one or three channels.
        labels: int64, `(n,)`, in `[0, num_classes)`.
        class_names: In label order.
        is_test: bool, `(n,)`; empty where no test images were given.
        notice: What was changed to make them images of 8 bits, a sentence; empty if nothing was.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    is_test: NDArray[np.bool_]
    notice: str = ""

    @classmethod
    def of(
        cls,
        images: Any,
        labels: Any,
        *,
        class_names: Sequence[str] | None = None,
        test: tuple[Any, Any] | None = None,
        channels: Channels | None = None,
    ) -> ImageArrays:
        """Check what was given, and bring it into the one form.

        Args:
            images: `(n, h, w)`, `(n, h, w, c)` or `(n, c, h, w)`; whole numbers from 0 to 255, or
                fractions from 0 to 1. What numpy takes for an array, such as a tensor.
            labels: `(n,)`: names, or whole numbers.
            class_names: Those that whole numbers from 0 stand for; None: classes are called as
                the labels are, in their order.
            test: Images and labels that nothing is chosen by; None: a fifth is held out.
            channels: Which axis they are on; None: found where only one can be it.

        Raises:
            DataError: If they are no images with classes; the message says what to give.
        """
        pixels, notice = _pixels(images, channels, "images")
        words: list[Any] = [*_words(labels, len(pixels), "labels")]
        parts, is_test = [pixels], np.zeros(0, dtype=bool)
        if test is not None:
            more, more_notice = _pixels(test[0], channels, "test images")
            if more.shape[1:] != pixels.shape[1:]:
                raise DataError(
                    f"the test images are {more.shape[1:]}, not {pixels.shape[1:]} as the others"
                )
            is_test = np.arange(len(pixels) + len(more)) >= len(pixels)
            parts = [pixels, more]
            words += _words(test[1], len(more), "test labels")
            notice = notice or more_notice
        numbers, names = _numbered(words, class_names)
        return cls(np.concatenate(parts), numbers, names, is_test, notice)

    @cached_property
    def id(self) -> str:
        """Hash of everything."""
        words = (list(self.class_names), self.notice, self.is_test.tolist())
        return content_hash(torch.from_numpy(self.images), torch.from_numpy(self.labels), *words)

    def save(self, folder: Path) -> Path:
        """Write the file, unless it is there; its name is the hash of its content.

        Returns:
            The file, for `data.root`.

        Raises:
            OSError: If the folder cannot be written or the disk is full.
        """
        path = self.path(folder)
        if not path.is_file():
            buffer = io.BytesIO()
            members = {name: np.asarray(getattr(self, name)) for name in _MEMBERS}
            np.savez(buffer, **members)  # type: ignore[arg-type]
            write_atomically(path, buffer.getvalue())
        return path

    def path(self, folder: Path) -> Path:
        """Where `save` writes."""
        return folder / f"{self.id}.npz"


def find_arrays(settings: DataSettings, progress: Progress) -> FoundImages:
    """What `ImageArrays.save` wrote, or somebody else with the same names."""
    file, origin = data_root(settings.root)
    if not file.is_file():
        raise DataError(
            f"there is no file {file} (from {origin}): data.root must name an .npz file with "
            "images and labels, such as nas_proxy.arrays(...) writes"
        )
    try:
        with np.load(file, allow_pickle=False) as stored:
            given = {name: stored[name] for name in _MEMBERS if name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{file} cannot be read ({first_line(error)}): it must be an .npz file without pickles"
        ) from error
    missing = [name for name in ("images", "labels") if name not in given]
    if missing:
        raise DataError(f"{file} has no array called {missing[0]!r}; it needs images and labels")
    names = [str(each) for each in given["class_names"]] if "class_names" in given else None
    arrays = ImageArrays.of(given["images"], given["labels"], class_names=names)
    is_test = _stored_test(given.get("is_test"), len(arrays.labels), file)
    images = torch.from_numpy(arrays.images)
    return FoundImages(
        arrays.class_names,
        torch.from_numpy(arrays.labels),
        is_test,
        lambda parts: [images[part] for part in parts],
        notice=str(given.get("notice", "")) or arrays.notice,
    )


def _stored_test(stored: Any, num_images: int, file: Path) -> torch.Tensor | None:
    if stored is None or not stored.size:
        return None
    if stored.dtype != bool or stored.shape != (num_images,):
        raise DataError(f"is_test of {file} must be one truth value for each of the images")
    return torch.from_numpy(stored)


def _array(given: Any, what: str) -> NDArray[Any]:
    try:
        return np.asarray(given.detach().cpu() if isinstance(given, torch.Tensor) else given)
    except (TypeError, ValueError) as error:  # such as images of several sizes
        raise DataError(
            f"{what} are no single array ({first_line(error)}): give all of them one size and kind"
        ) from error


def _pixels(given: Any, channels: Channels | None, what: str) -> tuple[NDArray[np.uint8], str]:
    """uint8 `(n, c, h, w)`, and what was changed."""
    values = _array(given, what)
    if values.ndim == 3:
        values = values[:, None]
    elif values.ndim != 4 or not len(values):
        raise DataError(
            f"{what} must be (n, h, w), (n, h, w, c) or (n, c, h, w), got {values.shape}"
        )
    elif _channels(values.shape, channels, what) == "last":
        values = values.transpose(0, 3, 1, 2)
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values), ""
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise DataError(f"{what} must be numbers, got {values.dtype}")
    low, high = float(values.min()), float(values.max())
    if np.issubdtype(values.dtype, np.integer):
        if low < 0 or high > 255:
            raise DataError(f"{what} must be from 0 to 255, got {low:.0f} to {high:.0f}")
        return np.ascontiguousarray(values.astype(np.uint8)), ""
    if not (low >= 0 and high <= 1):  # NaN too
        raise DataError(
            f"{what} of type {values.dtype} must be from 0 to 1, got {low:.4g} to {high:.4g}; undo "
            "a normalisation, or bring them into that range"
        )
    scaled = values.astype(np.float64) * 255
    levels = scaled.round()
    lost = bool(np.abs(scaled - levels).max() > _LEVEL)
    notice = "brightness was rounded to 256 levels, which is what images have here" if lost else ""
    return np.ascontiguousarray(levels.astype(np.uint8)), notice


def _channels(shape: tuple[int, ...], channels: Channels | None, what: str) -> Channels:
    axes: dict[Channels, int] = {"first": shape[1], "last": shape[3]}
    if channels is not None and channels not in axes:
        raise DataError(f"channels must be first or last, got {channels!r}")
    possible: list[Channels] = [
        place for place, size in axes.items() if size in _NUM_CHANNELS and channels in (None, place)
    ]
    if len(possible) == 2:
        raise DataError(f"{what} of shape {shape}: say channels='first' or channels='last'")
    if not possible:
        raise DataError(f"{what} must have one or three channels, got the shape {shape}")
    return possible[0]


def _words(given: Any, num_images: int, what: str) -> list[int] | list[str]:
    """Labels as they were given, whole numbers or names."""
    values = _array(given, what)
    if values.shape != (num_images,):
        raise DataError(f"{what} must be ({num_images},), one for each image, got {values.shape}")
    words: list[Any] = values.tolist()
    if np.issubdtype(values.dtype, np.integer) or all(isinstance(each, str) for each in words):
        return words
    raise DataError(f"{what} must be whole numbers or names, got {values.dtype}")


def _numbered(
    words: Sequence[int | str], given: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The label of each image, and the names of the classes."""
    names = None if given is None else [str(each) for each in given]
    if len({type(word) for word in words}) > 1:
        raise DataError("the labels of test images must be of the kind of the others")
    if names is not None and len(set(names)) < len(names):
        raise DataError(f"class_names holds a name twice: {', '.join(names)}")
    are_names = isinstance(words[0], str)
    known: list[Any] = sorted(set(words))
    if names is not None:
        known = names if are_names else list(range(len(names)))
    numbers = {word: number for number, word in enumerate(known)}
    unknown = [word for word in words if word not in numbers]
    if unknown:
        among = "none of class_names" if are_names else f"not from 0 to {len(known) - 1}"
        raise DataError(f"the label {unknown[0]!r} is {among}")
    labels = np.array([numbers[word] for word in words], dtype=np.int64)
    return labels, tuple(names or map(str, known))
