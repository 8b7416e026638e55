"""The data sets by name, and how each becomes three parts that share no image.

`load_splits` is the way in; `DATASETS` lists what there is. The test part never depends on the
seed: where the authors set none aside, the same fifth of each class is held out whatever the
settings, so that no run has trained on what another tests with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_proxy.data._found import (
    FETCH_ERRORS,
    DatasetSource,
    DataSettings,
    FoundImages,
    not_fetched,
    not_found,
    required_image_size,
    torchvision_datasets,
)
from nas_proxy.data._kept_splits import Identity, identity_below, keep, read_kept
from nas_proxy.data._torchvision_sets import FIND_TORCHVISION
from nas_proxy.data.arrays import find_arrays
from nas_proxy.data.descriptions import DATASET_WORDS
from nas_proxy.data.folder import (
    data_root,
    left_out_words,
    list_folder,
    read_images,
    user_cache_folder,
)
from nas_proxy.data.given import given_splits
from nas_proxy.data.splits import shared_images, stratified_split
from nas_proxy.data.transforms import channel_statistics, resize
from nas_proxy.errors import DataError, did_you_mean
from nas_proxy.reproducibility import content_hash, derive_seed, make_generator
from nas_proxy.types import DatasetSpec, ImageDataset, Progress, Splits, no_progress

__all__ = ["DATASETS", "DataSettings", "DatasetSource", "FoundImages", "load_splits"]

TEST_FRACTION = 0.2
"""Share of each class that is held out where a data set has no test part of its own."""

IMAGENETTE_COUNTS = (9469, 3925)
"""Images of Imagenette's train/ and val/: fewer mean that unpacking was interrupted."""


def load_splits(
    settings: DataSettings,
    *,
    progress: Progress = no_progress,
    say: Callable[[str], None] | None = None,
) -> Splits:
    """Load a data set and divide it, stratified by class and deterministically.

    Args:
        settings: The configuration section `data`.
        progress: Told about image files read and decoded.
        say: Told what of a folder was left out, and if the data set itself holds the same image in
            two parts; None: the latter is not looked at.

    Returns:
        Three parts that share no file and one specification, whose mean, deviation and hash are
        those of search_train.

    Raises:
        DataError: If the data set is unknown, missing or damaged, a class is unknown or has too
            few images; the message says how to mend it.

    >>> import nas_proxy as nas
    >>> load_splits(nas.dataset("digits")).spec.image_shape
    (1, 8, 8)
    """
    if settings.name not in DATASETS:
        folder = Path(settings.name).expanduser()
        if folder.is_dir():
            raise DataError(
                f"data.name: {settings.name!r} is a folder and no data set; say name: image_folder "
                f"and root: {settings.name}, with an image_size such as 64"
            )
        raise DataError(
            f"data.name: there is no data set {settings.name!r}; "
            f"{did_you_mean(settings.name, DATASETS)}"
        )
    given = given_splits(settings)
    if given is not None:
        return given
    source = DATASETS[settings.name]
    identity = source.identity(settings)
    kept = read_kept(settings, identity, source.licence) if identity else None
    if kept is None:
        found = source.find(settings, progress)
        if say is not None and found.notice:
            say(f"data: {found.notice}")
        splits = replace(_divided(found, source, settings), left_out=found.notice)
        shared = None
        identity = identity or source.identity(settings)  # it may have been fetched just now
        if identity:
            shared = shared_images(splits)
            splits = keep(splits, settings, identity, shared)
    else:
        splits, shared = kept
    if say is not None:
        for sentence in shared_images(splits) if shared is None else shared:
            say(f"data: {sentence}")
    return splits


def _divided(found: FoundImages, source: DatasetSource, settings: DataSettings) -> Splits:
    names, labels = _choose_classes(found, settings)
    is_test = _hold_out(labels, names) if found.is_test is None else found.is_test
    tested = _members(is_test & (labels >= 0))
    parts = (*_divide(labels, ~is_test, found.is_val, names, settings), tested)
    divided = found.read(parts)
    if settings.image_size is not None:
        divided = [resize(images, settings.image_size) for images in divided]
    num_channels, height, width = divided[0].shape[1:]
    mean, std = channel_statistics(divided[0])
    spec = DatasetSpec(
        name=settings.name,
        class_names=names,
        image_shape=(num_channels, height, width),
        mean=mean,
        std=std,
        licence=source.licence,
        source_hash=content_hash(divided[0], labels[parts[0]]),
    )
    train, val, test = (
        ImageDataset(images, labels[part], spec)
        for images, part in zip(divided, parts, strict=True)
    )
    return Splits(search_train=train, search_val=val, test=test)


def _take(images: Tensor, parts: Sequence[Tensor]) -> list[Tensor]:
    return [images[part] for part in parts]


def _members(mask: Tensor) -> Tensor:
    return torch.nonzero(mask).flatten()


