"""Scores that look at derivatives, recomputed by hand and by finite differences."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas_proxy.errors import EvaluationError
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.scores.fisher import Fisher
from nas_proxy.scores.grad_norm import GradNorm
from nas_proxy.scores.grasp import GraSP
from nas_proxy.scores.jacobian_covariance import JacobianCovariance
from nas_proxy.scores.snip import SNIP
from nas_proxy.scores.zico import ZiCo
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.testing import tiny_dataset

IMAGES = torch.randn(8, 2, 4, 4, generator=make_generator(0), dtype=torch.float64)
LABELS = torch.tensor([0, 2, 1, 1, 0, 2, 2, 0])
LOSS_SCORES = [GradNorm(), SNIP(), GraSP(), Fisher(), ZiCo()]
ALL_SCORES = [*LOSS_SCORES, JacobianCovariance()]


def score_name(score):
    return score.name


def seeded(build):
    with isolated_rng(1):
        return build().double()


def linear_network():
    """Two linear layers without biases: logits = W2 W1 x."""
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 5, bias=False), nn.Linear(5, 3, bias=False))


def smooth_network():
    """A convolution, a norm that uses the batch, and a bias, all differentiable twice."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)
    )


def gradients_by_hand(network, images, labels):
    """Of the mean cross-entropy of `linear_network`, with the weights: numpy, layer by layer."""
    x = images.flatten(1).numpy()
    one, two = (weight.detach().numpy() for weight in network.parameters())
    hidden = x @ one.T
    exponentials = np.exp(hidden @ two.T)
    errors = exponentials / exponentials.sum(axis=1, keepdims=True) - np.eye(3)[labels]
    errors /= len(x)
    return [(one, (errors @ two).T @ x), (two, errors.T @ hidden)]


def loss_of(network, images=IMAGES, labels=LABELS):
    with torch.no_grad():
        return float(F.cross_entropy(network.train()(images), labels))


# --- grad_norm and snip ---------------------------------------------------------------------


def test_grad_norm_adds_the_norms_of_the_layers():
    network = seeded(linear_network)
    pairs = gradients_by_hand(network, IMAGES, LABELS)
    expected = sum(np.sqrt((gradient**2).sum()) for _, gradient in pairs)
    score = GradNorm().measure_labelled(network, IMAGES, LABELS)
    assert score == pytest.approx(expected, rel=1e-9)


def test_snip_multiplies_weights_and_gradients():
    network = seeded(linear_network)
    pairs = gradients_by_hand(network, IMAGES, LABELS)
    expected = sum(np.abs(weight * gradient).sum() for weight, gradient in pairs)
    assert SNIP().measure_labelled(network, IMAGES, LABELS) == pytest.approx(expected, rel=1e-9)


def test_snip_is_what_scaling_each_weight_does_to_the_loss():
    network = seeded(smooth_network)
    expected, step = 0.0, 1e-5
    for layer in (network[0], network[4]):
        weights = layer.weight.data.view(-1)
        for index in range(0, len(weights)):
            weight, losses = float(weights[index]), []
            for factor in (1 + step, 1 - step):
                weights[index] = weight * factor
                losses.append(loss_of(network))
            weights[index] = weight
            expected += abs(losses[0] - losses[1]) / (2 * step)
    score = SNIP().measure_labelled(network, IMAGES, LABELS)
    assert score == pytest.approx(expected, rel=1e-5)


# --- grasp ----------------------------------------------------------------------------------


def test_grasp_is_how_the_gradient_shrinks_when_all_weights_grow():
    """-w H g is minus half the derivative of |g|^2 by a common factor of all weights."""
    network, step, squares = seeded(smooth_network), 1e-4, []
    for factor in (1 + step, 1 - step):
        scaled = copy.deepcopy(network).train()
        weights = [scaled[0].weight, scaled[4].weight]
        with torch.no_grad():
            for weight in weights:
                weight.mul_(factor)
        gradients = torch.autograd.grad(F.cross_entropy(scaled(IMAGES), LABELS), weights)
        squares.append(sum(float(gradient.square().sum()) for gradient in gradients))
    expected = -(squares[0] - squares[1]) / (4 * step)
    score = GraSP().measure_labelled(network, IMAGES, LABELS)
    assert score == pytest.approx(expected, rel=1e-5)


# --- fisher ---------------------------------------------------------------------------------


