import copy
import csv
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import nn
from torchvision.datasets import CIFAR10

from nas_proxy.errors import EvaluationError
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.scores.flops import Flops
from nas_proxy.scores.log_synflow import LogSynFlow
from nas_proxy.scores.naswot import NASWOT
from nas_proxy.scores.num_params import NumParams
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.testing import tiny_dataset

IMAGES = torch.randn(6, 3, 8, 8, generator=make_generator(0))
SCORES = [NumParams(), Flops(), LogSynFlow(), NASWOT()]


def seeded(build):
    with isolated_rng(0):
        return build()


# --- num_params -----------------------------------------------------------------------------


def test_num_params_counts_a_shared_weight_once():
    layer = nn.Linear(4, 4)
    assert NumParams().measure(nn.Sequential(layer, nn.ReLU(), layer), IMAGES) == 20


# --- flops ----------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    width=st.integers(1, 6),
    depth=st.integers(1, 3),
    channels=st.integers(1, 3),
    num_images=st.integers(1, 3),
)
def test_flops_are_two_for_each_multiply_add(width, depth, channels, num_images):
    size, in_channels, expected = 8, channels, 0
    for _ in range(depth):
        expected += 2 * size * size * 9 * in_channels * width
        size, in_channels = size // 2, width
    expected += 2 * width * size * size * 5
    network = ConvNet((channels, 8, 8), 5, width=width, depth=depth)
    assert Flops().measure(network, torch.zeros(num_images, channels, 8, 8)) == expected


def test_flops_do_not_depend_on_norm_and_work_down_to_one_pixel():
    counted = {
        Flops().measure(ConvNet((3, 4, 4), 5, width=8, depth=4, norm=norm), torch.zeros(2, 3, 4, 4))
        for norm in ("none", "batch", "layer", "instance", "group")
    }
    assert len(counted) == 1


# --- log_synflow ----------------------------------------------------------------------------


def test_log_synflow_of_one_linear_layer_by_hand():
    # R = sum of all |w| plus all |b|, so every gradient is 1.
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    weights = sum(float(weight.detach().double().abs().sum()) for weight in network.parameters())
    score = LogSynFlow().measure(network, torch.randn(5, 3, 2, 2))
    assert score == pytest.approx(weights * math.log(2), rel=1e-12)


@given(seed=st.integers(0, 2**32))
def test_log_synflow_of_two_layers_by_hand(seed):
    with isolated_rng(seed):
        network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    one, one_bias, two, two_bias = (
        weight.detach().double().abs().numpy() for weight in network.parameters()
    )
    hidden = one.sum(axis=1) + one_bias
    arrives = two.sum(axis=0)  # the gradient of R at each hidden unit
    expected = (
        (one * np.log1p(arrives)[:, None]).sum()
        + (one_bias * np.log1p(arrives)).sum()
        + (two * np.log1p(hidden)[None, :]).sum()
        + two_bias.sum() * np.log(2)
    )
    score = LogSynFlow().measure(network, torch.zeros(1, 1, 2, 2))
    assert score == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 2**32))
def test_log_synflow_knows_neither_signs_nor_images(seed):
    first, second = (seeded(lambda: ConvNet((3, 8, 8), 4, width=8, depth=2)) for _ in range(2))
    generator = make_generator(seed)
    with torch.no_grad():
        for weight in second.parameters():
            weight.mul_(1 - 2 * torch.randint(2, weight.shape, generator=generator))
    images = torch.randn(IMAGES.shape, generator=generator)
    assert LogSynFlow().measure(first, IMAGES) == LogSynFlow().measure(second, images)


@pytest.mark.parametrize("norm", ["batch", "layer", "instance", "group"])
def test_log_synflow_bypasses_norms(norm):
    plain, normed = (
        seeded(lambda norm=norm: ConvNet((3, 8, 8), 4, width=8, depth=2, norm=norm))
        for norm in ("none", norm)
    )
    convolutions = [
        [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
        for network in (plain, normed)
    ]
    for source, target in zip(*convolutions, strict=True):
        target.load_state_dict(source.state_dict())
    assert LogSynFlow().measure(plain, IMAGES) == LogSynFlow().measure(normed, IMAGES)


def test_log_synflow_says_when_numbers_grow_too_large():
    layers = [nn.Linear(4, 4) for _ in range(40)]
    for layer in layers:
        nn.init.constant_(layer.weight, 1e10)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), *layers)
    with pytest.raises(EvaluationError, match="range of float64"):
        LogSynFlow().measure(network, IMAGES)


# --- naswot ---------------------------------------------------------------------------------