def _choose_classes(found: FoundImages, settings: DataSettings) -> tuple[tuple[str, ...], Tensor]:
    """The names and labels of the classes to keep; the other images get the label -1."""
    if settings.classes is None:
        return found.class_names, found.labels
    kept = [_class_label(given, found.class_names, settings.name) for given in settings.classes]
    names = tuple(found.class_names[label] for label in kept)
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise DataError(f"data.classes names the class {twice[0]!r} of {settings.name} twice")
    if len(names) < 2:
        raise DataError(f"data.classes has {len(names)} class(es); at least two are needed")
    renumbered = torch.full((len(found.class_names),), -1)
    renumbered[torch.tensor(kept)] = torch.arange(len(kept))
    return names, renumbered[found.labels]


def _class_label(given: str | int, names: Sequence[str], dataset: str) -> int:
    if str(given) in names:  # before indices: a folder's classes may be called 1, 2 and 10
        return names.index(str(given))
    named_by_numbers = any(name.isdigit() for name in names)
    if isinstance(given, int) and not named_by_numbers and 0 <= given < len(names):
        return given
    labels = "" if named_by_numbers else f", or a label from 0 to {len(names) - 1}"
    raise DataError(
        f"data.classes: {dataset} has no class {given!r}; {did_you_mean(str(given), names)}{labels}"
    )


def _hold_out(labels: Tensor, names: Sequence[str]) -> Tensor:
    """Which images are for testing, bool `(n,)`: decided class by class from its name alone."""
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for label, name in enumerate(names):
        members = _members(labels == label)
        if len(members) < 3:
            raise DataError(
                f"class {name!r} has {len(members)} image(s), but three are needed: to train, to "
                "validate and to test; give it more, or leave it out of data.classes"
            )
        generator = make_generator(derive_seed("test", name))
        _, held_out = stratified_split(labels[members], TEST_FRACTION, generator)
        is_test[members[held_out]] = True
    return is_test


def _divide(
    labels: Tensor,
    trainable: Tensor,
    is_val: Tensor | None,
    names: Sequence[str],
    settings: DataSettings,
) -> tuple[Tensor, Tensor]:
    """The indices of search_train and search_val, each in ascending order."""
    generator = make_generator(derive_seed("split", settings.seed))
    if is_val is not None:  # the authors' own part
        train = _limited(labels, trainable & ~is_val, names, settings, generator, needed=1)
        return train, _members(is_val & (labels >= 0))
    indices = _limited(labels, trainable, names, settings, generator, needed=2)
    first, second = stratified_split(labels[indices], settings.val_fraction, generator)
    return indices[first], indices[second]


def _limited(
    labels: Tensor,
    trainable: Tensor,
    names: Sequence[str],
    settings: DataSettings,
    generator: torch.Generator,
    *,
    needed: int,
) -> Tensor:
    """Indices of at most `images_per_class` images of each class, in ascending order."""
    pool = []
    for label, name in enumerate(names):
        members = _members(trainable & (labels == label))
        limit = settings.images_per_class or len(members)
        if len(members) < limit:
            raise DataError(
                f"class {name!r} of {settings.name} has {len(members)} training image(s), but "
                f"data.images_per_class asks for {limit}; lower it or give the class more images"
            )
        if limit < needed:
            why = (
                "two are needed: one to train, one to validate" if needed == 2 else "one is needed"
            )
            raise DataError(
                f"class {name!r} of {settings.name} has {limit} training image(s), but {why}; "
                "add more or raise data.images_per_class"
            )
        pool.append(members[torch.randperm(len(members), generator=generator)[:limit]])
    return torch.cat(pool).sort().values


