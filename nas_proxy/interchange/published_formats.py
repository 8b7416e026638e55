"""The forms in which distilled sets are published: telling them apart, and reading each."""

from __future__ import annotations

import csv
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nas_proxy.data.folder import IMAGE_ENDINGS, decode, left_out_words, list_folder
from nas_proxy.errors import ProxyFileError
from nas_proxy.interchange._export_record import RECORD_FILE, ExportRecord
from nas_proxy.interchange.safe_load import load_safely, plain_tensor
from nas_proxy.types import DatasetSpec

logger = logging.getLogger("nas_proxy")

FormatName = Literal["dc", "mtt", "idc", "folder", "tensors"]

LABELS_TABLE = "labels.csv"
IMAGES = "images.pt"
STORED_IMAGES = "stored_images.pt"
LABELS = "labels.pt"

_LABEL_ENDINGS = (".pt", ".npy", ".safetensors")
_LABEL_NAMES = ("labels", "soft_labels")
_RATE_NAMES = ("lr", "syn_lr", "learning_rate")
_WHITENED_PICTURES = "images_zca_"
_FKD = (
    "labels of batches of augmented views (FKD), which belong to no single image; leave them out "
    "and label the images with distill.labels instead"
)


@dataclass(frozen=True, eq=False)
class PublishedSet:
    """What a file holds, before it is known what its numbers mean.

    Attributes:
        format: How it was read.
        images: `(n, c, h, w)`.
        labels: One for each image, or for each tile of one: `(m,)` or `(m, k)`.
        classes: The class that each image was made for, int64 `(n,)`; None where only the labels
            say it.
        learning_rate: That was learned with the images; None where there is none.
        num_sets: How many sets the file holds.
        name_says_whitened: Whether a file's or folder's name speaks of ZCA.
        record: What `export-proxy` wrote beside it; None for what others made.
    """

    format: FormatName
    images: Tensor
    labels: Tensor
    classes: Tensor | None = None
    learning_rate: float | None = None
    num_sets: int = 1
    name_says_whitened: bool = False
    record: ExportRecord | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """What to read.

    Attributes:
        path: A file or a folder.
        format: A `FormatName`; None finds out.
        index: Which set of a file that holds several.
        labels: File with the labels; None looks beside the images.
    """

    path: Path
    format: FormatName | None = None
    index: int = 0
    labels: Path | None = None


def read_published(source: Source, spec: DatasetSpec) -> PublishedSet:
    """Find out in what form a set is published, and read it.

    Args:
        source: What to read.
        spec: The data set that it was distilled from: names of class folders, size of pictures.

    Raises:
        ProxyFileError: If it is missing, damaged, of no known form, or would run code.
        DataError: If pictures in a folder are damaged.
    """
    if not source.path.exists():
        raise ProxyFileError(f"{source.path} does not exist")
    if source.path.is_dir():
        found = _formats_of_folder(source.path)
        content = None
    else:
        content = load_safely(source.path)
        found = [_format_of_file(source.path, content)]
    if source.format is not None and source.format not in found:
        raise ProxyFileError(
            f"{source.path} was to be read as {source.format}, but is of the form "
            f"{' or '.join(found)}; leave --format out"
        )
    chosen = source.format or found[0]
    if source.labels is not None and chosen not in ("mtt", "folder"):
        raise ProxyFileError(
            f"{source.path} is of the form {chosen}, which brings its labels; leave --labels out"
        )
    return _READERS[chosen](source, content, spec)


def _formats_of_folder(folder: Path) -> list[FormatName]:
    """What a folder can be read as, the most exact first."""
    if _is_fkd(folder):
        raise ProxyFileError(f"{folder} holds {_FKD}")
    has_pictures = any(
        path.suffix.lower() in IMAGE_ENDINGS for path in folder.glob("*/*") if path.is_file()
    )
    signs: dict[FormatName, bool] = {
        "tensors": (folder / RECORD_FILE).is_file() and (folder / IMAGES).is_file(),
        "mtt": any(folder.glob("images*.pt")),
        "idc": (folder / "data.pt").is_file(),
        "folder": has_pictures,
    }
    found = [name for name, there in signs.items() if there]
    if not found:
        raise ProxyFileError(
            f"{folder} holds none of what is published: images*.pt with labels*.pt, data.pt, or a "
            "folder of pictures for each class; name a file in it"
        )
    return found


def _is_fkd(folder: Path) -> bool:
    return any(folder.glob("epoch_*/batch_*.tar")) or any(folder.glob("batch_*.tar"))


