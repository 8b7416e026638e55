"""Networks of the searched space while distilling: `networks: search_space`."""

import logging
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.distill.common._normalised import NormalisedSGD
from nas_proxy.distill.common.layers import layers_of
from nas_proxy.distill.common.random_networks import ConvNets, SpaceNetworks
from nas_proxy.distill.distribution_matching import DistributionMatching
from nas_proxy.distill.gradient_matching import GradientMatching
from nas_proxy.distill.kernel_ridge import KernelRidge
from nas_proxy.distill.layerwise_matching import LayerwiseMatching
from nas_proxy.distill.meta_learning import MetaLearning
from nas_proxy.distill.statistical_matching import StatisticalMatching
from nas_proxy.errors import ConfigError
from nas_proxy.interfaces import DistillContext, SearchSpace, TransferSpace
from nas_proxy.networks.base import batch_norms
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.reproducibility import make_generator
from nas_proxy.study.config import check_config
from nas_proxy.testing import tiny_dataset
from nas_proxy.testing._calibration import TinySpace
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture
from tests.distill.helpers import Log, distill, make_task

SPACE = {"networks": "search_space", "num_steps": 2}
METHODS = {
    "dm": DistributionMatching(**SPACE),
    "dsa": GradientMatching(**SPACE, outer_loop=2, inner_loop=1, augment="color_crop"),
    "idc": replace(GradientMatching.idc(2), **SPACE, outer_loop=2, real_steps=1),
    "datadam": LayerwiseMatching(**SPACE),
    "features": LayerwiseMatching(**SPACE, matching="features", augment=""),
    "frepo": KernelRidge(**SPACE, num_networks=2, max_online_updates=2),
    "label_solve": KernelRidge(**SPACE, num_networks=2, optimise="labels"),
    "rat_bptt": MetaLearning(**SPACE, unroll=3, window=2),
}
SPACES = {
    "convnet": {"widths": (4, 8), "depths": (1, 2)},
    "nasbench201": {"channels": 4},
    "torchvision_backbones": {"backbones": ("shufflenet_v2_x0_5", "squeezenet1_1")},
}
ANY = "convnet"


def space_of(name):
    return SEARCH_SPACES.get(name)(**SPACES[name])


def source_of(space, *, twice=False):
    return SpaceNetworks(space, tiny_dataset(), twice=twice)


def labels_of(distiller):
    solves = isinstance(distiller, KernelRidge) and distiller.optimise == "labels"
    return "learned" if solves else "hard"


def distilled(name, space, seed=0, **context):
    method = METHODS[name]
    return distill(method, seed=seed, space=space, labels=labels_of(method), **context)


def typical_and_the_rest():
    """A few; that every method keeps its contract on a space is checked with the contracts."""
    for space in SPACES:
        for method in METHODS:
            typical = (space, method) in {(ANY, "dsa"), (ANY, "features"), ("nasbench201", "dm")}
            marks = [] if typical else [pytest.mark.exhaustive]
            yield pytest.param(method, space, id=f"{method}-{space}", marks=marks)


# What every method does on every space


@pytest.mark.parametrize(("method", "space"), list(typical_and_the_rest()))
def test_the_same_seed_gives_the_same_set_and_each_image_learns(method, space):
    first, second = (distilled(method, space_of(space), seed=1) for _ in range(2))
    assert first.id == second.id
    assert bool(first.images.isfinite().all())
    start, _ = METHODS[method].initialise(tiny_dataset(), 2, make_generator(1))
    if method == "label_solve":
        assert not torch.equal(first.labels, distilled(method, space_of(space), seed=2).labels)
    elif METHODS[method].zca is None:
        moved = (first.images - start).flatten(1).abs().amax(dim=1)
        assert bool((moved > 0).all())  # of IDC's tiles at least one is changed in each image
    assert first.parameters["num_networks"] >= 2
    assert first.parameters["space"]["name"] == space


def test_another_space_gives_other_images():
    one, other = (distilled("dm", space_of(name)) for name in ("convnet", "nasbench201"))
    assert not torch.equal(one.images, other.images)
    options = distilled("dm", replace(space_of("convnet"), norms=("none",)))
    assert not torch.equal(one.images, options.images)


