"""Graph features: what they count, and what makes no difference to them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas_proxy.graphs.encoding import network_features
from nas_proxy.graphs.features import feature_names, graph_features
from nas_proxy.graphs.tracing import trace
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.scores.flops import Flops
from nas_proxy.scores.num_params import NumParams
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.testing._common import tiny_dataset
from nas_proxy.types import Architecture

SHAPE = (3, 16, 16)
SPEC = tiny_dataset(image_shape=SHAPE).spec
SMALL = NASBench201Space(num_cells=1, channels=4)


def features(build):
    """The features by their names, in their own units where they are logarithms of counts."""
    found = network_features(build, SHAPE)
    assert not found.without_paths
    return dict(zip(feature_names(), found.values.tolist(), strict=True))


def counted(found, name):
    return round(math.expm1(found[name]), 3)


class Block(nn.Module):
    """A stem; then the sum of two 3x3 convolutions, a 1x1 convolution, a pooling and nothing."""

    def __init__(self, parts=None):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 8, 1)
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)
        self.parts = parts or Block.in_order

    def in_order(self, x):
        return self.second(self.first(x)) + self.point(x) + self.pool(x) + x

    def forward(self, images):
        x = self.norm(self.stem(images))
        x = F.relu(self.parts(self, x))
        return self.head(x.mean((2, 3)))


def test_operations_are_counted_by_what_they_are():
    found = features(Block)
    counts = {
        name.removeprefix("number of "): counted(found, name)
        for name in feature_names()
        if name.startswith("number of ") and found[name] and name != "number of paths"
    }
    assert counts == {
        "conv 3x3": 2,
        "conv 3x3 depthwise": 1,
        "conv 1x1": 1,
        "conv strided": 1,
        "linear": 1,
        "avg_pool": 1,
        "global_pool": 1,
        "batch_norm": 1,
        "rectifier": 1,
        "add": 3,
    }


def test_paths_by_hand():
    """Through the sum lead four: 3x3 and depthwise, 1x1, pooling, nothing; all have stem, head."""
    found = features(Block)
    assert found["number of paths"] == pytest.approx(math.log(4))
    lengths = {
        "path with fewest of large": 1,
        "path with most of large": 2,
        "path with fewest of large + point + grouped + pool": 2,
        "path with most of large + point + grouped + pool": 4,
        "path with most of large + grouped": 3,
        "shortest path within pool": 0,  # the one with nothing has no other operation either
        "longest path within pool": 1,
        "longest path within large + point": 3,
        "longest path within large + grouped": 3,
    }
    assert {name: counted(found, name) for name in lengths} == lengths
    assert counted(found, "large on the mean path") == 1.25
    assert counted(found, "point on the mean path") == 1.25
    assert counted(found, "pool on the mean path") == 0.25


def test_degrees_and_edges_by_hand():
    found = features(Block)
    assert found["mean in-degree"] == 4
    assert counted(found, "maximum out-degree") == 4  # of the stem
    assert counted(found, "edges from large to join") == 1  # the stem itself
    assert counted(found, "edges from grouped to join") == 1
    assert counted(found, "edges from large to grouped") == 1
    assert counted(found, "edges from large to pool") == 1


def test_sizes_by_hand():
    found = features(Block)
    weights = sum(weight.numel() for weight in Block().parameters())
    assert counted(found, "parameters") == weights
    assert math.expm1(found["multiply-adds"]) == pytest.approx(
        64 * (27 * 8 + 72 * 8 + 72 + 64) + 40, rel=1e-5
    )
    assert found["channels at 0 of the depth"] == pytest.approx(math.log2(9))
    assert found["resolution at 0 of the depth"] == pytest.approx(math.log2(9))
    assert counted(found, "large at resolution 1/2") == 2


def other_order(self, x):
    nothing = x + self.pool(x)
    return nothing + (self.point(x) + self.second(self.first(x)))


def in_place(self, x):
    total = self.second(self.first(x))
    total += self.point(x)
    total.add_(self.pool(x))
    return total.add_(x)


def with_more_than_is_used(self, x):
    self.head(self.first(x).mean((2, 3)))  # nobody reads it
    zeros = self.point(torch.zeros_like(x)) * 0 + torch.zeros_like(x)
    return F.dropout(Block.in_order(self, x), 0.5, self.training) + zeros


def with_views(self, x):
    flat = x.flatten(2).transpose(1, 2)
    back = flat.transpose(1, 2).reshape(x.shape)
    return Block.in_order(self, back)


@pytest.mark.parametrize("parts", [other_order, in_place, with_more_than_is_used, with_views])
def test_what_computes_the_same_has_the_same_features(parts):
    plain = network_features(Block, SHAPE).values
    assert torch.equal(network_features(lambda: Block(parts), SHAPE).values, plain)


def with_one_more_skip(self, x):
    return Block.in_order(self, x) + x


def without_the_pool(self, x):
    return self.second(self.first(x)) + self.point(x) + x


def after_one_another(self, x):
    return self.point(self.second(self.first(x))) + self.pool(x) + x


@pytest.mark.parametrize("parts", [with_one_more_skip, without_the_pool, after_one_another])
def test_what_computes_something_else_has_other_features(parts):
    plain = network_features(Block, SHAPE).values
    assert not torch.equal(network_features(lambda: Block(parts), SHAPE).values, plain)


def test_multiplying_or_concatenating_is_not_adding():
    def gate(self, x):
        return x * torch.sigmoid(self.point(x))

    def concat(self, x):
        return torch.cat([x, self.point(x)], dim=1)[:, :8]

    gated, joined = features(lambda: Block(gate)), features(lambda: Block(concat))
    assert counted(gated, "number of multiply") == counted(joined, "number of concat") == 1
    assert gated["number of add"] == joined["number of add"] == 0
    assert counted(gated, "number of saturating") == 1


# --- the built-in spaces ----------------------------------------------------------------------


def samples(space, num):
    generator = make_generator(3)
    return list(dict.fromkeys(space.sample(generator) for _ in range(num)))


def built(space, architecture):
    with isolated_rng(0):
        return space.build(architecture, SPEC)


@pytest.mark.parametrize("space", [SMALL, SEARCH_SPACES.get("convnet")()])
def test_multiply_adds_are_half_the_operations_that_torch_counts(space):
    for architecture in samples(space, 6):
        network = built(space, architecture)
        found = graph_features(trace(network, torch.zeros(2, *SHAPE)))
        values = dict(zip(feature_names(), found.tolist(), strict=True))
        counted_by_torch = Flops().measure(network, torch.zeros(2, *SHAPE))
        if values["output reached"]:
            expected = math.log1p(counted_by_torch / 2)
            assert values["multiply-adds"] == pytest.approx(expected, rel=1e-5)


def test_parameters_are_those_of_the_network_where_it_uses_all_of_them():
    space = SEARCH_SPACES.get("convnet")()
    for architecture in samples(space, 6):
        found = features(lambda a=architecture: built(space, a))
        expected = NumParams().measure(built(space, architecture), torch.zeros(1, *SHAPE))
        assert found["parameters"] == pytest.approx(math.log1p(expected), rel=1e-6)


def test_other_networks_of_nasbench201_have_other_features():
    by_vector = {}
    for architecture in samples(SMALL, 12):
        found = network_features(lambda a=architecture: built(SMALL, a), SHAPE)
        vector = tuple(found.values.tolist())
        by_vector.setdefault(vector, set()).add(SMALL.canonical_form(architecture))
    assert len(by_vector) > 9
    assert all(len(forms) == 1 for forms in by_vector.values())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # Skips in a row, and a sum of a sum.
        ("conv3 none skip none none skip", "none none none conv3 none none"),
        ("skip none conv1 none conv3 skip", "none conv1 none conv3 none skip"),
        ("conv3 conv1 skip none none skip", "conv3 none none conv1 skip none"),
        # A convolution of nothing, and one that nobody reads.
        ("none none conv3 conv1 pool none", "conv3 none none conv1 none none"),
        ("none none none none none none", "conv3 none none none none conv1"),
    ],
)
def test_named_twins_have_equal_features(first, second):
    words = {"conv3": "nor_conv_3x3", "conv1": "nor_conv_1x1", "skip": "skip_connect"}
    words |= {"pool": "avg_pool_3x3", "none": "none"}
    one, other = (
        Architecture(SMALL.name, [words[word] for word in each.split()]) for each in (first, second)
    )
    assert SMALL.canonical_form(one) == SMALL.canonical_form(other)
    found = [network_features(lambda a=a: built(SMALL, a), SHAPE).values for a in (one, other)]
    assert torch.equal(*found)


def test_a_network_that_its_input_does_not_reach_is_told_from_others():
    nothing = Architecture(SMALL.name, ["none"] * 6)
    found = features(lambda: built(SMALL, nothing))
    assert found["paths known"] == 1
    assert found["output reached"] == found["multiply-adds"] == found["number of paths"] == 0
