"""What the tests of training share: small sets, and a model that remembers what it saw."""

import math

import torch
from torch import nn

from nas_proxy.data.augment import Augmentation
from nas_proxy.reproducibility import make_generator
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet

SCHEDULES = ("one_cycle", "cosine", "step", "constant")
NUM_CLASSES = 3
PLAIN = Augmentation()


def make_settings(**changes):
    return TrainSettings(**{"num_steps": 6, "batch_size": 8, "precision": "float32", **changes})


def random_set(num=10, soft=False, augmentation=PLAIN):
    generator = make_generator(1)
    images = torch.randn(num, 1, 2, 2, generator=generator)
    labels = torch.arange(num) % NUM_CLASSES
    if soft:
        labels = torch.randn(num, NUM_CLASSES, generator=generator).softmax(dim=1)
    return TrainingSet(images, labels, tiny_dataset().spec, augmentation)


class Recorder(nn.Module):
    """A linear model of flattened images that remembers the batches it saw while training."""

    def __init__(self, num_features=4, num_classes=NUM_CLASSES, seed=0):
        super().__init__()
        self.linear = nn.Linear(num_features, num_classes)
        with torch.no_grad():
            self.linear.weight.normal_(generator=make_generator(seed))
            self.linear.bias.normal_(generator=make_generator(seed + 1))
        self.batches = []

    def forward(self, images):
        self.batches.append(images.detach().clone())
        return self.linear(images.flatten(1))

    def indices(self, training_set):
        """Which image of the set each one was, for sets without equal images."""
        known = {
            tuple(image.flatten().tolist()): at for at, image in enumerate(training_set.images)
        }
        return [[known[tuple(image.flatten().tolist())] for image in x] for x in self.batches]


def reference_factor(schedule, step, num_steps):
    """The schedules as the documentation words them."""
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return 0.1 if step > num_steps // 2 else 1.0
    rising = num_steps // 4 if schedule == "one_cycle" else 0
    if step < rising:
        return (step + 1) / (rising + 1)
    return math.cos(0.5 * math.pi * (step - rising) / (num_steps - rising)) ** 2