def test_fisher_is_what_scaling_each_channel_of_each_image_does_to_the_loss():
    network, step, expected = seeded(smooth_network), 1e-5, 0.0
    for layer, num_channels, weights_per_channel in ((network[0], 3, 18), (network[4], 3, 48)):
        for channel in range(num_channels):
            for image in range(len(IMAGES)):
                losses = []
                for factor in (1 + step, 1 - step):

                    def scale(_, __, output, at=(image, channel), factor=factor):
                        output = output.clone()
                        output[at] *= factor
                        return output

                    handle = layer.register_forward_hook(scale)
                    losses.append(loss_of(network))
                    handle.remove()
                change = (losses[0] - losses[1]) / (2 * step)
                expected += change**2 / 2 / len(IMAGES) * weights_per_channel
    score = Fisher().measure_labelled(network, IMAGES, LABELS)
    assert score == pytest.approx(expected, rel=1e-5)


def test_fisher_takes_the_last_dimension_of_a_linear_layer_as_its_channels():
    """A linear layer over pixels is a 1x1 convolution."""

    class ChannelsLast(nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.linear = linear

        def forward(self, images):
            return self.linear(images.movedim(1, -1)).movedim(-1, 1)

    convolution = seeded(lambda: nn.Conv2d(2, 3, 1))
    linear = nn.Linear(2, 3).double()
    linear.load_state_dict(
        {k: v.flatten(1) if v.ndim > 1 else v for k, v in convolution.state_dict().items()}
    )
    rest = seeded(lambda: nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)))
    scores = [
        Fisher().measure_labelled(nn.Sequential(first, rest), IMAGES, LABELS)
        for first in (convolution, ChannelsLast(linear))
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-9)


# --- zico -----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_batches", [2, 4])
def test_zico_compares_the_gradients_of_batches(num_batches):
    network, size = seeded(linear_network), 8 // num_batches
    batches = [
        gradients_by_hand(network, IMAGES[start : start + size], LABELS[start : start + size])
        for start in range(0, 8, size)
    ]
    expected = 0.0
    for layer in zip(*batches, strict=True):
        gradients = np.array([gradient for _, gradient in layer])
        expected += math.log((np.abs(gradients).mean(axis=0) / gradients.std(axis=0)).sum())
    score = ZiCo(num_batches=num_batches).measure_labelled(network, IMAGES, LABELS)
    assert score == pytest.approx(expected, rel=1e-9)


def test_zico_leaves_out_what_does_not_deviate():
    """Half of the inputs are zero, and so are the gradients of their weights."""
    network = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(32, 3, bias=False)))
    images = IMAGES.clone()
    images[:, 1] = 0
    half = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False)).double()
    half[1].weight.data = network[1].weight.data[:, :16].clone()
    whole_score = ZiCo().measure_labelled(network, images, LABELS)
    half_score = ZiCo().measure_labelled(half, images[:, :1], LABELS)
    assert whole_score == pytest.approx(half_score, rel=1e-9)


def test_zico_refuses_batches_that_are_all_alike():
    images, labels = IMAGES[:4].repeat(2, 1, 1, 1), LABELS[:4].repeat(2)
    with pytest.raises(EvaluationError, match="nothing deviates"):
        ZiCo().measure_labelled(seeded(linear_network), images, labels)


# --- jacobian_covariance --------------------------------------------------------------------


def from_slopes(slopes):
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(slopes)) + 1e-5
    return -(np.log(eigenvalues) + 1 / eigenvalues).sum()


def test_jacobian_covariance_from_an_analytic_jacobian():
    network = seeded(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, 3))
    )
    one, one_bias, two, _ = (weight.detach().numpy() for weight in network.parameters())
    active = IMAGES.flatten(1).numpy() @ one.T + one_bias > 0
    expected = from_slopes((active * two.sum(axis=0)) @ one)
    assert JacobianCovariance().measure(network, IMAGES) == pytest.approx(expected, rel=1e-6)


def test_jacobian_covariance_is_highest_where_slopes_do_not_correlate():
    class Product(nn.Module):
        """Logits whose sum is the sum of the squared pixels, so that the slope is twice them."""

        def forward(self, images):
            return images.flatten(1).square()

    rows = torch.tensor([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]).double()
    score = JacobianCovariance().measure(Product(), rows.view(3, 1, 2, 2))
    assert score == pytest.approx(-3, abs=1e-4)
    assert JacobianCovariance().measure(Product(), IMAGES[:3, :1]) < score


