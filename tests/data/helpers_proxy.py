"""What the tests of proxy data sets share: one that is complete, and its file taken apart."""

import json
import struct
from dataclasses import replace

import torch

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import Labelling, LearningRateRule, ProxyDataset, TeacherRecord
from nas_proxy.reproducibility import make_generator
from nas_proxy.types import DatasetSpec

SPEC = DatasetSpec(
    name="made_up",
    class_names=("cat", "dög"),
    image_shape=(3, 4, 5),
    mean=(0.5, 0.25, 0.1),
    std=(0.2, 0.3, 0.1),
    licence="none",
    source_hash="0123456789abcdef",
)


def make_proxy(**changes):
    generator = make_generator(0)
    proxy = ProxyDataset(
        images=torch.randn(4, 3, 4, 5, generator=generator),
        labels=torch.tensor([0, 0, 1, 1]),
        spec=SPEC,
        method="some_method",
        parameters={"num_steps": 3, "augment": "color", "rate": 0.1, "sizes": (1, 2)},
        images_per_class=2,
        seed=2**62 + 1,
        augmentation=Augmentation(crop=0.125, flip=True, dsa="color_crop"),
        learning_rate_rule=LearningRateRule(learning_rate=0.02),
        networks=(TeacherRecord("a1", "ConvNet", num_leaked_images=3),),
        costs={"distilling": 1.25, "teaching ConvNet [a1]": 0.25},
        peak_memory_mib=2.5,
        hardware="a processor",
        versions={"torch": "2.9"},
    )
    return replace(proxy, **changes)


def soft_proxy(**changes):
    """The same images with labels that two teachers gave."""
    teachers = (TeacherRecord("a1", "ConvNet"), TeacherRecord("b2", "ResNet-18", "some terms"))
    labels = soft([[1, 0], [0.75, 0.25], [0.125, 0.875], [0, 1]])
    labelling = Labelling(kind="soft", temperature=4.0, per="view", teachers=teachers)
    return make_proxy(labels=labels, labelling=labelling, **changes)


def soft(rows):
    return torch.tensor(rows, dtype=torch.float32)


def parse(data):
    """The format by hand: the header's length, the header, the bytes of the tensors."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]
