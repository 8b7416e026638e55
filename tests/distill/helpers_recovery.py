"""What the tests of SRe2L share: a small squeezed network and sets made with it."""

import torch

from nas_proxy.distill.measured import distill_and_label
from nas_proxy.distill.statistical_matching import StatisticalMatching
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.reproducibility import make_generator
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.teacher_settings import TeacherSettings
from tests.distill.helpers import make_task


def squeezed(norm="batch", seed=0, num_steps=7, **options):
    network = NetworkSettings(name="convnet", norm=norm, width=4, depth=2)
    train = TrainSettings(num_steps=num_steps, precision="float32", **options)
    return TeacherSettings(network=network, train=train, seed=seed)


SQUEEZED = squeezed()
PLAIN = {"smallest_crop": 1.0, "jitter": 0.0}  # the networks see the images themselves


def distill(images_per_class=2, seed=0, dataset=None, context=None, **options):
    distiller = StatisticalMatching(**{"networks": (SQUEEZED,), "num_steps": 5, **options})
    return distill_and_label(distiller, make_task(images_per_class, seed, dataset, context))


def norms_of(teacher):
    return [layer for layer in teacher.network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]


def noise(num=6, seed=0, **options):
    return torch.randn(num, 3, 8, 8, generator=make_generator(seed), **options)
