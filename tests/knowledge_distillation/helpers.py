"""Small students and teachers."""

import torch
from pydantic import TypeAdapter
from torch import nn

from nas_proxy.knowledge_distillation.objective import make_objective
from nas_proxy.knowledge_distillation.settings import KnowledgeDistillationOption
from nas_proxy.knowledge_distillation.teachers import Generation, Teachers
from nas_proxy.networks.catalogue import NetworkSettings, build_network
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.phases import Phase
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet

DATA = tiny_dataset()
TRAINING_SET = TrainingSet.of(DATA)
SETTINGS = TrainSettings(num_steps=6, batch_size=8, learning_rate=0.01, precision="float32")
READ = TypeAdapter(KnowledgeDistillationOption).validate_python


def net(name="convnet", seed=0, spec=DATA.spec, **options):
    with isolated_rng(seed):
        return build_network(NetworkSettings(name=name, **{"width": 4, **options}), spec)


def trained_teacher(name="resnet18", seed=1, spec=DATA.spec):
    network = net(name, seed, spec).eval().requires_grad_(False)
    return Generation(network, spec.class_names, spec.image_shape)


def objective(section, student, *teachers, earlier=None, training_set=TRAINING_SET, train=SETTINGS):
    """The objective of a section; `tutors` are those of its teachers, in order."""
    return make_objective(
        READ(section),
        student,
        Teachers(teachers, earlier=earlier),
        training_set,
        (Phase("training", train),),
        make_generator(0),
    )


def has_hooks(network):
    return any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


class Functional(nn.Module):
    """What a researcher may write: functions, a layer used twice, several heads, frozen parts."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.again = nn.Conv2d(6, 6, 3, padding=1)
        self.activation = nn.ReLU(inplace=True)
        self.frozen = nn.BatchNorm2d(6).requires_grad_(False).eval()
        self.heads = nn.ModuleList(nn.Linear(6, num_classes) for _ in range(2))

    def forward(self, images):
        maps = self.activation(self.first(images))
        maps = torch.nn.functional.avg_pool2d(maps, 2)
        maps = self.frozen(self.activation(self.again(maps)))
        maps = torch.nn.functional.avg_pool2d(maps, 2)
        maps = self.activation(self.again(maps))
        features = maps.mean(dim=(2, 3))
        return sum(head(features) for head in self.heads)


class OnePixel(nn.Module):
    """A convolution over the whole image, and no linear layer."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.all = nn.Conv2d(3, 5, 8)
        self.head = nn.Conv2d(5, num_classes, 1)

    def forward(self, images):
        return self.head(self.all(images).relu()).flatten(1)


class Bare(nn.Module):
    """One matrix, in no layer."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(3 * 64, num_classes))

    def forward(self, images):
        return images.flatten(1) @ self.matrix
