"""How networks are traced, what cannot be, and what is said of it."""

import logging

import pytest
import torch
from torch import nn

from nas_proxy.errors import UserError
from nas_proxy.graphs.encoding import encode_architecture, network_features
from nas_proxy.graphs.features import feature_names
from nas_proxy.types import Architecture

SHAPE = (3, 16, 16)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU()
        self.head = nn.Linear(4, 3)

    def middle(self, x):
        return x

    def forward(self, images):
        x = self.act(self.norm(self.conv(images)))
        return self.head(self.middle(x).mean((2, 3)))


class AsksForNumbers(Plain):
    def middle(self, x):
        return x if x.abs().sum().item() >= 0 else x + x


class AsksForNumbersWhenBuilt(Plain):
    def __init__(self):
        super().__init__()
        self.rates = [rate.item() for rate in torch.linspace(0, 1, 3)]
        self.drawn = int(torch.randint(5, ()))


class HidesItself(Plain):
    def middle(self, x):
        return torch.from_numpy(2 * x.numpy())  # beyond what torch can follow


class ReadsAnAttribute(Plain):
    def __init__(self):
        super().__init__()
        self.scales = [torch.ones(4, 1, 1)]

    def middle(self, x):
        return x * self.scales[0].to(x.device)


@pytest.mark.parametrize("kind", [AsksForNumbers, AsksForNumbersWhenBuilt])
def test_a_network_that_needs_numbers_has_the_features_of_one_that_does_not(kind):
    found = network_features(kind, SHAPE)
    assert not found.without_paths
    plain = network_features(Plain, SHAPE).values
    if kind is AsksForNumbersWhenBuilt:
        assert torch.equal(found.values, plain)
    assert found.values[0] == 1  # paths are known


def test_a_tensor_that_is_no_buffer_is_a_constant():
    found = network_features(ReadsAnAttribute, SHAPE)
    assert not found.without_paths
    assert torch.equal(found.values, network_features(Plain, SHAPE).values)


def test_what_cannot_be_traced_is_described_by_its_modules():
    found = network_features(HidesItself, SHAPE)
    assert "numpy" in found.without_paths
    values = dict(zip(feature_names(), found.values.tolist(), strict=True))
    plain = dict(zip(feature_names(), network_features(Plain, SHAPE).values.tolist(), strict=True))
    assert values["paths known"] == values["number of paths"] == 0
    same = ["number of conv 3x3", "number of batch_norm", "number of rectifier", "parameters"]
    same += ["multiply-adds", "channels at 0 of the depth", "resolution at 0 of the depth"]
    assert {name: values[name] for name in same} == {name: plain[name] for name in same}


def test_numbers_and_generators_have_no_part_in_it():
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found += [network_features(kind, SHAPE).values for kind in (Plain, HidesItself)]
        assert torch.initial_seed() == seed
        state = torch.random.get_rng_state()
        network_features(AsksForNumbers, SHAPE)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])


class Space:
    """What is asked of a space; it counts how often it builds."""

    fidelity_options = ("width",)
    reduced_fidelity = {}

    def __init__(self, name, network):
        self.name = name
        self.network = network
        self.num_built = 0

    def fingerprint(self):
        return self.name

    def build(self, architecture, spec):
        self.num_built += 1
        return self.network()


def test_what_cannot_be_traced_is_said_once_for_each_space(caplog):
    with caplog.at_level(logging.WARNING, "nas_proxy"):
        for name in ("hidden", "hidden_too"):
            space = Space(name, HidesItself)
            for number in range(3):
                encode_architecture(space, Architecture(name, number))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "of the space hidden are encoded without their paths" in said[0]


def test_an_architecture_is_traced_once_and_its_features_cannot_be_spoilt():
    space = Space("kept", Plain)
    first = encode_architecture(space, Architecture("kept", 1))
    first += 1
    second = encode_architecture(Space("kept", None), Architecture("kept", 1))
    assert torch.equal(first, second + 1)
    assert space.num_built == 1
    with pytest.raises(TypeError):
        encode_architecture(Space("kept", None), Architecture("kept", 2))


def test_a_misspelt_reduction_is_named():
    class Misspelt(Space):
        reduced_fidelity = {"depth": 1}

    with pytest.raises(UserError, match="names 'depth', which is not among its .* \\(width\\)"):
        encode_architecture(Misspelt("misspelt", Plain), Architecture("misspelt", 1))


def test_a_network_that_fails_says_why():
    def fails():
        return nn.Sequential(nn.Conv2d(5, 4, 3))

    with pytest.raises(RuntimeError, match="channels"):
        network_features(fails, SHAPE)
