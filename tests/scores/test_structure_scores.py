"""Scores that look at layers, at the flow of signals, and at feature maps."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from nas_proxy.errors import EvaluationError
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.scores.meco import MeCo
from nas_proxy.scores.num_layers import NumLayers
from nas_proxy.scores.synflow import SynFlow
from nas_proxy.scores.zen import Zen
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.testing import tiny_dataset

IMAGES = torch.randn(6, 3, 8, 8, generator=make_generator(0))
DISCONNECTED = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


def seeded(build):
    with isolated_rng(0):
        return build()


def cell_network(text, num_cells=1):
    space = NASBench201Space(num_cells=num_cells, channels=4)
    return seeded(lambda: space.build(space.from_string(text), tiny_dataset().spec))


def score_name(score):
    return score.name


# --- num_layers -----------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 3])
def test_num_layers_counts_convolutions_and_linear_layers_alone(depth):
    network = ConvNet((3, 8, 8), 5, width=8, depth=depth, norm="group")
    assert NumLayers().measure(network, IMAGES) == depth + 1


@pytest.mark.parametrize("num_cells", [1, 2])
def test_num_layers_counts_what_a_cell_computes(num_cells):
    # Two convolutions lead to the output; of the third nothing depends, as node 1 leads nowhere.
    text = "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|nor_conv_3x3~0|none~1|skip_connect~2|"
    others = 1 + 2 * 3 + 1  # the stem, two reductions, the classifier
    layers = NumLayers().measure(cell_network(text, num_cells), IMAGES)
    assert layers == others + 3 * num_cells * 2


def test_num_layers_counts_a_layer_each_time_it_is_used():
    layer = nn.Linear(3, 3)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), layer, nn.ReLU(), layer)
    assert NumLayers().measure(network, IMAGES) == 2


# --- synflow --------------------------------------------------------------------------------


def test_synflow_of_a_network_without_biases_is_the_flow_for_each_layer():
    """By Euler's theorem the sum of w dR/dw over one layer is R, which is a product of matrices."""
    network = seeded(
        lambda: nn.Sequential(
            nn.Flatten(),
            nn.Linear(12, 5, bias=False),
            nn.LeakyReLU(),
            nn.Linear(5, 4, bias=False),
            nn.ReLU(),
            nn.Linear(4, 2, bias=False),
        )
    )
    product = np.ones(12)
    for weight in network.parameters():
        product = np.abs(weight.detach().double().numpy()) @ product
    score = SynFlow().measure(network, torch.randn(3, 3, 2, 2))
    assert score == pytest.approx(math.log(3 * product.sum()), rel=1e-9)


def test_synflow_grows_by_a_logarithm_when_weights_grow():
    networks = [seeded(lambda: ConvNet((3, 8, 8), 4, width=8, depth=2)) for _ in range(2)]
    for weight in networks[1].classifier.parameters():
        weight.data.mul_(-7)
    scores = [SynFlow().measure(network, IMAGES) for network in networks]
    assert scores[1] - scores[0] == pytest.approx(math.log(7), rel=1e-6)


@pytest.mark.parametrize("norm", ["batch", "layer", "instance", "group"])
def test_synflow_bypasses_norms(norm):
    plain, normed = (
        seeded(lambda norm=norm: ConvNet((3, 8, 8), 4, width=8, depth=1, norm=norm))
        for norm in ("none", norm)
    )
    normed.features[0].load_state_dict(plain.features[0].state_dict())
    normed.classifier.load_state_dict(plain.classifier.state_dict())
    assert SynFlow().measure(plain, IMAGES) == SynFlow().measure(normed, IMAGES)


def test_synflow_says_why_it_has_no_value():
    with pytest.raises(EvaluationError, match="disconnected"):
        SynFlow().measure(cell_network(DISCONNECTED), IMAGES)
    with pytest.raises(EvaluationError, match="no convolution and no linear layer"):
        SynFlow().measure(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGES)
    layers = [nn.Linear(4, 4) for _ in range(40)]
    for layer in layers:
        nn.init.constant_(layer.weight, 1e10)
    with pytest.raises(EvaluationError, match="range of float64"):
        SynFlow().measure(nn.Sequential(nn.Flatten(), nn.Linear(192, 4), *layers), IMAGES)