def _format_of_file(path: Path, content: Any) -> FormatName:
    if isinstance(content, Tensor):
        return "tensors" if (path.parent / RECORD_FILE).is_file() else "mtt"
    if isinstance(content, Mapping) and "data" in content:
        return "dc"
    if isinstance(content, list | tuple):
        if len(content) == 2 and all(isinstance(part, Tensor) for part in content):
            return "idc"
        if len(content) == 6 and isinstance(content[-1], Tensor):
            raise ProxyFileError(f"{path} holds {_FKD}")
    if isinstance(content, Mapping):
        what = f"a mapping with the keys {', '.join(map(repr, list(content)[:5])) or '(none)'}"
    else:
        what = f"a {type(content).__name__}"
    raise ProxyFileError(
        f"{path} holds {what}, which is no published form: a mapping with 'data' (DC, DSA, DM), "
        "two tensors (IDC), or the tensor of images beside that of labels (MTT, DATM)"
    )


def _read_dc(source: Source, content: Any, spec: DatasetSpec) -> PublishedSet:
    sets = content["data"]
    if not isinstance(sets, list | tuple) or not sets:
        raise ProxyFileError(f"{source.path} holds no set under 'data'")
    if source.index >= len(sets):
        raise ProxyFileError(
            f"{source.path} holds {len(sets)} set(s), so --index must be below {len(sets)}, "
            f"not {source.index}"
        )
    pair = sets[source.index]
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ProxyFileError(f"set {source.index} of {source.path} is not a pair of tensors")
    return PublishedSet(
        "dc",
        plain_tensor(pair[0], source.path),
        plain_tensor(pair[1], source.path),
        num_sets=len(sets),
        name_says_whitened=_name_says_whitened(source.path),
    )


def _read_idc(source: Source, content: Any, spec: DatasetSpec) -> PublishedSet:
    path = source.path / "data.pt" if source.path.is_dir() else source.path
    images, labels = load_safely(path) if content is None else content
    return PublishedSet("idc", plain_tensor(images, path), plain_tensor(labels, path))


def _read_mtt(source: Source, content: Any, spec: DatasetSpec) -> PublishedSet:
    path = _images_file(source.path)
    if path.name.startswith(_WHITENED_PICTURES):
        raise ProxyFileError(
            f"{path} holds pictures of whitened images, which nothing was trained on; name "
            f"{path.name.replace(_WHITENED_PICTURES, 'images_')} instead"
        )
    if source.labels is None and not path.name.startswith("images"):
        raise ProxyFileError(
            f"{path} is a tensor, but its name does not begin with 'images', so its labels cannot "
            "be found; name their file with --labels"
        )
    labels = source.labels or path.with_name(path.name.replace("images", "labels", 1))
    rates = [path.with_name(path.name.replace("images", name, 1)) for name in _RATE_NAMES]
    rate = next((_learning_rate(file) for file in rates if file != path and file.is_file()), None)
    return PublishedSet(
        "mtt",
        plain_tensor(load_safely(path), path),
        plain_tensor(load_safely(labels), labels),
        learning_rate=rate,
        name_says_whitened=_name_says_whitened(path)
        or any(path.parent.glob(f"{_WHITENED_PICTURES}*.pt")),
    )


def _images_file(path: Path) -> Path:
    """The one file with images in a folder; a file is itself."""
    if not path.is_dir():
        return path
    files = [
        file for file in path.glob("images*.pt") if not file.name.startswith(_WHITENED_PICTURES)
    ]
    best = [file for file in files if file.name in ("images_best.pt", IMAGES)]
    if len(best or files) != 1:
        names = ", ".join(sorted(file.name for file in files)) or "none that was trained on"
        raise ProxyFileError(f"{path} holds several images*.pt ({names}); name one of them")
    return (best or files)[0]


