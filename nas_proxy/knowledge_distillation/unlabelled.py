"""Images without classes, from which a student learns what its teachers say of them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nas_proxy.data.folder import FolderListing, images_below, left_out_words, read_images
from nas_proxy.data.splits import image_hashes
from nas_proxy.errors import ConfigError, DataError, StudyError
from nas_proxy.knowledge_distillation._term import UNLABELLED
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import DatasetSpec, Splits

logger = logging.getLogger("nas_proxy")


def read_unlabelled(folder: Path, spec: DatasetSpec) -> Tensor:
    """All images below a folder, at the size of a data set, uint8 `(n, c, h, w)`.

    Args:
        folder: Whatever folders are in it mean nothing.
        spec: Of the data set.

    Raises:
        DataError: If there is no such folder, no image in it, or one cannot be decoded.
    """
    root = folder.expanduser()
    files, _ = images_below(root)
    if not files:
        raise DataError(
            f"there is no image in the folder {root} of unlabelled images; name another in "
            "knowledge_distillation.unlabelled, or leave it out"
        )
    everything = torch.arange(len(files))
    listing = FolderListing(root, files, torch.zeros(len(files)), None, ())
    (images,) = read_images(listing, [everything], image_size=spec.image_shape[1])
    return images if spec.image_shape[0] == 3 else _grey(images)


def say_left_out(folder: Path) -> None:
    """Log a warning of files below a folder that `read_unlabelled` does not take for images."""
    root = folder.expanduser()
    _, others = images_below(root)
    if others:
        logger.warning("knowledge_distillation.unlabelled: %s", left_out_words(root, others))


def _grey(images: Tensor) -> Tensor:
    """RGB to one channel, by luminance; a grey image keeps its values to the last bit."""
    # Not torchvision's: it rounds down, and a held-out image would not be recognised.
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True).round().to(torch.uint8)


def with_unlabelled(training_set: TrainingSet, images: Tensor) -> TrainingSet:
    """The training set with further images behind its own, which have no label.

    Args:
        training_set: Real images with classes.
        images: uint8 `(n, c, h, w)`, of the same shape.

    Raises:
        ConfigError: If the images of the training set are distilled, or its labels soft.
    """
    if training_set.images.dtype != torch.uint8 or not training_set.has_hard_labels:
        raise ConfigError(
            "unlabelled images can be mixed among real ones with classes alone; leave "
            "knowledge_distillation.unlabelled out where proxy images or soft labels are trained on"
        )
    device = training_set.images.device
    labels = training_set.labels.new_full((len(images),), UNLABELLED)
    return replace(
        training_set,
        images=torch.cat([training_set.images, images.to(device)]),
        labels=torch.cat([training_set.labels, labels]),
    )


def check_unlabelled(images: Tensor, splits: Splits, *, allow: bool, option: str) -> int:
    """How many of the images are among the held-out ones that judge a student, compared by content.

    Args:
        images: At the size of the splits.
        splits: The study's.
        allow: Whether to go on all the same.
        option: What the user has to set for that.

    Raises:
        StudyError: If any is, unless that is allowed.
    """
    held_out = torch.cat([image_hashes(part.images) for part in (splits.search_val, splits.test)])
    seen = int(torch.isin(image_hashes(images), held_out).sum())
    if seen and not allow:
        raise StudyError(
            f"{seen} of the {len(images)} unlabelled images are among those that judge the "
            "student, so its figures would mean nothing; take them out, or set "
            f"{option}=true to go on, and the report will say so"
        )
    return seen
