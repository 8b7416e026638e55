"""Which files of a folder of images are read, and what is left out."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas_proxy.errors import DataError

logger = logging.getLogger("nas_proxy")

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What counts as an image, in upper or lower case: the same as torchvision's ImageFolder."""

_PARTS_ELSEWHERE = ("train", "training", "test", "testing", "val", "valid", "validation")
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")  # what archives and network drives put beside files


@dataclass(frozen=True, eq=False)
class FolderListing:
    """The images of a folder: found, not yet opened.

    Attributes:
        root: The folder.
        files: Paths relative to `root`, class by class in label order; test images come last.
        labels: int64, `(len(files),)`.
        is_test: bool, `(len(files),)`; None where the folder has no test part of its own.
        class_names: The names of the class folders, sorted as torchvision's ImageFolder does.
        left_out: Other files of the class folders, relative to `root`; hidden ones do not count.
        unread: Files in folders within class folders, likewise, and images beside class folders and
            in folders beside `train`.
    """

    root: Path
    files: tuple[str, ...]
    labels: Tensor
    is_test: Tensor | None
    class_names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def list_folder(root: Path) -> FolderListing:
    """The images below `root`, which holds one of two layouts.

    - `train/<class>/*`, and for the test `test/<class>/*` or else `val/<class>/*`;
    - `<class>/*`, without a test part. A `train` folder without folders in it is a class.

    Hidden entries and files without an ending of `IMAGE_ENDINGS` are ignored; images count only
    where they lie directly in a class folder.

    Raises:
        DataError: If a folder cannot be read, there are fewer than two class folders, one holds
            no image or has a name that is no text, or the classes of the two parts differ; the
            message names the folders.
    """
    train, test = _parts(root)
    train_files, others = _class_files(train)
    names = tuple(train_files)
    test_files, more = ({}, []) if test is None else _class_files(test)
    if test is not None and test_files.keys() != train_files.keys():
        raise DataError(
            f"the classes of {train} and {test} differ: "
            f"{_only_in(train, names, test_files)}{_only_in(test, test_files, names)}"
            "give both the same class folders"
        )
    files, labels, is_test = [], [], []
    for part, found in ((train, train_files), (test, test_files)):
        for label, name in enumerate(found):
            prefix = Path(os.path.relpath(part or root, root), name).as_posix()
            files += [f"{prefix}/{file}" for file in found[name]]
            labels += [label] * len(found[name])
            is_test += [part is test] * len(found[name])
    return FolderListing(
        root=root,
        files=tuple(files),
        labels=torch.tensor(labels),
        is_test=None if test is None else torch.tensor(is_test),
        class_names=names,
        left_out=tuple(os.path.relpath(path, root) for path in (*others, *more)),
        unread=tuple(os.path.relpath(path, root) for path in _unread(root, train, test)),
    )


