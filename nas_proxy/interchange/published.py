"""From a set that others published to a proxy data set of this program."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nas_proxy.core.environment import versions
from nas_proxy.data.augment import DSA_STRATEGY, DSA_STRATEGY_WITHOUT_FLIP, Augmentation
from nas_proxy.data.proxy_dataset import LearningRateRule, ProxyDataset
from nas_proxy.errors import ProxyFileError
from nas_proxy.interchange.published_formats import PublishedSet, Source, read_published
from nas_proxy.interchange.published_meaning import (
    Assumptions,
    Findings,
    decode_factor,
    meant_labels,
    normalised_images,
)
from nas_proxy.reproducibility import content_hash
from nas_proxy.types import DatasetSpec


def import_published(source: Source, spec: DatasetSpec, said: Assumptions) -> ProxyDataset:
    """Read a published set.

    Args:
        source: Where it is.
        spec: Of the data set that it was distilled from. Its mean and deviation become those of
            the images. Nobody recorded which images it was distilled from, so the hash is left
            empty.
        said: What the files do not say.

    Raises:
        ProxyFileError: If it cannot be read, is of other classes or another image shape, or what
            its numbers mean cannot be told; the message says why.
        DataError: If pictures in a folder are damaged.
    """
    found = read_published(source, spec)
    _check_images(found, source.path, spec)
    findings = Findings()
    findings.facts["file"] = source.path.name
    findings.facts["content"] = content_hash(found.images, found.labels)
    if found.num_sets > 1:
        findings.facts["set"] = source.index
        findings.assumed.append(
            f"set {source.index} of {found.num_sets}, counted from 0; --index takes another"
        )
    factor = decode_factor(found, source.path, said)
    images, zca = normalised_images(found, spec, said, findings)
    labels, labelling = meant_labels(found, spec, said, findings)
    images, labels = _in_class_order(images, labels, found.classes, factor, spec)
    rule, augmentation = _training(found, source.path, spec, said, findings)
    imported = ProxyDataset(
        images=images,
        labels=labels,
        spec=replace(spec, source_hash=""),
        method=f"imported:{found.format}",
        parameters={**findings.facts, "assumed": findings.assumed},
        images_per_class=len(images) // spec.num_classes,
        seed=0,
        augmentation=augmentation,
        learning_rate_rule=rule,
        labelling=labelling,
        decode_factor=factor,
        zca=zca,
        versions=versions(),
    )
    imported.check_labels()
    return imported


def _check_images(found: PublishedSet, path: Path, spec: DatasetSpec) -> None:
    shape = tuple(found.images.shape)
    if len(shape) != 4 or shape[1:] != spec.image_shape or shape[0] == 0:
        raise ProxyFileError(
            f"the images of {path} have shape {shape}, but those of {spec.name} have "
            f"(number, {', '.join(map(str, spec.image_shape))}), which is number, channels, "
            "height, width; set data.image_size, or name the data set it was distilled from"
        )
    if not bool(found.images.isfinite().all()):
        raise ProxyFileError(f"some pixels of {path} are not finite, so it is of no use")


def _in_class_order(
    images: Tensor, labels: Tensor, classes: Tensor | None, factor: int, spec: DatasetSpec
) -> tuple[Tensor, Tensor]:
    """Images class by class, and a label for each tile of each."""
    tiles = factor**2
    if len(labels) == len(images):
        labels = labels.repeat_interleave(tiles, dim=0)
    elif len(labels) != len(images) * tiles:
        raise ProxyFileError(
            f"there are {len(labels)} labels for {len(images)} images with {tiles} tile(s) each"
        )
    if classes is None:
        classes = _classes(labels[::tiles])
    if int(classes.min()) < 0 or int(classes.max()) >= spec.num_classes:
        raise ProxyFileError(
            f"labels range from {int(classes.min())} to {int(classes.max())}, but {spec.name} has "
            f"{spec.num_classes} classes (0 to {spec.num_classes - 1}) in this configuration"
        )
    counts = classes.bincount(minlength=spec.num_classes).tolist()
    if len(set(counts)) > 1:
        listed = [f"{name} {count}" for name, count in zip(spec.class_names, counts, strict=True)]
        more = f" and {len(listed) - 10} more classes" if len(listed) > 10 else ""
        raise ProxyFileError(
            "every class must have the same number of images, but there are: "
            f"{', '.join(listed[:10])}{more}"
        )
    order = classes.argsort(stable=True)
    return images[order], labels.unflatten(0, (-1, tiles))[order].flatten(0, 1)


def _classes(labels: Tensor) -> Tensor:
    """The class that each image was made for, int64 `(n,)`.

    Learned labels may have come to favour another class. Where images lie class by class, as
    authors keep them, that shows in the mean label of each part; then the position decides.
    """
    if labels.ndim == 1:
        return labels
    num_images, num_classes = labels.shape
    if num_images % num_classes == 0:
        positions = torch.arange(num_classes)
        parts = labels.unflatten(0, (num_classes, -1)).mean(dim=1)
        if torch.equal(parts.argmax(dim=1), positions):
            return positions.repeat_interleave(num_images // num_classes)
    return labels.argmax(dim=1)


def _training(
    found: PublishedSet, path: Path, spec: DatasetSpec, said: Assumptions, findings: Findings
) -> tuple[LearningRateRule, Augmentation]:
    """How the authors train on such a set."""
    rule, augmentation = _habits(found, path, spec)
    if found.record is not None:
        rule, augmentation = found.record.learning_rate_rule, found.record.augmentation
    rate = found.learning_rate if said.learning_rate is None else said.learning_rate
    if rate is not None:
        if not (math.isfinite(rate) and rate > 0):
            raise ProxyFileError(
                f"the learning rate beside {path} is {rate}; say --learning-rate, above 0"
            )
        findings.facts["learning_rate"] = rate
        rule = replace(rule, learning_rate=rate)
    elif found.record is None:
        findings.assumed.append(
            f"learning rate {rule.learning_rate}, as is usual; --learning-rate says otherwise"
        )
    return rule, augmentation


def _habits(
    found: PublishedSet, path: Path, spec: DatasetSpec
) -> tuple[LearningRateRule, Augmentation]:
    """What the authors of each form of file train with."""
    may_flip = spec.image_shape[0] == 3  # written characters are grey
    if found.format == "folder":  # RDED's students
        per_class = len(found.images) // spec.num_classes
        rule = LearningRateRule(
            optimiser="adamw",
            learning_rate=1e-3,
            weight_decay=0.01,
            batch_size=10 if per_class == 1 else 50 if per_class <= 10 else 100,
            schedule="cosine",
            num_epochs=300,
        )
        return rule, Augmentation(crop=0.125, flip=may_flip, cutmix=1.0)
    families = DSA_STRATEGY if may_flip else DSA_STRATEGY_WITHOUT_FLIP
    if found.format == "idc":  # their cutting and mixing takes the place of cutting out
        families = families.replace("_cutout", "")
        return LearningRateRule(batch_size=64), Augmentation(dsa=families, cutmix=1.0)
    if found.format == "dc" and re.search(r"(^|[_-])dc([_-]|$)", path.stem.lower()):
        return LearningRateRule(num_epochs=300), Augmentation()
    return LearningRateRule(), Augmentation(dsa=families)