def _learning_rate(path: Path) -> float:
    found = load_safely(path)
    try:
        return float(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ProxyFileError(f"{path} holds no learning rate, which is one number") from error


def _name_says_whitened(path: Path) -> bool:
    """Whether the name of the file or of the two folders around it speaks of ZCA."""
    name = "/".join(path.absolute().parts[-3:]).lower()
    return "zca" in re.sub(r"\b(no|non|not|without|wo)[-_ ]?zca|_no[-_]?zca", "", name)


def _read_tensors(source: Source, content: Any, spec: DatasetSpec) -> PublishedSet:
    folder = source.path if source.path.is_dir() else source.path.parent
    stored = folder / STORED_IMAGES
    images = stored if stored.is_file() else folder / IMAGES
    found = plain_tensor(load_safely(images), images)
    if len(found) % spec.num_classes:
        raise ProxyFileError(
            f"{images} holds {len(found)} images, which {spec.num_classes} classes cannot share"
        )
    return PublishedSet(
        "tensors",
        found,
        plain_tensor(load_safely(folder / LABELS), folder / LABELS),
        classes=torch.arange(spec.num_classes).repeat_interleave(len(found) // spec.num_classes),
        record=ExportRecord.read(folder),
    )


def _read_folder(source: Source, content: Any, spec: DatasetSpec) -> PublishedSet:
    listing = list_folder(source.path)
    if listing.is_test is not None:
        raise ProxyFileError(
            f"{source.path} holds train/ and a part for testing; name the folder with the "
            "distilled images alone"
        )
    if listing.left_out or listing.unread:
        logger.warning(left_out_words(source.path, listing.left_out, listing.unread))
    labels = source.labels or _labels_beside(source.path)
    if labels is not None and _is_fkd(labels):
        raise ProxyFileError(f"{labels} holds {_FKD}")
    if labels is not None and labels.suffix == ".csv":
        classes, values = _read_table(labels, listing.files, spec)
    else:
        classes = _classes_of_folders(listing.class_names, source.path, spec)[listing.labels]
        values = None if labels is None else plain_tensor(load_safely(labels), labels)
    return PublishedSet(
        "folder",
        _read_pictures(source.path, listing.files, spec),
        classes if values is None else values,
        classes=classes,
        record=ExportRecord.read(source.path),
    )


def _labels_beside(folder: Path) -> Path | None:
    """The file with the labels of a folder's pictures: the table, as it names them, if any."""
    if (folder / LABELS_TABLE).is_file():
        return folder / LABELS_TABLE
    names = [f"{name}{ending}" for name in _LABEL_NAMES for ending in _LABEL_ENDINGS]
    files = [folder / name for name in names if (folder / name).is_file()]
    if len(files) > 1:
        raise ProxyFileError(
            f"{folder} holds {' and '.join(file.name for file in files)}; choose with --labels"
        )
    return files[0] if files else None


def _classes_of_folders(names: tuple[str, ...], folder: Path, spec: DatasetSpec) -> Tensor:
    """The label of each class folder, by its class's name or by a number such as new003."""
    if set(names) == set(spec.class_names):
        return torch.tensor([spec.class_names.index(name) for name in names])
    numbers = [re.fullmatch(r"[A-Za-z_-]*(\d+)|(\d+)_.*", name) for name in names]
    labels = [int(number[1] or number[2]) for number in numbers if number is not None]
    if sorted(labels) != list(range(spec.num_classes)):
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise ProxyFileError(
            f"{folder} holds {len(names)} class folders ({shown}), but they must bear the names of "
            f"the {spec.num_classes} classes of {spec.name}, or the numbers 0 to "
            f"{spec.num_classes - 1}"
        )
    return torch.tensor(labels)


def _read_pictures(folder: Path, files: tuple[str, ...], spec: DatasetSpec) -> Tensor:
    """The pictures as uint8, `(n, c, h, w)`; none is resized."""
    channels, height, width = spec.image_shape
    for file in files:
        try:
            with Image.open(folder / file) as image:
                size = image.size
        except OSError:
            continue  # `decode` names all that are damaged
        if size != (width, height):
            raise ProxyFileError(
                f"{folder / file} has {size[0]}x{size[1]} pixels, but the images of {spec.name} "
                f"have {width}x{height}; set data.image_size"
            )
    images = torch.from_numpy(np.stack(list(decode(folder, files, height))))
    if channels == 3:
        return images
    if bool((images != images[:, :1]).any()):
        raise ProxyFileError(f"{folder} holds colour pictures, but those of {spec.name} are grey")
    return images[:, :1].contiguous()


def _read_table(
    path: Path, files: tuple[str, ...], spec: DatasetSpec
) -> tuple[Tensor, Tensor | None]:
    """The class of each picture, and its probabilities if the table has columns for them."""
    try:
        with path.open(newline="", encoding="utf-8") as text:
            rows = [row for row in csv.reader(text) if row]
        header = rows[0] if rows else []
        names = header[2:]
        if header[:2] != ["file", "class"] or (names and set(names) != set(spec.class_names)):
            raise ValueError(
                "its columns must be file, class, and for soft labels one for each class"
            )
        by_file = {row[0]: row for row in rows[1:]}
        times = Counter(row[0] for row in rows[1:])
        differing = sorted({*files} ^ {*times} | {name for name in times if times[name] > 1})
        if differing:
            raise ValueError(f"it must name every picture once; look at {differing[0]}")
        uneven = next((row[0] for row in rows[1:] if len(row) != len(header)), None)
        if uneven is not None:
            raise ValueError(f"each row must have {len(header)} cells; look at {uneven}")
        labels = {name: label for label, name in enumerate(spec.class_names)}
        classes = torch.tensor([labels[by_file[file][1]] for file in files])
        if not names:
            return classes, None
        columns = [2 + names.index(name) for name in spec.class_names]
        values = [[float(by_file[file][column]) for column in columns] for file in files]
    except KeyError as error:
        raise ProxyFileError(f"{path}: {spec.name} has no class {error}") from error
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise ProxyFileError(f"{path} cannot be used: {error}") from error
    return classes, torch.tensor(values)


_READERS: dict[FormatName, Callable[[Source, Any, DatasetSpec], PublishedSet]] = {
    "dc": _read_dc,
    "mtt": _read_mtt,
    "idc": _read_idc,
    "folder": _read_folder,
    "tensors": _read_tensors,
}
