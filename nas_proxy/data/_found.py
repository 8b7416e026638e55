"""What every source of images gives, and what it says where it finds none."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tarfile import TarError
from typing import Annotated, Any

from torch import Tensor

from nas_proxy.errors import ConfigError, DataError
from nas_proxy.options import Bound, NonNegativeInt, Options, PositiveInt
from nas_proxy.types import Progress

# What torchvision raises when it fetches, unpacks or checks a file.
FETCH_ERRORS = (OSError, RuntimeError, HTTPException, TarError, EOFError)


@dataclass(frozen=True, kw_only=True)
class DataSettings(Options):
    """The configuration section `data`.

    Attributes:
        name: One of `DATASETS`.
        root: Folder with the data; None is $NAS_PROXY_DATA or else the user's cache folder. Of
            `digits`, which come with scikit-learn, it is refused.
        classes: Classes to keep, by name or label, renumbered in this order; None keeps all. A
            number means the class of that name where classes are named by numbers.
        images_per_class: Limit of training images of each class, drawn at random before they
            are divided into search_train and search_val; None keeps all. Validation and test parts
            that a data set comes with have none.
        image_size: Height and width in pixels; None keeps the data set's own.
        val_fraction: Share of each class's training images that goes into search_val, where the
            data set has no validation part of its own.
        seed: Decides the limit's draw and the division; independent of the study's seed.
        download: Whether a missing data set may be fetched from its authors' site.
        ship: With `executor: ray`, send the decoded images to each node once, through Ray's object
            store, instead of looking for `root` there; at most 2 GB.

    >>> import nas_proxy as nas
    >>> DataSettings(name="digits", image_size=16) == nas.dataset("digits", image_size=16)
    True
    """

    name: str = "digits"
    root: str | None = None
    classes: tuple[str | NonNegativeInt, ...] | None = None
    images_per_class: PositiveInt | None = None
    image_size: PositiveInt | None = None
    val_fraction: Annotated[float, Bound(gt=0, lt=1)] = 0.2
    seed: NonNegativeInt = 0
    download: bool = False
    ship: bool = False

    def __post_init__(self) -> None:
        if self.name != "digits":
            return
        if self.root is not None:  # the default name too, of somebody who meant a folder
            raise ConfigError(
                f"digits come with scikit-learn and are not read from root={self.root!r}; take "
                "root out, or name the data set, such as name: image_folder for a folder of images"
            )
        if self.download:
            raise ConfigError("digits come with scikit-learn: take download out")


@dataclass(frozen=True, eq=False)
class FoundImages:
    """A data set before anything is chosen from it.

    Attributes:
        class_names: One name per class, in label order.
        labels: int64, `(n,)`.
        is_test: bool, `(n,)`; None where the data set has no test part of its own.
        is_val: bool, `(n,)`; None where it has no validation part of its own.
        read: From the indices `(k,)` of each part to its images, uint8 `(k, c, h, w)`.
        notice: What of it was left out, a sentence; empty if nothing was.
    """

    class_names: tuple[str, ...]
    labels: Tensor
    is_test: Tensor | None
    read: Callable[[Sequence[Tensor]], list[Tensor]]
    is_val: Tensor | None = None
    notice: str = ""


@dataclass(frozen=True)
class DatasetSource:
    """One entry of `DATASETS`.

    Attributes:
        summary: One line for `nas-proxy list datasets`.
        licence: The terms under which the images may be used, in words.
        find: Finds or fetches the data; raises DataError if it cannot.
        identity: What tells one content of the source from another, found without reading it;
            empty where there is none yet, or where `find` maps its images from a file of its own.
    """

    summary: str
    licence: str
    find: Callable[[DataSettings, Progress], FoundImages]
    identity: Callable[[DataSettings], list[tuple[str, int, int]]] = lambda settings: []


def not_found(name: str, root: Path, origin: str, folder: str, size: str) -> DataError:
    """What to say of a data set that is not there."""
    return DataError(
        f"{name} was not found in {root} (from {origin}): put {folder} there, or pass "
        f"data.download=true to fetch {size} from the authors' site"
    )


def not_fetched(url: str, folder: Path, error: Exception) -> DataError:
    """What to say of a download that failed."""
    reason = str(error).rstrip(".")
    if type(error) is RuntimeError:  # torchvision's own, from comparing checksums
        reason = f"the md5 of what arrived is not the published one ({reason})"
    return DataError(
        f"{url} could not be downloaded ({reason}): try again, or put its content in {folder}"
    )


def torchvision_datasets() -> Any:
    """`torchvision.datasets`, which is imported for the first that asks: it takes seconds."""
    is_new = "torchvision" not in sys.modules
    from torchvision import datasets

    if is_new:
        # The import leaves exceptions in circles that hold the frames of whoever asked. What these
        # will hold, such as all images several times, would stay until the garbage is collected.
        gc.collect()
    return datasets


def required_image_size(settings: DataSettings) -> int:
    """The size that a data set without one of its own must be given."""
    if settings.image_size is None:
        raise DataError(
            f"data.name={settings.name} needs data.image_size, such as 64: its images have no "
            "size in common"
        )
    return settings.image_size