def test_jacobian_covariance_refuses_a_slope_that_is_alike_everywhere():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(EvaluationError, match="alike on all pixels"):
        JacobianCovariance().measure(network, IMAGES[:, :1])


def test_jacobian_covariance_uses_the_batch_statistics_of_norms():
    network = seeded(smooth_network)
    shifted = copy.deepcopy(network).eval()
    shifted[1].running_mean.fill_(100.0)
    scores = [JacobianCovariance().measure(built, IMAGES) for built in (network, shifted)]
    assert scores[0] == scores[1]


# --- all ------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ALL_SCORES, ids=score_name)
def test_no_more_images_than_asked(score):
    network = seeded(smooth_network)
    few = type(score)(num_images=4).measure_labelled(copy.deepcopy(network), IMAGES, LABELS)
    assert few == score.measure_labelled(network, IMAGES[:4], LABELS[:4])


@pytest.mark.parametrize("score", LOSS_SCORES, ids=score_name)
def test_the_classes_matter(score):
    scores = {
        score.measure_labelled(seeded(smooth_network), IMAGES, labels)
        for labels in (LABELS, 2 - LABELS)
    }
    assert len(scores) == 2


@pytest.mark.parametrize("score", ALL_SCORES, ids=score_name)
def test_activations_in_place_change_nothing(score):
    plain, in_place = (
        seeded(
            lambda inplace=inplace: nn.Sequential(
                nn.Conv2d(2, 3, 3),
                nn.ELU(inplace=inplace),
                nn.Conv2d(3, 4, 1),
                nn.ELU(inplace=inplace),
                nn.Flatten(),
                nn.Linear(16, 3),
            )
        )
        for inplace in (False, True)
    )
    scores = [score.measure_labelled(network, IMAGES, LABELS) for network in (plain, in_place)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-9)
    assert not any(module._forward_hooks for module in plain.modules())


@pytest.mark.parametrize("score", ALL_SCORES, ids=score_name)
def test_measured_inside_no_grad(score):
    scores = []
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled):
            scores.append(score.measure_labelled(seeded(smooth_network), IMAGES, LABELS))
    assert scores[0] == scores[1]


@pytest.mark.parametrize("score", [s for s in ALL_SCORES if s.name != "fisher"], ids=score_name)
def test_a_network_through_which_nothing_flows_is_refused(score):
    space = NASBench201Space(num_cells=1, channels=4)
    spec = tiny_dataset().spec
    architecture = space.from_string("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    images = torch.randn(8, 3, 8, 8, generator=make_generator(0))
    with isolated_rng(0), pytest.raises(EvaluationError, match="disconnected|do not depend"):
        score.measure_labelled(space.build(architecture, spec), images, LABELS)


def test_fisher_of_a_disconnected_network_is_what_the_last_biases_do():
    """The only outputs that are not zero are the logits, which are their layer's biases."""
    network = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(32, 5), nn.Linear(5, 3)))
    network[1].weight.data.zero_()
    network[1].bias.data.zero_()
    logits = network[2].bias.detach()
    errors = logits.softmax(dim=0) - F.one_hot(LABELS, 3)
    expected = float((logits * errors / 8).square().mean(dim=0).sum() / 2 * 5)
    score = Fisher().measure_labelled(network, IMAGES, LABELS)
    assert score == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("score", LOSS_SCORES, ids=score_name)
def test_without_weights_there_is_no_score(score):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(EvaluationError, match="no convolution and no linear layer"):
        score.measure_labelled(network, IMAGES, LABELS % 2)


@pytest.mark.parametrize("score", ALL_SCORES, ids=score_name)
def test_infinite_weights_are_refused(score):
    network = seeded(smooth_network)
    network[4].weight.data.fill_(torch.inf)
    with pytest.raises(EvaluationError, match="not finite"):
        score.measure_labelled(network, IMAGES, LABELS)


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "instance", "group"])
@pytest.mark.parametrize("activation", ["sigmoid", "leaky_relu"])
def test_every_score_is_defined_on_small_grey_images(norm, activation):
    images = torch.randn(8, 1, 8, 8, generator=make_generator(0))
    for score in ALL_SCORES:
        with isolated_rng(0):
            network = ConvNet(
                (1, 8, 8), 3, width=8, depth=2, norm=norm, activation=activation, pooling="max"
            )
        assert math.isfinite(score.measure_labelled(network, images, LABELS)), score.name
