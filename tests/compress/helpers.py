"""What the tests of compression share: small networks on the digits."""

from functools import cache

import torch
from torch import nn

from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.networks.catalogue import NetworkSettings, build_network
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.train.loop import train
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet

SHORT = TrainSettings(num_steps=8, batch_size=32, learning_rate=0.02, precision="float32")


@cache
def digits():
    return load_splits(DataSettings(name="digits"))


@cache
def training_set():
    return TrainingSet.of(digits().search_train)


def batches(num=2, size=64):
    return [training_set().batch(torch.arange(at * size, (at + 1) * size))[0] for at in range(num)]


def untrained(seed=0, **options):
    with isolated_rng(seed):
        settings = NetworkSettings(**{"name": "convnet", "width": 32, "norm": "batch", **options})
        return build_network(settings, digits().spec).eval()


@cache
def _trained_state():
    network = untrained()
    settings = TrainSettings(num_steps=150, learning_rate=0.1, precision="float32")
    train(network, training_set(), settings, make_generator(0))
    return network.state_dict()


def trained():
    """A ConvNet that tells most digits; a fresh copy each time."""
    network = untrained()
    network.load_state_dict(_trained_state())
    return network.eval()


class Chain(nn.Sequential):
    """Two convolutions and a linear layer, without norm: what is zero stays zero."""

    def __init__(self, seed=0):
        with isolated_rng(seed):
            super().__init__(
                nn.Conv2d(1, 8, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(8, 6, 3, padding=1),
                nn.ReLU(),
                nn.AvgPool2d(4),
                nn.Flatten(),
                nn.Linear(24, 10),
            )