def _find_digits(settings: DataSettings, progress: Progress) -> FoundImages:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("data set 'digits' comes with scikit-learn: install that first") from error
    data = load_digits()
    images = torch.from_numpy((data["images"] * (255 / 16)).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(data["target"].astype(np.int64))
    return FoundImages(tuple(map(str, data["target_names"])), labels, None, partial(_take, images))


def _identify_digits(settings: DataSettings) -> Identity:
    try:
        return [(f"scikit-learn {version('scikit-learn')}", 0, 0)]
    except PackageNotFoundError:
        return []


def _find_cifar(name: str, settings: DataSettings, progress: Progress) -> FoundImages:
    """CIFAR from the authors' files, which torchvision unpickles after checking their md5."""
    data_class = getattr(torchvision_datasets(), name)
    root, origin = data_root(settings.root)
    try:
        train, test = (
            data_class(str(root), train=is_train, download=settings.download)
            for is_train in (True, False)
        )
    except FETCH_ERRORS as error:
        folder = root / data_class.base_folder
        faults = _faults(data_class, folder)
        # torchvision does not fetch again for the file of class names alone.
        if settings.download and faults.keys() - {data_class.meta["filename"]}:
            raise not_fetched(data_class.url, folder, error) from error
        if not folder.is_dir():
            raise not_found(name, root, origin, data_class.base_folder, "170 MB") from error
        raise DataError(
            f"{name} in {folder} cannot be used: {', '.join(faults.values()) or error}; delete "
            "that folder, then put a whole copy there or pass data.download=true to fetch one"
        ) from error
    pixels = np.concatenate([part.data.transpose(0, 3, 1, 2) for part in (train, test)])
    labels = torch.tensor(train.targets + test.targets)
    is_test = torch.arange(len(labels)) >= len(train.targets)
    read = partial(_take, torch.from_numpy(pixels))
    return FoundImages(tuple(train.classes), labels, is_test, read)


def _identify_cifar(folder: str, settings: DataSettings) -> Identity:
    return identity_below(data_root(settings.root)[0] / folder, "*")


def _identify_arrays(settings: DataSettings) -> Identity:
    file = data_root(settings.root)[0]
    return identity_below(file.parent, file.name)


def _faults(data_class: Any, folder: Path) -> dict[str, str]:
    """Which of CIFAR's files are missing or damaged, and how in words."""
    from torchvision.datasets.utils import check_integrity

    meta = (data_class.meta["filename"], data_class.meta["md5"])
    faults = {}
    for name, md5 in [*data_class.train_list, *data_class.test_list, meta]:
        try:
            if not (folder / name).exists():
                faults[name] = f"{name} is missing"
            elif not check_integrity(folder / name, md5):
                faults[name] = f"{name} is damaged (its md5 is not the published one)"
        except OSError as error:
            faults[name] = f"{name} cannot be read ({error.strerror})"
    return faults


def _find_image_folder(settings: DataSettings, progress: Progress) -> FoundImages:
    image_size = required_image_size(settings)
    root, origin = data_root(settings.root)
    if root == user_cache_folder() or not root.is_dir():
        raise DataError(
            f"there is no image folder {root} (from {origin}): data.root must name the folder "
            "with train/<class>/ or <class>/"
        )
    listing = list_folder(root)
    read = partial(read_images, listing, image_size=image_size, progress=progress)
    notice = left_out_words(root, listing.left_out, listing.unread)
    return FoundImages(listing.class_names, listing.labels, listing.is_test, read, notice=notice)


def _find_imagenette(settings: DataSettings, progress: Progress) -> FoundImages:
    imagenette = torchvision_datasets().Imagenette
    image_size = required_image_size(settings)  # before anything is fetched
    root, origin = data_root(settings.root)
    folder = root / "imagenette2-160"
    if not settings.download and not folder.is_dir():
        raise not_found("Imagenette", root, origin, folder.name, "100 MB")
    try:
        data = imagenette(str(root), split="train", size="160px", download=settings.download)
        listing = list_folder(folder)
    except (*FETCH_ERRORS, DataError) as error:
        if folder.is_dir():  # torchvision takes it for complete
            raise _incomplete(folder, str(error)) from error
        raise not_fetched(imagenette._ARCHIVES["160px"][0], folder, error) from error
    num_test = 0 if listing.is_test is None else int(listing.is_test.sum())
    counts = (len(listing.files) - num_test, num_test)
    if counts != IMAGENETTE_COUNTS:
        expected = " + ".join(map(str, IMAGENETTE_COUNTS))
        raise _incomplete(folder, f"it has {counts[0]} + {counts[1]} images instead of {expected}")
    class_names = tuple(names[0] for names in data.classes)
    read = partial(read_images, listing, image_size=image_size, progress=progress)
    return FoundImages(class_names, listing.labels, listing.is_test, read)


def _incomplete(folder: Path, reason: str) -> DataError:
    return DataError(
        f"Imagenette in {folder} is incomplete ({reason}): delete that folder, then put a whole "
        "copy there or pass data.download=true to fetch one"
    )


_FIND: Mapping[str, Callable[[DataSettings, Progress], FoundImages]] = {
    "digits": _find_digits,
    "cifar10": partial(_find_cifar, "CIFAR10"),
    "cifar100": partial(_find_cifar, "CIFAR100"),
    "imagenette": _find_imagenette,
    "image_folder": _find_image_folder,
    "arrays": find_arrays,
    **FIND_TORCHVISION,
}

# Sets that are not mapped from files of their own.
_IDENTITY: Mapping[str, Callable[[DataSettings], Identity]] = {
    "digits": _identify_digits,
    "cifar10": partial(_identify_cifar, "cifar-10-batches-py"),
    "cifar100": partial(_identify_cifar, "cifar-100-python"),
    "arrays": _identify_arrays,
}

DATASETS: Mapping[str, DatasetSource] = {
    name: DatasetSource(
        words.summary, words.licence, _FIND[name], _IDENTITY.get(name, lambda settings: [])
    )
    for name, words in DATASET_WORDS.items()
}
"""The data sets that `data.name` may name."""
