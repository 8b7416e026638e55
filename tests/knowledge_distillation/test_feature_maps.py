"""Stages and embeddings of any network."""

from unittest.mock import patch

import pytest
import torch
from torch import nn
from torchvision import models

from nas_proxy.errors import ConfigError
from nas_proxy.knowledge_distillation.feature_maps import (
    Place,
    Recorder,
    examine,
    match_feature_maps,
)
from nas_proxy.networks.catalogue import NETWORKS
from tests.knowledge_distillation.helpers import DATA, Bare, Functional, OnePixel, has_hooks, net

SHAPE = DATA.spec.image_shape
LARGE = DATA.spec.with_image_size(32)


def sides(layout):
    return [feature_map.shape[1] for feature_map in layout.feature_maps]


def test_stages_are_the_last_maps_of_each_resolution():
    found = examine(net("resnet18", spec=LARGE), LARGE.image_shape, "it")
    assert [feature_map.shape for feature_map in found.feature_maps] == [
        (4, 32, 32),
        (8, 16, 16),
        (16, 8, 8),
        (32, 4, 4),
    ]
    assert [feature_map.octave for feature_map in found.feature_maps] == [0, 1, 2, 3]
    assert found.embedding == Place("classifier", 0)


def test_a_layer_used_twice_is_told_apart_by_its_use():
    found = examine(Functional(), SHAPE, "it")
    assert [(s.place.layer, s.place.use, s.shape[1]) for s in found.feature_maps] == [
        ("activation", 0, 8),
        ("frozen", 0, 4),
        ("activation", 2, 2),
    ]
    assert found.embedding == Place("heads.1", 0)


@pytest.mark.parametrize("network", [OnePixel(), Bare(), net("mlp")])
def test_networks_without_maps_have_no_stages(network):
    assert examine(network, SHAPE, "it").feature_maps == ()


def test_where_the_embedding_is():
    assert examine(OnePixel(), SHAPE, "it").embedding == Place("head", 0)
    assert examine(Bare(), SHAPE, "it").embedding is None


def test_examining_leaves_the_network_and_the_generator_alone():
    network = Functional()
    network.train()
    network.frozen.eval()
    statistics = network.frozen.running_mean.clone()
    state = torch.get_rng_state()
    examine(network, SHAPE, "it")
    assert network.training
    assert not network.frozen.training
    assert torch.equal(network.frozen.running_mean, statistics)
    assert torch.equal(torch.get_rng_state(), state)
    assert not has_hooks(network)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("vgg11", marks=pytest.mark.exhaustive),
        "squeezenet1_1",
        "mobilenet_v3_small",
        "swin_t",
    ],
)
def test_networks_of_torchvision(name):
    """Some have early maps of a single pixel, VGG enlarges its last, Swin has channels last."""
    found = examine(models.get_model(name, num_classes=3), (3, 64, 64), name)
    octaves = [feature_map.octave for feature_map in found.feature_maps]
    assert octaves == sorted(set(octaves))
    assert len(octaves) >= (1 if name == "swin_t" else 3)
    assert found.embedding is not None


def test_networks_for_other_image_sizes_match_by_octave():
    student, teacher = examine(net("convnet"), SHAPE, "s"), examine(net("vgg11"), (3, 32, 32), "t")
    pairs = match_feature_maps(student, teacher)
    assert [(a.shape[1], b.shape[1]) for a, b in pairs] == [(8, 32), (4, 16), (2, 8)]


class Enlarging(nn.Module):
    """As networks of torchvision are used: small images are enlarged first."""

    def __init__(self):
        super().__init__()
        self.inner = net("resnet18", spec=LARGE)

    def forward(self, images):
        return self.inner(nn.functional.interpolate(images, size=32))