@pytest.mark.parametrize(
    "method", ["dm", "frepo", pytest.param("rat_bptt", marks=pytest.mark.exhaustive)]
)
def test_a_killed_distillation_continues_to_the_identical_set(method, tmp_path, monkeypatch):
    never = property(lambda self: float("-inf"), lambda self, value: None)
    monkeypatch.setattr(Checkpointer, "_saved_at", never, raising=False)
    long, space = replace(METHODS[method], num_steps=5), Odd()
    checkpoint = tmp_path / "checkpoint.safetensors"
    undisturbed = distill(long, seed=5, space=space)
    with pytest.raises(KeyboardInterrupt):
        distill(long, seed=5, space=space, checkpoint=checkpoint, progress=Log(stop_after=3))
    torch.rand(3)
    continued = distill(long, seed=5, space=space, checkpoint=checkpoint)
    assert torch.equal(continued.images, undisturbed.images)
    assert continued.id == undisturbed.id  # what was drawn and skipped is counted on


# The source


def test_a_seed_draws_architecture_and_weights():
    source = source_of(space_of("convnet"))
    networks = [source.draw(seed) for seed in (0, 0, *range(1, 7))]
    first, again, *others = [
        torch.cat([p.flatten() for p in network.parameters()]) for network in networks
    ]
    assert torch.equal(first, again)
    assert len({len(weights) for weights in others}) > 2


def test_batch_norms_see_the_batch_and_nothing_else_is_in_training():
    network = source_of(space_of("torchvision_backbones")).draw(0)
    norms = batch_norms(network)
    assert norms
    assert all(norm.training for norm in norms)
    assert not any(m.training for m in network.modules() if m not in set(norms))


def test_networks_have_the_reduced_fidelity_of_the_space():
    full = SEARCH_SPACES.get("nasbench201")(channels=4)
    cells = [m for m in source_of(full).draw(0).modules() if type(m).__name__ == "Cell"]
    assert len(cells) == 3


@dataclass(frozen=True, kw_only=True)
class Odd(TinySpace):
    """Of its twelve some end in a convolution and some do not look at the image."""

    name = "odd"
    usable: bool = True

    def build(self, architecture, spec):
        network = super().build(architecture, spec)
        if architecture.genotype[0] > 4:
            return nn.Sequential(network, nn.Flatten(), nn.Softmax(dim=1))
        if architecture.genotype[0] == 2 or not self.usable:
            return nn.Sequential(Black(), network)
        return network


class Black(nn.Module):
    """Every image is black."""

    def forward(self, images):
        return torch.zeros_like(images)


def test_what_cannot_be_used_is_skipped_and_counted_and_said_once(caplog):
    source = source_of(Odd())
    with caplog.at_level(logging.WARNING, logger="nas_proxy"):
        for seed in range(12):
            source.draw(seed)
    facts = source.facts()
    assert facts["num_networks"] == 12
    assert facts["num_skipped_networks"] > 4
    (said,) = caplog.messages
    assert "skipped and counted" in said
    assert "num_skipped_networks" in said
    other = source_of(Odd())
    other.restore(source.state())
    assert other.facts() == facts


def test_a_space_of_which_nothing_can_be_used_is_refused_with_one_of_its_architectures():
    with pytest.raises(ConfigError, match=r"among 100 of the space 'odd': \[\d+,\d\], for one,"):
        source_of(Odd(usable=False)).draw(0)


class OnceOnly(nn.Module):
    """Has a hard sigmoid, whose second derivative torch does not know."""

    def forward(self, images):
        return nn.functional.hardsigmoid(images)


@dataclass(frozen=True, kw_only=True)
class Hard(TinySpace):
    name = "hard"

    def build(self, architecture, spec):
        network = super().build(architecture, spec)
        if architecture.genotype[1] == 2:
            return network
        return nn.Sequential(nn.Conv2d(3, 3, 1), OnceOnly(), network)


def test_what_cannot_be_differentiated_twice_is_skipped_where_that_is_needed():
    for twice in (False, True):
        source = source_of(Hard(), twice=twice)
        for seed in range(4):
            source.draw(seed)
        assert (source.facts()["num_skipped_networks"] > 0) is twice


@dataclass(frozen=True, kw_only=True)
class Weighted(TransferSpace, TinySpace):
    """Its weights would have to be downloaded."""

    name = "weighted"

    def build(self, architecture: Architecture, spec):
        raise AssertionError("weights were asked for")

    def without_weights(self) -> SearchSpace:
        return TinySpace()


def test_weights_that_a_space_starts_from_are_left_out():
    assert source_of(Weighted()).draw(0) is not None