def log_determinant_by_counting(codes):
    """The kernel pair by pair: units minus Hamming distance."""
    kernel = [
        [sum(a == b for a, b in zip(first, second, strict=True)) for second in codes]
        for first in codes
    ]
    return np.linalg.slogdet(np.array(kernel, dtype=float))


def mlp(*activations, width=12):
    layers, features = [nn.Flatten()], 192
    for activation in activations:
        layers += [nn.Linear(features, width), activation]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, 3))


@given(seed=st.integers(0, 2**32))
def test_naswot_is_the_log_determinant_of_counted_agreements(seed):
    with isolated_rng(seed):
        network = mlp(nn.ReLU(), nn.ReLU())
    images = torch.randn(5, 3, 8, 8, generator=make_generator(seed))
    with torch.no_grad():
        first = network[1](images.flatten(1))
        second = network[3](first.relu())
    sign, expected = log_determinant_by_counting((torch.cat([first, second], 1) > 0).tolist())
    if sign <= 0 or expected < -10:  # a singular kernel, up to rounding
        return
    assert NASWOT().measure(network, images) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "activation", [nn.LeakyReLU(), nn.Sigmoid(), nn.ELU(), nn.GELU(), nn.PReLU()]
)
def test_naswot_reads_other_activations_as_it_reads_relu(activation):
    relu, other = (seeded(lambda layer=layer: mlp(layer)) for layer in (nn.ReLU(), activation))
    assert NASWOT().measure(other, IMAGES) == NASWOT().measure(relu, IMAGES)


def test_naswot_reads_relu_alone_where_there_is_one():
    mixed = seeded(lambda: mlp(nn.ReLU(), nn.Sigmoid()))
    relu = seeded(lambda: mlp(nn.ReLU(), nn.Identity()))
    assert NASWOT().measure(mixed, IMAGES) == NASWOT().measure(relu, IMAGES)


def test_naswot_uses_the_batch_statistics_of_norms():
    network = seeded(lambda: ConvNet((3, 8, 8), 4, width=8, depth=1, norm="batch"))
    shifted = copy.deepcopy(network)
    shifted.features[1].running_mean.fill_(100.0)
    assert NASWOT().measure(network, IMAGES) == NASWOT().measure(shifted.eval(), IMAGES)


def test_naswot_looks_at_no_more_images_than_asked():
    network = seeded(lambda: mlp(nn.ReLU()))
    assert NASWOT(num_images=4).measure(network, IMAGES) == NASWOT().measure(network, IMAGES[:4])


def test_naswot_refuses_what_has_no_activation_module():
    with pytest.raises(EvaluationError, match="no activation module"):
        NASWOT().measure(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), IMAGES)


@pytest.mark.parametrize("copies", [2, 6])
def test_naswot_refuses_images_that_the_network_sees_alike(copies):
    images = torch.cat([IMAGES[:1].repeat(copies, 1, 1, 1), IMAGES[copies:]])
    with pytest.raises(EvaluationError, match="the kernel is singular"):
        NASWOT().measure(seeded(lambda: mlp(nn.ReLU(), nn.ReLU())), images)


# --- all ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cifar_images(shared_folder):
    """The first 32 training images, `(32, 3, 32, 32)`, with zero mean and unit deviation."""
    pixels = CIFAR10(str(shared_folder / "data")).data[:32]
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float()
    mean, std = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)
    return (images - mean) / std


@pytest.mark.parametrize(
    ("score", "columns", "least"),
    [
        (NumParams(), ["naslib_params"], 0.999),
        pytest.param(Flops(), ["naslib_flops"], 0.98, marks=pytest.mark.exhaustive),
        pytest.param(LogSynFlow(), ["freerea_logsynflow"], 0.95, marks=pytest.mark.exhaustive),
        pytest.param(
            NASWOT(), ["naslib_nwot", "freerea_naswot"], 0.95, marks=pytest.mark.exhaustive
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_order_is_the_published_one(shared_folder, cifar_images, score, columns, least):
    """On 20 cells without unreachable operations, which the published suites treat differently."""
    with (shared_folder / "truth" / "nb201_scores_dev.csv").open() as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["naslib_nwot"] and math.isfinite(float(row["freerea_naswot"] or "nan"))
        ]
    rows = random.Random(0).sample(rows, 20)
    spec = tiny_dataset(num_classes=10, image_shape=(3, 32, 32)).spec
    space = NASBench201Space()
    measured = [
        score.measure(seeded(lambda row=row: build(space, row, spec)), cifar_images) for row in rows
    ]
    for column in columns:
        published = [float(row[column]) for row in rows]
        assert spearmanr(measured, published).statistic > least, column


def build(space, row, spec):
    return space.build(space.from_string(row["arch_str"]), spec)
