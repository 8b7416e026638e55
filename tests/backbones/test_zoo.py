"""Every classification network of torchvision: its head is found and replaced, its layers cut."""

import re

import pytest
import torch
from torch import nn
from torchvision import models

from nas_proxy.backbones._structure import find_structure, parameters_of, replace_head
from nas_proxy.backbones.zoo import (
    accepts,
    backbone_names,
    build_torchvision,
    build_without_weights,
    fitting_size,
    smallest_size,
    structure_of,
)
from nas_proxy.errors import ConfigError
from nas_proxy.reproducibility import isolated_rng

NAMES = models.list_models(module=models)
# Where these do not accept 32 pixels.
SMALLEST = {"alexnet": 64, "inception_v3": 96, "maxvit_t": 224, "vit_h_14": 224}


def one_of_each_family():
    """All networks; after the first of a family (resnet18 of ResNets) they are exhaustive."""
    seen = set()
    for name in sorted(NAMES, key=lambda name: (len(name), name)):
        family = re.match(r"(wide_)?[a-z]+", name)[0]
        yield pytest.param(name, marks=[pytest.mark.exhaustive] if family in seen else [])
        seen.add(family)


def test_none_is_left_out():
    assert backbone_names() == sorted(NAMES)
    assert len(NAMES) >= 80


def without_batchnorms(network):
    """They change no shape, and are slow where there are only shapes."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())


@pytest.mark.parametrize("name", one_of_each_family())
def test_the_head_is_found_and_replaced(name):
    size = SMALLEST.get(name, 32)
    network = build_without_weights(name, 1000, size)
    structure = find_structure(network, (3, size, size))
    old = network.get_submodule(structure.head)
    num_outputs = old.out_features if isinstance(old, nn.Linear) else old.out_channels
    assert num_outputs == 1000
    with torch.device("meta"):
        replace_head(network, structure.head, 11, hidden_units=5, dropout=0.5)
    head = network.get_submodule(structure.head)
    weights = list(head.parameters())
    assert sum(w.numel() for w in weights) < 5 * (getattr(head[0], "in_features", 512) + 20)
    # Body and head are all there is, and share nothing.
    body = parameters_of(network, structure.body)
    everything = {id(weight) for weight in network.parameters()}
    assert {id(w) for w in body} | {id(w) for w in weights} == everything
    assert len(body) + len(weights) == len(everything)
    without_batchnorms(network)
    logits = network.train()(torch.zeros(2, 3, size, size, device="meta"))
    assert logits.shape == (2, 11)


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("resnet18", "conv1", "layer4.1.bn2"),
        ("squeezenet1_1", "features.0", "features.12.expand3x3"),
        ("vit_b_32", "", "encoder.ln"),  # its class token
        ("densenet121", "features.conv0", "features.norm5"),
    ],
)
def test_layers_are_in_the_order_of_their_use(name, first, last):
    body = structure_of(name, 32).body
    assert (body[0], body[-1]) == (first, last)


def test_groups_are_contiguous_even_and_the_deepest_first():
    structure = structure_of("resnet18", 32)
    groups = structure.groups(4)
    assert sum(reversed(groups), ()) == structure.body
    sizes = [len(group) for group in groups]
    assert max(sizes) - min(sizes) <= 1
    assert "layer4.1.bn2" in groups[0]
    assert "conv1" in groups[-1]
    assert len(structure.groups(1000)) == len(structure.body)


class Unusual(nn.Module):
    """Names its layers in another order than it uses them; one holds a weight without a layer."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 3)
        self.first = nn.Conv2d(1, 4, 3)
        self.between = nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        hidden = self.between(self.first(images * self.scale))
        return self.last(hidden.mean(dim=(2, 3)))


def test_any_network_will_do_and_is_left_as_it_was():
    network = Unusual()
    network.between.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    structure = find_structure(network, (1, 8, 8))
    assert structure.head == "last"
    assert structure.body == ("", "first", "between")
    assert network.training
    assert not network.between.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


class Again(nn.Module):
    """Uses one layer at the beginning and once more at the end."""

    def __init__(self):
        super().__init__()
        self.middle = nn.Conv2d(4, 4, 1)
        self.shared = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, images):
        hidden = self.shared(self.middle(self.shared(images.expand(-1, 4, -1, -1))))
        return self.head(hidden.mean(dim=(2, 3)))


def test_a_layer_stands_where_it_is_used_first():
    assert find_structure(Again(), (1, 8, 8)).body == ("shared", "middle")


def test_a_network_that_ends_in_something_else_is_refused_by_name():
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.LazyLinear(3), nn.LayerNorm(3))
    network(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ConfigError, match=r"but in 3 \(LayerNorm\)"):
        find_structure(network, (1, 8, 8))


LARGE = [pytest.param(name, marks=pytest.mark.exhaustive) for name in ("maxvit_t", "vit_h_14")]


@pytest.mark.parametrize("name", ["alexnet", "inception_v3", *LARGE, "resnet18", "regnet_y_400mf"])
def test_the_smallest_size_is_the_first_that_works(name):
    assert smallest_size(name) == SMALLEST.get(name, 32)


def test_images_are_enlarged_only_where_they_must_be():
    assert fitting_size("resnet18", 8) == 32
    assert fitting_size("resnet18", 50) == 50
    assert fitting_size("vit_b_16", 50) == 64
    assert fitting_size("alexnet", 32) == 64
    assert fitting_size("inception_v3", 80) == 80
    assert not accepts("inception_v3", 64)


def test_a_real_network_has_the_structure_that_was_found_without_weights():
    with isolated_rng(0):
        for name in ("regnet_y_400mf", "squeezenet1_0"):
            network = build_torchvision(name, 7, 32)
            assert find_structure(network, (3, 32, 32)) == structure_of(name, 32)


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("resnet81", 32, "torchvision has no network 'resnet81'; did you mean 'resnet18'?"),
        ("alexnet", 32, "alexnet of torchvision cannot take images of 32 pixels ("),
        ("vit_b_16", 40, "vit_b_16 of torchvision cannot take images of 40 pixels ("),
        ("maxvit_t", 96, "maxvit_t of torchvision cannot take images of 96 pixels ("),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(name, size, said):
    with pytest.raises(ConfigError) as caught:
        structure_of(name, size)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