def test_a_network_that_enlarges_its_images_matches_where_the_pixels_are_the_same():
    teacher = examine(Enlarging(), SHAPE, "teacher")
    assert [feature_map.octave for feature_map in teacher.feature_maps] == [-2, -1, 0, 1]
    pairs = match_feature_maps(examine(net("convnet"), SHAPE, "student"), teacher)
    assert [(a.shape[1], b.shape[1]) for a, b in pairs] == [(8, 8), (4, 4)]


def test_a_mismatch_lists_the_stages_of_both():
    with pytest.raises(ConfigError) as caught:
        match_feature_maps(
            examine(net("mlp"), SHAPE, "the student"), examine(net(), SHAPE, "the teacher")
        )
    message = str(caught.value)
    assert "the student and the teacher" in message
    assert "the first are none" in message
    assert "8x8 (features.2), 4x4 (features.6), 2x2 (features.10)" in message


def test_a_recorder_keeps_what_the_forward_pass_computed():
    network = Functional().train()
    layout = examine(network, SHAPE, "it")
    recorder = Recorder(network, layout.feature_maps, layout.embedding, training=True)
    images = torch.randn(4, *SHAPE)
    network(images)
    record = recorder.take()
    expected = torch.relu(network.first(images))
    torch.testing.assert_close(record.maps[layout.feature_maps[0]], expected)
    features = record.maps[layout.feature_maps[-1]].mean(dim=(2, 3))
    torch.testing.assert_close(record.embedding, features)
    network(images)
    network.eval()
    network(images)  # a measurement in between is not kept
    with pytest.raises(ConfigError, match="not used in every pass"):
        recorder.take()
    recorder.close()
    assert not has_hooks(network)


def test_a_network_that_takes_a_batch_in_parts_is_recorded_as_a_whole():
    class InParts(Functional):
        def forward(self, images):
            return torch.cat([super(InParts, self).forward(part) for part in images.split(2)])

    network = InParts().eval()
    layout = examine(network, SHAPE, "it")
    images = torch.randn(5, *SHAPE)

    def record(asked):
        recorder = Recorder(network, layout.feature_maps, layout.embedding, training=False)
        asked(images)
        taken = recorder.take()
        recorder.close()
        return taken

    in_parts = record(network)
    with patch.object(InParts, "forward", Functional.forward):
        whole = record(network)
    torch.testing.assert_close(in_parts.embedding, whole.embedding)
    for feature_map in layout.feature_maps:  # two of them are of one layer, used twice in each part
        torch.testing.assert_close(in_parts.maps[feature_map], whole.maps[feature_map])


def test_layers_that_are_given_their_input_by_name_are_seen():
    class ByName(Functional):
        def forward(self, images):
            maps = self.first(input=images).relu()
            return self.heads[0](input=maps.mean(dim=(2, 3)))

    network = ByName().eval()
    layout = examine(network, SHAPE, "it")
    assert sides(layout) == [8]
    assert layout.embedding == Place("heads.0", 0)
    recorder = Recorder(network, layout.feature_maps, layout.embedding, training=False)
    images = torch.randn(4, *SHAPE)
    network(images)
    features = network.first(images).relu().mean(dim=(2, 3))
    torch.testing.assert_close(recorder.take().embedding, features)


def test_a_map_for_each_patch_of_an_image_is_no_stage():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 6, 3, padding=1)
            self.head = nn.Linear(6, 3)

        def forward(self, images):
            patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5)
            said = self.head(self.body(patches.flatten(0, 2)).mean(dim=(2, 3)))
            return said.view(len(images), 4, 3).mean(dim=1)

    found = examine(Patches(), SHAPE, "it")
    assert (found.feature_maps, found.embedding) == ((), None)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_fixed_network_has_an_embedding_that_is_its_own(name):
    options = {"width": None} if NETWORKS[name].width is None else {}
    network = net(name, **options)
    layout = examine(network, SHAPE, name)
    recorder = Recorder(network, (), layout.embedding, training=False)
    images = torch.randn(4, *SHAPE)
    network.eval()(images)
    torch.testing.assert_close(recorder.take().embedding, network.embed(images))
