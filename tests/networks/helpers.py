"""Networks by name, images for them, and how many parameters they have."""

import torch

from nas_proxy.networks.catalogue import NetworkSettings, build_network
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.testing import tiny_dataset

# Small enough for a test of every network at every size.
WIDTHS = {"convnet": 8, "resnet18": 4, "vgg11": 4, "alexnet": 8, "mlp": 16, "wrn16_2": 4}


def make_spec(size=32, channels=3, num_classes=10):
    spec = tiny_dataset(num_classes=num_classes, image_shape=(channels, 8, 8)).spec
    return spec.with_image_size(size)


def make_images(num_images, size=32, channels=3):
    return torch.randn(num_images, channels, size, size, generator=make_generator(1))


def build(name, spec, seed=0, **options):
    with isolated_rng(seed):
        return build_network(NetworkSettings(name=name, **options), spec)


def count(name, spec, **options):
    with torch.device("meta"):
        network = build_network(NetworkSettings(name=name, **options), spec)
    return sum(weight.numel() for weight in network.parameters())
