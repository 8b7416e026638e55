"""The catalogue of networks: its names, and the options that each has."""

from itertools import pairwise
from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from nas_proxy.errors import ConfigError
from nas_proxy.networks.base import has_batchnorm
from nas_proxy.networks.catalogue import (
    NETWORKS,
    NetworkName,
    NetworkSettings,
    build_network,
    describe,
)
from nas_proxy.reproducibility import content_hash
from tests.networks.helpers import WIDTHS, build, count, make_images, make_spec


def test_the_catalogue_holds_every_name_and_says_what_each_is():
    assert set(get_args(NetworkName)) == set(NETWORKS)
    for entry in NETWORKS.values():
        assert entry.norm in entry.norms
        assert entry.summary
        assert entry.paper


@pytest.mark.parametrize(("size", "depth"), [(8, 3), (28, 3), (32, 3), (64, 4), (128, 5), (224, 6)])
def test_the_convnet_is_as_deep_as_the_field_has_it_for_each_image_size(size, depth):
    network = build("convnet", make_spec(size), width=1)
    assert sum(isinstance(layer, nn.Conv2d) for layer in network.features) == depth


def test_options_reach_the_network():
    network = build("convnet", make_spec(), width=12, depth=2, norm="group")
    assert tuple(network.features(make_images(1)).shape) == (1, 12, 8, 8)
    assert [layer.num_groups for layer in network.features if isinstance(layer, nn.GroupNorm)] == [
        4,
        4,
    ]
    assert build("mlp", make_spec(), width=7).classifier.in_features == 7


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "alexnet"])
def test_widths_scale_with_the_first(name):
    filters = [
        weight.shape[0]
        for weight in build(name, make_spec(), width=8).parameters()
        if weight.ndim == 4
    ]
    published = [
        weight.shape[0] for weight in build(name, make_spec()).parameters() if weight.ndim == 4
    ]
    assert filters == [width * 8 // published[0] for width in published]


@pytest.mark.parametrize(
    ("settings", "text", "batchnorm"),
    [
        ({"name": "resnet18", "norm": "batch"}, "ResNet-18, batch norm", True),
        ({"name": "resnet18"}, "ResNet-18, instance norm", False),
        ({"name": "vgg11"}, "VGG-11, instance norm", False),
        ({"name": "alexnet"}, "AlexNet, no norm", False),
        ({"name": "mlp"}, "MLP", False),
        ({"name": "wrn16_2"}, "WRN-16-2, batch norm", True),
        ({"name": "mobilenet_v2", "norm": "batch"}, "MobileNetV2, batch norm", True),
        ({"name": "shufflenet_v2"}, "ShuffleNetV2 x0.5, batch norm", True),
        (
            {"name": "convnet", "depth": 4, "width": 64},
            "ConvNet, depth 4, width 64, instance norm",
            False,
        ),
        ({"name": "convnet", "norm": "batch"}, "ConvNet, batch norm", True),
    ],
)
def test_the_description_says_what_is_built(settings, text, batchnorm):
    settings = NetworkSettings(**settings)
    assert describe(settings) == text
    spec = make_spec()
    with torch.device("meta"):
        assert has_batchnorm(build_network(settings, spec)) == batchnorm


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mlp", "depth": 2}, "MLP has a fixed depth.*leave depth out.*convnet"),
        ({"name": "resnet18", "depth": 34}, "ResNet-18 has a fixed depth"),
        ({"name": "mobilenet_v2", "width": 8}, "MobileNetV2 has a fixed width.*leave width out"),
        ({"name": "mobilenet_v2", "norm": "instance"}, "MobileNetV2 cannot have instance norm"),
        ({"name": "shufflenet_v2", "norm": "none"}, "ShuffleNetV2 x0.5 cannot have no norm"),
        ({"name": "mlp", "norm": "batch"}, "MLP cannot have batch norm"),
        ({"name": "convnet", "width": 6, "norm": "group"}, "width 6.*multiple of 4"),
        ({"name": "alexnet", "width": 4, "norm": "group"}, "width 4.*multiple of 8"),
    ],
)
def test_an_option_that_a_network_does_not_have_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        NetworkSettings(**options)
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(NetworkSettings).validate_python(options)


@pytest.mark.parametrize(
    "options", [{"name": "lenet"}, {"name": "convnet", "width": 0}, {"name": "vgg11", "nrom": 1}]
)
def test_a_mapping_is_checked_before_it_becomes_settings(options):
    with pytest.raises(ValidationError):
        TypeAdapter(NetworkSettings).validate_python(options)


@pytest.mark.parametrize("name", ["alexnet", "convnet", "resnet18", "vgg11", "wrn16_2"])
def test_widths_that_pass_the_check_of_group_norm_can_be_built(name):
    for width in (NETWORKS[name].group_norm_width, 3 * NETWORKS[name].group_norm_width):
        count(name, make_spec(8), width=width, norm="group")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(name):
    spec = make_spec(8)
    state = torch.get_rng_state()
    hashes = [
        content_hash(*build(name, spec, seed, width=WIDTHS.get(name)).state_dict().values())
        for seed in (0, 0, 1)
    ]
    assert hashes[0] == hashes[1]
    assert all(first != second for first, second in pairwise(hashes[1:]))
    assert torch.equal(state, torch.get_rng_state())
