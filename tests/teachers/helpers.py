"""What the tests of teachers share: small ones, and splits of a small data set."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nas_proxy.core.costs import CostMeter
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.transforms import resize
from nas_proxy.distill.measured import distill_and_label
from nas_proxy.interfaces import DistillContext, DistillTask
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.reproducibility import content_hash, make_generator
from nas_proxy.teachers.settings import LabelSettings
from nas_proxy.teachers.teacher import Teacher
from nas_proxy.teachers.training import obtain_teacher
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.teacher_settings import PretrainedSettings, TeacherSettings
from nas_proxy.types import ImageDataset, Splits

SMALL = "shufflenet_v2_x0_5"  # of torchvision, 1.4 million weights
SIZE = 40  # in pixels, that its images are enlarged to
NETWORK = NetworkSettings(name="convnet", width=4, depth=2)
CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|avg_pool_3x3~1|skip_connect~2|"


def short(**changes) -> TrainSettings:
    """A training of a few steps that leaves a network other than it was."""
    return TrainSettings(
        **{
            "num_steps": 4,
            "batch_size": 8,
            "learning_rate": 0.05,
            "precision": "float32",
            "augmentation": Augmentation(flip=True),
            **changes,
        }
    )


def settings(**changes) -> TeacherSettings:
    """A small ConvNet, unless another network is named."""
    if not {"architecture", "pretrained", "checkpoint"} & set(changes):
        changes = {"network": NETWORK, **changes}
    if "checkpoint" not in changes:
        changes = {"train": short(), **changes}
    return TeacherSettings(**changes)


def teach(dataset: ImageDataset | None = None, cache: Path | None = None, **changes) -> Teacher:
    """A teacher of three classes of eight 8x8 images."""
    context = DistillContext(cache=cache)
    return obtain_teacher(settings(**changes), dataset or tiny_dataset(), context)


def of_images(dataset: ImageDataset, images: torch.Tensor, labels: torch.Tensor) -> ImageDataset:
    """Other images of the same kind, with their own hash."""
    spec = replace(dataset.spec, source_hash=content_hash(images, labels))
    return ImageDataset(images, labels, spec)


def splits(*, seed: int, images_per_class: int = 12) -> Splits:
    """One tiny data set, divided by the seed: half, a quarter, and always the same quarter."""
    whole = tiny_dataset(images_per_class=images_per_class)
    num_test = len(whole) // 4
    order = torch.randperm(len(whole) - num_test, generator=make_generator(seed)) + num_test
    train, val = order[num_test:], order[:num_test]
    search_train = of_images(whole, whole.images[train], whole.labels[train])
    search_val, test = (
        replace(whole.subset(part), spec=search_train.spec)
        for part in (val, torch.arange(num_test))
    )
    return Splits(search_train, search_val, test)


TEACHERS = (settings(), settings(seed=1, train=short(num_steps=12, image_size=6)))


def task(context, seed=0):
    return DistillTask(
        dataset=tiny_dataset(),
        images_per_class=2,
        generator=make_generator(seed),
        context=context,
    )


def make(distiller, context, seed=0):
    return distiller.distill(task(context, seed))


def distilled(distiller, context, labels=None):
    """As the stage makes a set, with what it cost."""
    return distill_and_label(distiller, task(replace(context, costs=CostMeter())), labels)


def said_by(teacher, images, temperature):
    """What a teacher says, from its network alone."""
    own = resize(images, teacher.spec.image_shape[1])
    logits = teacher.network(own).detach().double().numpy() / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def soft(**changes):
    return LabelSettings(**{"kind": "soft", "teachers": TEACHERS, "temperature": 3.0, **changes})


def pretrained(name, file, **changes):
    return PretrainedSettings(**{"name": name, "weights": str(file), "image_size": SIZE, **changes})
