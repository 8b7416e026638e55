"""Networks that others built: the layer that gives the logits, and what it is given."""

import copy

import pytest
import torch
from torch import nn

from nas_proxy.errors import ConfigError
from nas_proxy.networks.wrapped import WrappedNetwork
from nas_proxy.processes import pack, unpack
from nas_proxy.reproducibility import isolated_rng
from nas_proxy.testing._common import global_generators_untouched


class Twice(nn.Module):
    """Uses its layers in another order than it names them, and one of them several times."""

    def __init__(self, *, last_use_counts=True):
        super().__init__()
        self.head = nn.Linear(12, 3)
        self.body = nn.Linear(48, 12)
        self.aside = nn.Linear(12, 12)
        self.last_use_counts = last_use_counts

    def forward(self, images):
        hidden = self.body(images.flatten(1))
        if not self.last_use_counts:
            answer = self.head(hidden)
            self.head(self.aside(hidden))
            return answer
        self.head(hidden * 0)
        return self.head(self.aside(hidden))


@pytest.mark.parametrize("last_use_counts", [True, False])
def test_the_layer_that_gives_the_logits_is_found_whatever_the_order(last_use_counts):
    with isolated_rng(0):
        network = WrappedNetwork(Twice(last_use_counts=last_use_counts), (3, 4, 4))
        images = torch.randn(6, 3, 4, 4)
    assert network.classifier is network.network.head
    torch.testing.assert_close(network.classifier(network.embed(images)), network(images))
    hidden = network.network.body(images.flatten(1))
    expected = network.network.aside(hidden) if last_use_counts else hidden
    torch.testing.assert_close(network.embed(images), expected)
    assert not network.network.head._forward_hooks


def test_a_copy_has_a_last_layer_of_its_own():
    with isolated_rng(0):
        network = WrappedNetwork(Twice(), (3, 4, 4))
        images = torch.randn(2, 3, 4, 4)
    for other in (copy.deepcopy(network), unpack(pack(network))):
        assert other.classifier is other.network.head
        assert other.classifier is not network.classifier
        with torch.no_grad():
            other.classifier.weight.zero_()
        torch.testing.assert_close(other.classifier(other.embed(images)), other(images))
        assert not torch.equal(other(images), network(images))
    assert sum(1 for _ in network.parameters()) == 6  # the last layer is registered once


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(48, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 3, 4), nn.Flatten()),
        nn.Sequential(nn.Flatten(), nn.Linear(48, 3), nn.LogSoftmax(dim=1)),
    ],
)
def test_a_network_without_a_linear_last_layer_is_refused(network):
    with pytest.raises(ConfigError, match="Sequential does not end in a linear layer"):
        WrappedNetwork(network, (3, 4, 4))


def test_wrapping_leaves_the_mode_and_the_statistics_alone():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 3))
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    with global_generators_untouched("wrapping"):
        WrappedNetwork(network, (3, 4, 4))
    assert network.training
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