# --- zen ------------------------------------------------------------------------------------


def measure_zen(network, **options):
    with isolated_rng(7):
        return Zen(**options).measure(network, IMAGES)


def pooled(*layers):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 3))


@pytest.mark.parametrize("pooling", [True, False])
def test_zen_of_the_image_itself_is_the_size_of_the_noise(pooling):
    """192 pixels, each moved by 0.01 |z| with z standard normal, whose mean is sqrt(2 / pi)."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    if pooling:
        network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    expected = math.log(192 * 0.01 * math.sqrt(2 / math.pi))
    assert measure_zen(network, num_images=200) == pytest.approx(expected, abs=0.02)


def test_zen_of_linear_layers_grows_by_a_logarithm_with_the_noise():
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1), nn.Flatten(), nn.Linear(72, 2))
    scores = [measure_zen(network, noise=noise) for noise in (0.01, 0.04)]
    assert scores[1] - scores[0] == pytest.approx(math.log(4), abs=1e-3)


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(1),
        nn.GroupNorm(1, 1),
        nn.InstanceNorm2d(1),
        nn.LayerNorm((1, 6, 6)),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_zen_undoes_norms(norm):
    """With one channel, every norm divides all pixels of an image by the same number, about 5."""
    plain = measure_zen(pooled(nn.Conv2d(3, 1, 3)), num_repeats=8)
    normed = measure_zen(pooled(nn.Conv2d(3, 1, 3), norm), num_repeats=8)
    assert normed == pytest.approx(plain, abs=0.15)


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(2), nn.GroupNorm(2, 2), nn.InstanceNorm2d(2)],
    ids=lambda norm: type(norm).__name__,
)
def test_zen_undoes_what_a_norm_divides_each_channel_by(norm):
    """Not what it subtracts: the channels lie far apart."""

    class Shift(nn.Module):
        def forward(self, features):
            return features + torch.tensor([0.0, 1000.0]).view(2, 1, 1)

    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)]
    plain = measure_zen(nn.Sequential(nn.Conv2d(3, 2, 3), *tail), num_repeats=8)
    normed = measure_zen(nn.Sequential(nn.Conv2d(3, 2, 3), Shift(), norm, *tail), num_repeats=8)
    assert normed == pytest.approx(plain, abs=0.15)


def test_zen_has_nothing_to_undo_where_a_norm_sees_a_constant():
    class DeadBranch(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, images):
            return images + self.norm(torch.zeros_like(images))

    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)]
    dead, alone = nn.Sequential(DeadBranch(), *tail), nn.Sequential(*tail)
    assert measure_zen(dead) == measure_zen(alone)


def test_zen_looks_at_neither_weights_nor_images():
    scores = set()
    for seed, images in ((0, IMAGES), (1, IMAGES + 1)):
        with isolated_rng(seed):
            network = ConvNet((3, 8, 8), 4, width=8, depth=2, norm="batch")
        with isolated_rng(7):
            scores.add(Zen().measure(network, images))
    assert len(scores) == 1


def test_zen_averages_over_draws():
    def network():
        return pooled(nn.Conv2d(3, 1, 3), nn.ReLU())

    with isolated_rng(7):
        score = Zen(num_repeats=1)
        built = network()
        singles = [score.measure(built, IMAGES) for _ in range(3)]
    with isolated_rng(7):
        built = network()
        assert Zen(num_repeats=3).measure(built, IMAGES) == pytest.approx(np.mean(singles))


def test_zen_says_why_it_has_no_value():
    with pytest.raises(EvaluationError, match="disconnected"):
        measure_zen(cell_network(DISCONNECTED))
    with pytest.raises(EvaluationError, match="neither global pooling"):
        measure_zen(nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()))
    layers = itertools.chain.from_iterable(
        (nn.Linear(64, 64, bias=False), nn.ReLU()) for _ in range(60)
    )
    deep = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), *layers, nn.Linear(64, 3))
    with pytest.raises(EvaluationError, match="range of float32"):
        measure_zen(deep)


# --- meco -----------------------------------------------------------------------------------


def smallest_eigenvalue(features):
    channels = features.detach().transpose(0, 1).flatten(1).double().numpy()
    return np.linalg.eigvalsh(np.corrcoef(channels)).min()


def test_meco_adds_the_smallest_eigenvalues_of_all_layers():
    network = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Sequential(nn.Conv2d(4, 6, 1), nn.MaxPool2d(2)),
            nn.AdaptiveAvgPool2d(1),  # six pixels cannot tell six channels apart
            nn.Flatten(),
            nn.Linear(6, 2),
        )
    )
    features = [network[0](IMAGES)]
    features.append(network[1](features[0]))
    features.append(network[2](features[1]))
    features.append(network[3][0](features[2]))
    features.append(network[3][1](features[3]))
    expected = sum(
        value for value in map(smallest_eigenvalue, features) if value > 1e-9
    )  # the 1x1 convolution makes six channels of four: their smallest eigenvalue is zero
    assert smallest_eigenvalue(features[3]) < 1e-9
    assert MeCo().measure(network, IMAGES) == pytest.approx(expected, rel=1e-5)


def test_meco_is_one_for_channels_that_do_not_correlate():
    rows = torch.tensor([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1.0]])
    assert MeCo().measure(nn.Identity(), rows.view(1, 3, 2, 2)) == pytest.approx(1)


def test_meco_looks_at_no_more_images_than_asked():
    network = seeded(lambda: ConvNet((3, 8, 8), 4, width=8, depth=1))
    assert MeCo(num_images=2).measure(network, IMAGES) == MeCo().measure(network, IMAGES[:2])


def test_meco_says_why_it_has_no_value():
    with pytest.raises(EvaluationError, match="no layer of the network puts out feature maps"):
        MeCo().measure(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), IMAGES)
    with pytest.raises(EvaluationError, match="all smallest eigenvalues are zero"):
        MeCo().measure(nn.Sequential(nn.Conv2d(3, 100, 7)), IMAGES)
    with pytest.raises(EvaluationError, match="all smallest eigenvalues are zero"):
        MeCo().measure(nn.Sequential(nn.Conv2d(3, 4, 1)), IMAGES)
    with pytest.raises(EvaluationError, match="not finite"):
        MeCo().measure(nn.ReLU(), torch.full_like(IMAGES, torch.inf))


# --- all ------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [MeCo(), Zen()], ids=score_name)
def test_activations_in_place_change_nothing_and_no_hook_stays(score):
    networks = [
        seeded(
            lambda inplace=inplace: nn.Sequential(
                nn.Conv2d(3, 4, 3),
                nn.BatchNorm2d(4),
                nn.ReLU(inplace=inplace),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(4, 3),
            )
        )
        for inplace in (False, True)
    ]
    with isolated_rng(0):
        first = score.measure(networks[0], IMAGES)
    with isolated_rng(0):
        assert score.measure(networks[1], IMAGES) == first
    assert not any(module._forward_hooks for module in networks[1].modules())


@pytest.mark.parametrize("score", [NumLayers(), SynFlow(), MeCo(), Zen()], ids=score_name)
@pytest.mark.parametrize("norm", ["none", "batch", "layer", "instance", "group"])
def test_every_score_is_defined_on_small_grey_images(score, norm):
    network = seeded(
        lambda: ConvNet((1, 8, 8), 3, width=8, depth=4, norm=norm, activation="sigmoid")
    )
    with isolated_rng(0):
        assert math.isfinite(score.measure(network, IMAGES[:, :1]))