def test_normalised_steps_have_one_length_whatever_the_scale_of_the_loss():
    generator = make_generator(0)
    start, slope = (torch.randn(4, 3, 2, 2, generator=generator) for _ in range(2))
    ends = []
    for scale in (1e-4, 1.0, 1e4):
        images = start.clone().requires_grad_()
        optimiser = NormalisedSGD([images], lr=0.02, momentum=0.5)
        for _ in range(2):
            optimiser.zero_grad()
            (scale * slope * images).sum().backward()
            optimiser.step()
        ends.append(images.detach())
    expected = start - 0.02 * 2.5 * slope / slope.square().mean().sqrt()  # 1, and then 1 + 0.5
    for end in ends:
        torch.testing.assert_close(end, expected)
    images.grad = torch.zeros_like(images)
    NormalisedSGD([images], lr=1.0).step()
    assert torch.equal(images.detach(), ends[-1])


def test_every_network_counts_alike_with_normalised_steps():
    method = replace(METHODS["dm"], image_optimiser="normalised_sgd", image_learning_rate=0.01)
    method = replace(method, image_momentum=0.0, num_steps=1)
    start, _ = method.initialise(tiny_dataset(), 2, make_generator(3))
    for space in ("convnet", "nasbench201"):
        moved = distill(method, seed=3, space=space_of(space)).images - start
        assert float(moved.square().mean().sqrt()) == pytest.approx(0.01, rel=1e-3)


# One trained network of the space


def squeezed(seed=0, **context):
    method = StatisticalMatching(
        networks="search_space", train=TrainSettings(num_steps=3), num_steps=3, batch_size=2
    )
    return distill(method, seed=seed, space=space_of("nasbench201"), **context)


def test_statistics_are_those_of_a_trained_architecture_of_the_space(tmp_path):
    first, again, other = squeezed(1), squeezed(1, cache=tmp_path), squeezed(2)
    assert first.id == again.id
    assert not torch.equal(first.images, other.images)
    (teacher,) = first.networks
    assert teacher.description != other.networks[0].description
    assert first.parameters["num_networks"] == 1
    assert (tmp_path / "teachers").is_dir()  # for other studies too
    no_norm = replace(space_of("convnet"), norms=("none", "instance"))
    with pytest.raises(ConfigError, match=r"among 100 .* has no batch norm; leave networks out"):
        distill(StatisticalMatching(networks="search_space"), space=no_norm)


# Layers


def test_the_layers_of_another_network_are_the_last_map_of_each_resolution():
    network = source_of(space_of("nasbench201")).draw(0)
    images = torch.randn(6, 3, 8, 8, generator=make_generator(0))
    with layers_of(network, images) as read:
        maps, embedding = read(images)
    assert [each.shape[-1] for each in maps] == [8, 4, 2]
    torch.testing.assert_close(embedding, network.embed(images))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


# Wrong inputs


def test_without_a_space_there_is_one_sentence():
    with pytest.raises(ConfigError, match="and here is none; give one"):
        METHODS["dm"].distill(make_task())


@pytest.mark.parametrize(
    ("distill", "said"),
    [
        ({"networks": "serch_space"}, r"'convnet' or 'search_space' \(got 'serch_space'\)"),
        ({"networks": "search_space", "network_width": 8}, r"distill: network_width \(8\) is an"),
    ],
)
def test_a_configuration_is_refused_when_it_is_read(distill, said):
    sections = {"study_name": "x", "space": {"name": "convnet"}, "train": {"num_steps": 1}}
    with pytest.raises(ConfigError, match=said) as caught:
        check_config({**sections, "distill": {"name": "distribution_matching", **distill}})
    assert len(str(caught.value).splitlines()) == 2  # the heading, and one sentence


@pytest.mark.parametrize(
    "option", [{"network_width": 16}, {"network_depth": 2}, {"network_norm": "instance"}]
)
def test_options_of_the_convnet_are_refused(option):
    with pytest.raises(ConfigError, match=r"is an option of the ConvNet.*leave one of them out"):
        LayerwiseMatching(networks="search_space", **option)


def test_the_convnet_stays_the_default():
    source = DistributionMatching().network_source(tiny_dataset(), DistillContext())
    assert isinstance(source, ConvNets)
    plain = ConvNets(NetworkSettings(name="convnet", width=128), tiny_dataset())
    one, other = (each.draw(3).state_dict() for each in (source, plain))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert "num_networks" not in distill(replace(METHODS["dm"], networks="convnet")).parameters