def images_below(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths of all images at any depth, relative to `root`, in order, and of all other files.

    Hidden files and folders are in neither.
    """
    paths = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    seen = [path for path in paths if not any(map(_is_hidden, path.parts))]
    images = [path for path in seen if path.suffix.lower() in IMAGE_ENDINGS]
    others = [path for path in seen if path.suffix.lower() not in IMAGE_ENDINGS]
    return tuple(path.as_posix() for path in images), tuple(path.as_posix() for path in others)


def left_out_words(root: Path, left_out: Sequence[str], unread: Sequence[str] = ()) -> str:
    """A sentence on files that were not taken for images; empty without any.

    Args:
        root: The folder.
        left_out: Whose names do not end as those of images do.
        unread: Which lie where nothing is read.
    """
    reasons = []
    if unread:
        folders = Counter(os.path.dirname(file) or "." for file in unread)
        reasons.append(
            f"{len(unread)} lie outside the class folders or in folders within them "
            f"({_counts(folders)}), and images count directly in a class folder alone: <class>/, "
            "or train/<class>/ with test/<class>/ or else val/<class>/"
        )
    if left_out:
        reasons.append(
            f"{len(left_out)} have names that do not end as those of images do "
            f"({_ending_counts(left_out)}; images: {', '.join(IMAGE_ENDINGS)}), such as "
            f"{printable(left_out[0])}"
        )
    if not reasons:
        return ""
    num = len(left_out) + len(unread)
    return f"{num} of the files in {printable(str(root))} are left out: {'; '.join(reasons)}"


def printable(name: str) -> str:
    """A file's name as text: bytes of it that are no UTF-8 are spelt out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _ending_counts(files: Sequence[str]) -> str:
    return _counts(Counter(os.path.splitext(file)[1].lower() or "no ending" for file in files))


def _counts(found: Counter[str]) -> str:
    """The five most frequent with their numbers, and how many more there are."""
    shown = [f"{num} {printable(what)}" for what, num in found.most_common(5)]
    return ", ".join(shown) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def _parts(root: Path) -> tuple[Path, Path | None]:
    """The folders that hold the class folders for training and, where there is one, testing."""
    if "train" not in _subfolders(root) or not _subfolders(root / "train"):
        return root, None
    present = [root / name for name in ("test", "val") if (root / name).is_dir()]
    usable = [part for part in present if _subfolders(part)]
    for part in present:
        if part not in usable[:1]:
            reason = f"the test images are those of {usable[0]}" if usable else "no class folders"
            logger.warning("%s is not read: %s", part, reason)
    return root / "train", usable[0] if usable else None


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not _is_hidden(entry.name)]
    except OSError as error:
        raise DataError(f"{folder} cannot be read as an image folder: {error.strerror}") from error
    return sorted(visible, key=lambda entry: entry.name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def _subfolders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or leads to one; a link that leads to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _class_files(part: Path) -> tuple[dict[str, list[str]], list[Path]]:
    """The names of the images in each class folder, both in ascending order, and other files."""
    names = _subfolders(part)
    if len(names) < 2:
        found = f"only the class folder {names[0]!r}" if names else "no class folder"
        raise DataError(
            f"{part} holds {found}; at least two are needed, each with the images of one class"
        )
    no_text = [name for name in names if name != printable(name)]
    if no_text:
        raise DataError(
            f"the name of the class folder {printable(no_text[0])!r} in {part} is not UTF-8 text, "
            "which results are written in; rename it"
        )
    files, others = {}, []
    for name in names:
        # A link that leads nowhere is listed all the same: decoding then names it as damaged.
        listed = [entry.name for entry in _entries(part / name) if not _is_folder(entry)]
        files[name] = [file for file in listed if file.lower().endswith(IMAGE_ENDINGS)]
        others += [part / name / f for f in listed if not f.lower().endswith(IMAGE_ENDINGS)]
        if not files[name]:
            raise _no_image(part, name, listed)
    return files, others


def _no_image(part: Path, name: str, listed: Sequence[str]) -> DataError:
    """What to say of a class folder with these files, none of which counts as an image."""
    nested = _subfolders(part / name)
    hint = f" directly in it, only folders such as {nested[0]!r}" if nested else ""
    if listed:
        hint += f", but {_ending_counts(listed)}"
    if nested and name.lower() in _PARTS_ELSEWHERE:
        way_out = (
            "a part of the images is called train, test or val, and train is needed: rename it"
        )
    else:
        way_out = (
            f"put images ({', '.join(IMAGE_ENDINGS)}) there, converted if need be, or remove it"
        )
    return DataError(f"class folder {part / name} holds no image{hint}; {way_out}")


def _unread(root: Path, train: Path, test: Path | None) -> Iterator[Path]:
    """Files below class folders and beside the parts, and images beside either, in order."""
    parts = [train] if test is None else [train, test]
    for folder in (root, *(part for part in parts if part != root)):
        for entry in _entries(folder):
            if not _is_folder(entry) and _is_image(folder / entry.name):
                yield folder / entry.name
    if train != root:  # of test and val the one that is not read is named by itself
        known = (train.name, "test", "val")
        for name in _subfolders(root):
            if name not in known:
                yield from filter(_is_image, _files_below(root / name))
    for part in parts:
        for name in _subfolders(part):
            for nested in _subfolders(part / name):
                yield from _files_below(part / name / nested)


def _files_below(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(each for each in folders if not _is_hidden(each))
        yield from (Path(folder, file) for file in sorted(files) if not _is_hidden(file))


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(IMAGE_ENDINGS)


def _only_in(part: Path, names: Iterable[str], others: Container[str]) -> str:
    """A clause that names up to five classes which only one part has; empty without any."""
    extra = [name for name in names if name not in others]
    if not extra:
        return ""
    more = f" and {len(extra) - 5} more" if len(extra) > 5 else ""
    return f"{', '.join(map(repr, extra[:5]))}{more} only in {part.name}/; "
