"""Where images come from: a folder, a data set by its name, or arrays in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas_proxy.api.calls import one_sentence
from nas_proxy.data.arrays import Channels, ImageArrays
from nas_proxy.data.sources import DATASETS, DataSettings
from nas_proxy.errors import DataError, did_you_mean
from nas_proxy.study.plain_values import read_options

Classes = Sequence[str | int]


@one_sentence
def image_folder(
    root: str | Path,
    *,
    image_size: int,
    classes: Classes | None = None,
    images_per_class: int | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> DataSettings:
    """Your own images: a folder with a folder for each class.

    Args:
        root: Holds `<class>/*`, or `train/<class>/*` beside `val/` or `test/`. Without a `test/` a
            fifth of each class is held out.
        image_size: Height and width in pixels that images are cut and resized to.
        classes: Which to keep, by name, in this order; None keeps all.
        images_per_class: Limit of training images of each class; None keeps all.
        val_fraction: Share of the training images that measures candidates, where the folder has
            no part for that.
        seed: Of the limit's draw and the division.

    Returns:
        The section `data` of a configuration; nothing is read yet.

    Raises:
        DataError: If there is no such folder.
        ConfigError: If a value is out of its range.

    >>> import tempfile, nas_proxy as nas
    >>> nas.image_folder(tempfile.gettempdir(), image_size=64).name
    'image_folder'
    """
    if not Path(root).expanduser().is_dir():
        raise DataError(
            f"there is no folder {root}; give the one that holds a folder for each class"
        )
    return _settings(
        name="image_folder",
        root=str(root),
        image_size=image_size,
        classes=classes,
        images_per_class=images_per_class,
        val_fraction=val_fraction,
        seed=seed,
    )


@one_sentence
def dataset(
    name: str,
    *,
    root: str | Path | None = None,
    download: bool = False,
    classes: Classes | None = None,
    images_per_class: int | None = None,
    image_size: int | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> DataSettings:
    """A known data set: `digits`, `cifar10`, `imagenette`, or one of torchvision's by its name.

    Args:
        name: One of those that `nas-proxy list datasets` shows.
        root: Folder with its files; None is $NAS_PROXY_DATA or else the user's cache folder.
        download: Whether it may be fetched from its authors' site.
        classes: Which to keep, by name or label, renumbered in this order; None keeps all.
        images_per_class: Limit of training images of each class; None keeps all.
        image_size: Height and width in pixels; None keeps the data set's own.
        val_fraction: Share of the training images that measures candidates, where the data set has
            no part for that.
        seed: Of the limit's draw and the division.

    Returns:
        The section `data` of a configuration; nothing is read yet.

    Raises:
        DataError: If no data set has the name.
        ConfigError: If a value is out of its range.

    >>> import nas_proxy as nas
    >>> nas.dataset("digits", classes=[3, 8], images_per_class=50).classes
    (3, 8)
    """
    if name not in DATASETS:
        raise DataError(f"there is no data set {name!r}; {did_you_mean(name, DATASETS)}")
    return _settings(
        name=name,
        root=None if root is None else str(root),
        download=download,
        classes=classes,
        images_per_class=images_per_class,
        image_size=image_size,
        val_fraction=val_fraction,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images in memory, as `arrays` gives them.

    Attributes:
        arrays: The images themselves.
        settings: How they are divided.
    """

    arrays: ImageArrays
    settings: DataSettings

    def file(self, folder: Path) -> DataSettings:
        """The section `data` that reads them from a file below `folder`, which `save` writes."""
        return replace(self.settings, root=str(self.arrays.path(folder)))

    def save(self, folder: Path) -> DataSettings:
        """Write the file, for other processes and the command line; see `ImageArrays.save`."""
        self.arrays.save(folder)
        return self.file(folder)

    def _repr_html_(self) -> str:
        from nas_proxy.core.notebook import table

        shape = " x ".join(map(str, self.arrays.images.shape))
        return table("Images in memory", {"images": shape, "classes": self.arrays.class_names})


@one_sentence
def arrays(
    images: Any,
    labels: Any,
    *,
    class_names: Sequence[str] | None = None,
    test: tuple[Any, Any] | None = None,
    channels: Channels | None = None,
    images_per_class: int | None = None,
    image_size: int | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> ArrayImages:
    """Images that are in memory, such as numpy arrays and tensors.

    A study writes them into its folder once, under the hash of their content, so that worker
    processes and the command line read the same.

    Args:
        images: `(n, h, w)`, `(n, h, w, c)` or `(n, c, h, w)`; whole numbers from 0 to 255, or
            fractions from 0 to 1, which are rounded to as many levels.
        labels: `(n,)`: names, or whole numbers.
        class_names: Those that whole numbers from 0 stand for; None: classes are called as the
            labels are, in their order.
        test: Images and labels that nothing is chosen by; None: a fifth of each class is held out.
        channels: The axis that they are on, "first" or "last"; None: the one that can be it.
        images_per_class: Limit of training images of each class; None keeps all.
        image_size: Height and width in pixels; None keeps those that they have.
        val_fraction: Share of the training images that measures candidates.
        seed: Of the limit's draw and the division.

    Raises:
        DataError: If they are no images with classes; the message says what to give.
        ConfigError: If a value is out of its range.

    >>> import numpy as np, nas_proxy as nas
    >>> images = np.zeros((40, 16, 16, 3), dtype=np.uint8)
    >>> nas.arrays(images, ["cat", "dog"] * 20).arrays.class_names
    ('cat', 'dog')
    """
    made = ImageArrays.of(images, labels, class_names=class_names, test=test, channels=channels)
    settings = _settings(
        name="arrays",
        images_per_class=images_per_class,
        image_size=image_size,
        val_fraction=val_fraction,
        seed=seed,
    )
    return ArrayImages(made, settings)


def _settings(**options: Any) -> DataSettings:
    """Checked as a configuration's section is."""
    given = {name: value for name, value in options.items() if value is not None}
    return read_options(DataSettings, given)
