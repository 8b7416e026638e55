"""Pre-training a backbone by the one training loop, and keeping its weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas_proxy.backbones._simclr import SimCLR
from nas_proxy.backbones._structure import input_width
from nas_proxy.backbones.backbone import Backbone, build_backbone
from nas_proxy.backbones.pretrain_settings import PretrainSettings
from nas_proxy.backbones.weights import save_weights, saved_key
from nas_proxy.backbones.zoo import fitting_size
from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.folder import IMAGE_ENDINGS, decode, images_below, left_out_words
from nas_proxy.data.splits import image_hashes
from nas_proxy.errors import DataError, DivergedError, StudyError
from nas_proxy.reproducibility import content_hash, derive_seed, isolated_rng, make_generator
from nas_proxy.train.loop import TrainResult, train
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import ImageDataset, Progress, Splits, WeightsRecord, no_progress

logger = logging.getLogger("nas_proxy")

VERSION = 1  # raised by hand when pre-training changes what settings give
_NOT_IN_KEY = ("backbones", "folder", "images")  # of settings: where, not what
_SHOWN_EVERY = 10  # steps between two reports of progress


def pretrain(
    name: str,
    images: ImageDataset,
    settings: PretrainSettings,
    *,
    seed: int,
    progress: Progress = no_progress,
    checkpoint: Checkpointer | None = None,
) -> tuple[Backbone, TrainResult]:
    """A backbone that was trained on images, on their device; the same seed gives the same one.

    Args:
        name: Of a network of torchvision.
        images: For `simclr` their labels are not looked at.
        settings: How.
        seed: Of weights, batches and augmentation.
        progress: Told about steps.
        checkpoint: Where a killed training continues.

    Raises:
        ConfigError: If there is no such network, or it cannot take images of the size.
        DivergedError: If the loss is not finite.
        StudyError: If the checkpoint is damaged or belongs to other work.
    """
    device = images.images.device
    size = settings.image_size or fitting_size(name, max(images.spec.image_shape[1:]))
    generator = make_generator(derive_seed("pre-training", seed, name), device)
    training_set = TrainingSet.of(images)
    num_steps = settings.train.steps_for(len(images))

    def show(step: int, indices: Tensor, logits: Tensor) -> None:
        if step % _SHOWN_EVERY == 0 or step == num_steps:
            progress(step, num_steps, name)

    with isolated_rng(derive_seed("pre-trained weights", seed, name)):
        backbone = build_backbone(name, images.spec, size).to(device)
        with _objective(backbone, settings) as objective:
            if objective is not None:
                training_set = replace(training_set, views=2)
                objective.to(device)
            result = train(
                backbone,
                training_set,
                settings.train,
                generator,
                show,
                objective=objective,
                checkpoint=checkpoint,
            )
    return backbone.eval(), result


def make_weights(
    name: str,
    splits: Splits,
    settings: PretrainSettings,
    *,
    seed: int,
    device: torch.device,
    progress: Progress = no_progress,
    force: bool = False,
) -> Path:
    """Pre-train a backbone and write its weights, unless the same file is there already.

    Args:
        name: Of a network of torchvision.
        splits: The data set; of it only the search-training images are learned from.
        settings: How, and where to.
        seed: Of weights, batches and augmentation.
        device: Where to train.
        progress: Told about steps.
        force: Replace what other settings made, finished or not.

    Returns:
        The file, which holds where its weights come from and the licence of the images.

    Raises:
        DataError: If there are too few images, or some of a folder judge.
        StudyError: If another file of that name is there, or the loss is not finite.
        OSError: If the folder cannot be written.
    """
    path = Path(settings.folder).expanduser() / f"{name}.safetensors"
    images = _images(splits, settings)
    if len(images) < 2:
        raise DataError(
            f"pre-training learns from differences between images, but {images.spec.name} has "
            "one; give it more"
        )
    plain = {name: v for name, v in asdict(settings).items() if name not in _NOT_IN_KEY}
    seen = image_hashes(images.images)
    key = content_hash(VERSION, name, plain, seen, seed)
    if path.is_file() and not force:
        if saved_key(path) == key:
            return path
        raise StudyError(
            f"{path} is there already and was made otherwise; pass --force to replace it, or set "
            "pretrain.folder to another folder"
        )
    on_device = replace(images, images=images.images.to(device), labels=images.labels.to(device))
    state = Checkpointer(
        path.with_suffix(".state"),
        key,
        "pre-training",
        "pre-train",
        "set pretrain.folder to another folder",
    )
    if force:
        state.remove()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        backbone, _ = pretrain(
            name, on_device, settings, seed=seed, progress=progress, checkpoint=state
        )
    except DivergedError as error:
        state.remove()  # of settings that lead nowhere
        raise StudyError(
            f"pre-training {name}: {error}; lower pretrain.train.learning_rate"
        ) from error
    word = "SimCLR" if settings.method == "simclr" else "supervised pre-training"
    source = f"{word} on {len(images)} images of {images.spec.name}"
    record = WeightsRecord(source, images.spec.licence)
    save_weights(path, backbone.network, record, key, seen=seen)
    state.remove()
    return path


@contextmanager
def _objective(backbone: Backbone, settings: PretrainSettings) -> Iterator[SimCLR | None]:
    """SimCLR while it watches the backbone; None for the ordinary loss."""
    if settings.method == "supervised":
        yield None
        return
    objective = SimCLR(
        backbone.head,
        input_width(backbone.head),
        projection_size=settings.projection_size,
        temperature=settings.temperature,
    )
    try:
        yield objective
    finally:
        objective.close()


def _images(splits: Splits, settings: PretrainSettings) -> ImageDataset:
    """What is learned from: the search-training images, or those of a folder."""
    if settings.images is None:
        return splits.search_train
    root = Path(settings.images).expanduser()
    files, others = images_below(root)
    if not files:
        raise DataError(
            f"pretrain.images: {root} holds no image ({', '.join(IMAGE_ENDINGS)}); name a folder "
            "that does, or leave it out to use the search-training images"
        )
    if others:
        logger.warning("pretrain.images: %s", left_out_words(root, others))
    spec = splits.spec
    if spec.image_shape[0] != 3:
        raise DataError(
            f"pretrain.images are read in colour, but {spec.name} is grey; leave images out"
        )
    images = torch.from_numpy(np.stack(list(decode(root, files, spec.image_shape[1]))))
    held_out = torch.cat([splits.search_val.images, splits.test.images])
    known = torch.isin(image_hashes(images), image_hashes(held_out))
    if known.any():
        raise DataError(
            f"pretrain.images: {int(known.sum())} of the images in {root} judge candidates or "
            f"winners, such as {files[int(known.nonzero()[0])]}; remove them"
        )
    name = f"the folder {root.name}"
    licence = "That of the folder's images, which nas_proxy does not know."
    labels = torch.zeros(len(images), dtype=torch.int64)
    return ImageDataset(images, labels, replace(spec, name=name, licence=licence))
