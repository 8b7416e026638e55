"""A proxy data set for programs that do not know this one: pictures, and plain tensors."""

from __future__ import annotations

import csv
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.transforms import denormalise
from nas_proxy.errors import ProxyFileError
from nas_proxy.interchange._export_record import RECORD_FILE, ExportRecord
from nas_proxy.interchange.published_formats import IMAGES, LABELS, LABELS_TABLE, STORED_IMAGES
from nas_proxy.types import DatasetSpec

ExportForm = Literal["folder", "tensors"]
EXPORT_FORMS: tuple[ExportForm, ...] = ("folder", "tensors")

_README = """\
# {name}, {method}, {images_per_class} stored image(s) per class

Written by nas-proxy from the proxy data set {id}. `{record}` holds everything that is known of
it: how it was made and what that cost, how to train on it, and the licence of what it was
distilled from.

Licence: {licence}

"""
_README_FOLDER = """\
## Pictures
`<number>_<class>/` holds the training images of each class; sorted by name, the folders are in
label order. `{table}` has the class of each picture{soft}. Pixels were rounded to 8 bits and
clipped to what a picture can hold: training on the pictures is close to training on the set, not
the same. Before training, scale to [0, 1], subtract the mean {mean} and divide by {std}.

"""
_README_TENSORS = """\
## Tensors
`{images}`: {count} training images, float32, {shape}, prepared already: scaled to [0, 1], less the
mean {mean}, divided by {std}{whitened}.
`{labels}`: {soft}. `learning_rate.pt`: the learning rate of the rule in `{record}`.
{stored}Read them with `torch.load(..., weights_only=True)`.
"""


def export_proxy_dataset(
    proxy_dataset: ProxyDataset, folder: Path, forms: Sequence[ExportForm] = EXPORT_FORMS
) -> None:
    """Write a folder that appears whole or not at all.

    Args:
        proxy_dataset: What to write, on the CPU.
        folder: Must not exist yet, or be empty.
        forms: Pictures in class folders with a table of labels, plain tensors, or both.

    Raises:
        ProxyFileError: If the folder holds something, or pictures are asked for of whitened
            images, which are none.
        OSError: If the folder cannot be written or the disk is full.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ProxyFileError(f"{folder} holds something already; name another folder")
    if "folder" in forms and proxy_dataset.zca is not None:
        raise ProxyFileError(
            f"the images of {proxy_dataset.id} are whitened, and pictures cannot hold that; "
            "pass --as tensors"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        made.chmod(0o755)  # mkdtemp's folders are private to their owner
        card = json.loads(json.dumps(proxy_dataset.card()))
        (made / RECORD_FILE).write_text(ExportRecord.of(proxy_dataset).to_json(card))
        (made / "README.md").write_text(_readme(proxy_dataset, forms))
        if "folder" in forms:
            _write_pictures(proxy_dataset, made)
        if "tensors" in forms:
            _write_tensors(proxy_dataset, made)
        if folder.exists():
            folder.rmdir()
        made.rename(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _write_pictures(proxy_dataset: ProxyDataset, folder: Path) -> None:
    spec = proxy_dataset.spec
    pixels = denormalise(proxy_dataset.training_images(), spec)
    per_class = len(pixels) // spec.num_classes
    names = _folder_names(spec)
    header = ["file", "class", *(spec.class_names if proxy_dataset.has_soft_labels else ())]
    with (folder / LABELS_TABLE).open("w", newline="", encoding="utf-8") as text:
        table = csv.writer(text)
        table.writerow(header)
        for index, picture in enumerate(pixels):
            label = index // per_class
            file = f"{names[label]}/{index % per_class:05d}.png"
            (folder / file).parent.mkdir(exist_ok=True)
            channels_last = picture.permute(1, 2, 0).squeeze(2).numpy()
            Image.fromarray(channels_last).save(folder / file)
            values = proxy_dataset.labels[index].tolist() if len(header) > 2 else []
            table.writerow([file, spec.class_names[label], *map(repr, values)])


def _folder_names(spec: DatasetSpec) -> list[str]:
    """A name for each class's folder: in label order when sorted, and fit for any file system."""
    digits = len(str(spec.num_classes - 1))
    return [
        f"{label:0{digits}d}_{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[:50]}"
        for label, name in enumerate(spec.class_names)
    ]


def _write_tensors(proxy_dataset: ProxyDataset, folder: Path) -> None:
    rate = torch.tensor(proxy_dataset.learning_rate_rule.learning_rate)
    torch.save(proxy_dataset.training_images().contiguous(), folder / IMAGES)
    torch.save(proxy_dataset.labels, folder / LABELS)
    torch.save(rate, folder / "learning_rate.pt")
    if proxy_dataset.decode_factor > 1:
        torch.save(proxy_dataset.images, folder / STORED_IMAGES)


def _readme(proxy_dataset: ProxyDataset, forms: Sequence[ExportForm]) -> str:
    spec, soft = proxy_dataset.spec, proxy_dataset.has_soft_labels
    factor = proxy_dataset.decode_factor
    facts: dict[str, Any] = {
        "name": spec.name,
        "method": proxy_dataset.method,
        "images_per_class": proxy_dataset.images_per_class,
        "id": proxy_dataset.id,
        "licence": spec.licence,
        "record": RECORD_FILE,
        "mean": _rounded(spec.mean),
        "std": _rounded(spec.std),
    }
    text = _README.format(**facts)
    if "folder" in forms:
        said = ", and its probability of each class" if soft else ""
        text += _README_FOLDER.format(**facts, table=LABELS_TABLE, soft=said)
    if "tensors" in forms:
        text += _README_TENSORS.format(
            **facts,
            images=IMAGES,
            labels=LABELS,
            count=len(proxy_dataset.labels),
            shape=" x ".join(map(str, spec.image_shape)),
            soft="the probabilities of each class" if soft else "the class of each image, int64",
            whitened=""
            if proxy_dataset.zca is None
            else f", and whitened (ZCA; {proxy_dataset.zca:.6g} was added to the eigenvalues of "
            "the covariance of the normalised training images); what is tested on must be too",
            stored=""
            if factor == 1
            else f"`{STORED_IMAGES}`: what is counted per class, of which each holds {factor} x "
            f"{factor} training images as tiles.\n",
        )
    return text


def _rounded(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.4f}" for value in values) + ")"
