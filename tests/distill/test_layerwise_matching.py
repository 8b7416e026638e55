"""DataDAM and CAFE: their losses and steps recomputed by hand."""

from dataclasses import replace

import pytest
import torch

from nas_proxy.data.augment import DSA_STRATEGY
from nas_proxy.distill.layerwise_matching import (
    LayerwiseMatching,
    attention_map,
    discrimination_loss,
)
from nas_proxy.errors import ConfigError
from nas_proxy.networks.base import has_batchnorm
from nas_proxy.reproducibility import make_generator
from nas_proxy.testing import tiny_dataset
from tests.distill.helpers import (
    NUM_CLASSES,
    SMALL,
    Log,
    blocks_by_hand,
    distill,
    real_images,
    remember_networks,
    small_network,
    weights_of,
)

ATTENTION = LayerwiseMatching(augment="", **SMALL)
FEATURES = replace(LayerwiseMatching.cafe(), init="real", **SMALL)


def classes_of(images, per_class):
    return [images[label * per_class : (label + 1) * per_class] for label in range(NUM_CLASSES)]


def layers_by_hand(weights, classes, norm):
    """For each class the rectified maps of both blocks and the pooled output of the second.

    With batch norm all classes share one batch, otherwise each image is by itself.
    """
    sizes = [len(images) for images in classes]
    layers = [layer.split(sizes) for layer in blocks_by_hand(weights, torch.cat(classes), norm)]
    return list(zip(*layers, strict=True))


def attention_by_hand(activation, power):
    """The sum over channels of powers, divided by the length of each map."""
    num, channels, _, _ = activation.shape
    maps = sum(activation[:, channel] ** power for channel in range(channels)).view(num, -1)
    return maps / (maps * maps).sum(dim=1, keepdim=True).sqrt()


def datadam_by_hand(weights, real, synthetic, *, norm="batch", power=4, embedding_weight=0.01):
    total = 0.0
    pairs = zip(
        layers_by_hand(weights, real, norm), layers_by_hand(weights, synthetic, norm), strict=True
    )
    for (real_map, _, real_end), (map_, _, end) in pairs:
        goal = attention_by_hand(real_map, power).mean(dim=0)
        total = total + (goal - attention_by_hand(map_, power).mean(dim=0)).square().sum()
        difference = (real_end.mean(dim=0) - end.mean(dim=0)).square().sum()
        total = total + embedding_weight * difference
    return 100 * total


def cafe_by_hand(weights, real, synthetic, *, layer_weights=(0.1, 1.0, 1.0), beta=0.01):
    """`layer_weights`: of the first block, the second block, and its pooled output."""
    total, centres, embeddings = 0.0, [], []
    pairs = zip(
        layers_by_hand(weights, real, "instance"),
        layers_by_hand(weights, synthetic, "instance"),
        strict=True,
    )
    for real_layers, layers in pairs:
        for weight, goal, made in zip(layer_weights, real_layers, layers, strict=True):
            total = total + weight * (goal.mean(dim=0) - made.mean(dim=0)).square().sum()
        end = layers[-1].mean(dim=0)
        total = total + (real_layers[-1].mean(dim=0) - end).square().sum()
        centres.append(end.flatten())
        embeddings.append(real_layers[-1].flatten(1))
    for label, batch in enumerate(embeddings):
        for embedding in batch:
            products = torch.stack([embedding @ centre for centre in centres])
            total = total - beta * products.log_softmax(dim=0)[label]
    return total


CASES = {
    "attention": (ATTENTION, datadam_by_hand),
    "attention, instance norm, power 1": (
        replace(ATTENTION, attention_power=1, network_norm="instance"),
        lambda *args: datadam_by_hand(*args, norm="instance", power=1),
    ),
    "attention alone": (
        replace(ATTENTION, embedding_weight=0.0),
        lambda *args: datadam_by_hand(*args, embedding_weight=0.0),
    ),
    "features": (FEATURES, cafe_by_hand),
    "features, one weight, no discrimination": (
        replace(FEATURES, layer_weights=(0.3,), discrimination_weight=0.0),
        lambda *args: cafe_by_hand(*args, layer_weights=(0.3, 0.3, 0.3), beta=0.0),
    ),
    "features, deep first": (
        replace(FEATURES, layer_weights=(3.0, 0.0, 2.0)),
        lambda *args: cafe_by_hand(*args, layer_weights=(2.0, 0.0, 3.0)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_step_is_descent_on_the_loss_written_out(monkeypatch, case):
    method, loss_by_hand = CASES[case]
    networks = remember_networks(monkeypatch)
    dataset, log = tiny_dataset(), Log()
    rate = 0.05
    distiller = replace(method, num_steps=2, image_learning_rate=rate)
    result = distill(distiller, progress=log)
    images, _ = distiller.initialise(dataset, 2, make_generator(0))
    real = [real_images(dataset, label) for label in range(NUM_CLASSES)]
    start, velocity, losses = images.clone(), 0.0, []
    assert len(networks) == 2
    for weights in networks:
        images = images.detach().requires_grad_()
        loss = loss_by_hand(weights, real, classes_of(images, 2))
        losses.append(float(loss.detach()))
        velocity = 0.5 * velocity + torch.autograd.grad(loss, images)[0]
        images = images - rate * velocity
    torch.testing.assert_close(result.images, images.detach(), rtol=1e-3, atol=1e-4)
    assert log.losses == pytest.approx(losses, rel=0.01)
    assert float((result.images - start).abs().max()) > 0.01


@pytest.mark.parametrize("method", [ATTENTION, FEATURES], ids=["attention", "features"])
def test_the_derivative_is_that_of_finite_differences(method):
    dataset = tiny_dataset()
    network = small_network(norm=method.network_norm).double().requires_grad_(False)
    real = [real_images(dataset, label).double() for label in range(NUM_CLASSES)]
    start = torch.randn(6, 3, 8, 8, generator=make_generator(1), dtype=torch.float64)

    def loss_at(images):
        target = method.describe(network, real)
        return method.loss(method.describe(network, classes_of(images, 2)), target)

    images = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_at(images), images)
    for pixel in (0, 77, 400, 700, 1151):
        nudge = torch.zeros_like(start)
        nudge.view(-1)[pixel] = 1e-5
        slope = (float(loss_at(start + nudge)) - float(loss_at(start - nudge))) / 2e-5
        assert float(gradient.view(-1)[pixel]) == pytest.approx(slope, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("augment", ["", "color", "crop", "cutout", "flip", DSA_STRATEGY])
@pytest.mark.parametrize("method", [ATTENTION, FEATURES], ids=["attention", "features"])
def test_all_images_of_a_class_match_themselves_under_the_same_change(method, augment):
    log = Log()
    distiller = replace(
        method, num_steps=4, augment=augment, init="real", discrimination_weight=0.0
    )
    distill(distiller, images_per_class=8, progress=log)
    assert max(log.losses) < 1e-6


def test_attention_looks_where_features_are_strong_and_not_how_strong_they_are():
    activation = torch.rand(2, 5, 4, 4, generator=make_generator(0))
    weak = torch.cat([activation[:1], 0.01 * activation[:1]])
    maps = attention_map(weak, 4)
    torch.testing.assert_close(maps[0], maps[1])
    torch.testing.assert_close(attention_map(-activation, 4), attention_map(activation, 4))
    assert attention_map(activation, 2).norm(dim=1).tolist() == pytest.approx([1, 1])
    spike = torch.zeros(1, 3, 2, 2)
    spike[0, 1, 1, 0] = 7.0
    assert attention_map(spike, 4).tolist() == [[0, 0, 1, 0]]
    assert attention_map(torch.zeros(1, 3, 2, 2), 4).tolist() == [[0, 0, 0, 0]]


def test_the_discrimination_loss_of_what_says_nothing_is_that_of_guessing():
    embeddings = [torch.randn(n, 5, generator=make_generator(n)) for n in (4, 2, 7)]
    guessing = discrimination_loss(torch.zeros(3, 5), embeddings)
    assert float(guessing) == pytest.approx(13 * torch.tensor(3.0).log())
    centres = torch.stack([batch.mean(dim=0) for batch in embeddings])
    assert discrimination_loss(centres, embeddings) < guessing
    assert discrimination_loss(centres.roll(1, dims=0), embeddings) > guessing


def test_classes_of_different_sizes_are_each_described_by_their_own_mean():
    classes = [torch.randn(n, 3, 8, 8, generator=make_generator(n)) for n in (5, 1, 3)]
    for method in (ATTENTION, replace(ATTENTION, network_norm="instance"), FEATURES):
        network = small_network(norm=method.network_norm).requires_grad_(False)
        found = method.describe(network, classes)
        assert [len(batch) for batch in found.embeddings] == [5, 1, 3]
        by_hand = layers_by_hand(weights_of(network), classes, method.network_norm)
        ends = torch.stack([layers[-1].flatten(1).mean(dim=0) for layers in by_hand])
        torch.testing.assert_close(found.means[-1], ends, rtol=1e-4, atol=1e-5)


def quadrants():
    """Dark noise with a bright quadrant, at another place for each class."""
    dataset = tiny_dataset()
    images = dataset.images // 4
    for image, label in zip(images, dataset.labels.tolist(), strict=True):
        row, column = divmod(label, 2)
        image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 150
    return replace(dataset, images=images)


@pytest.mark.parametrize(
    ("method", "rate", "share"),
    [
        (ATTENTION, 1.0, 0.85),
        (replace(ATTENTION, attention_power=1), 1.0, 0.3),
        (FEATURES, 0.1, 0.5),
    ],
    ids=["attention", "attention to the power 1", "features"],
)
def test_noise_moves_towards_the_data_in_networks_that_it_has_not_met(method, rate, share):
    dataset = quadrants()
    distiller = replace(method, num_steps=60, image_learning_rate=rate, init="noise")
    start, _ = distiller.initialise(dataset, 2, make_generator(0))
    result = distill(distiller, dataset=dataset)
    real = [real_images(dataset, label) for label in range(NUM_CLASSES)]

    def distance(images):
        total = 0.0
        for seed in range(100, 105):
            network = small_network(seed, norm=method.network_norm).requires_grad_(False)
            target = method.describe(network, real)
            total += float(method.loss(method.describe(network, classes_of(images, 2)), target))
        return total

    assert distance(result.images) < share * distance(start)


@pytest.mark.parametrize(("depth", "num_layers"), [(1, 1), (2, 2), (3, 3)])
def test_every_block_but_the_last_has_an_attention_map_and_the_embedding_ends_it(depth, num_layers):
    network = small_network(norm="batch", depth=depth).requires_grad_(False)
    classes = [torch.randn(2, 3, 8, 8, generator=make_generator(n)) for n in range(3)]
    sizes = [layer.shape[1] for layer in ATTENTION.describe(network, classes).means]
    assert sizes == [64, 16, 4 * 1 * 1][: num_layers - 1] + [4 * (8 >> depth) ** 2]
    sizes = [layer.shape[1] for layer in FEATURES.describe(network, classes).means]
    assert sizes == [4 * 64, 4 * 16, 4 * 4][:depth] + [4 * (8 >> depth) ** 2]


def test_the_defaults_are_those_of_datadam():
    method = LayerwiseMatching()
    assert (method.matching, method.attention_power, method.embedding_weight) == (
        "attention",
        4,
        0.01,
    )
    assert (method.num_steps, method.image_learning_rate) == (20_000, 1.0)
    assert (method.image_momentum, method.real_batch_size) == (0.5, 64)
    assert (method.init, method.augment) == ("real", DSA_STRATEGY)
    assert has_batchnorm(small_network(norm=method.network_norm))


def test_cafe_has_the_published_settings():
    method = LayerwiseMatching.cafe()
    assert (method.matching, method.layer_weights) == ("features", (1.0, 1.0, 0.1, 0.1))
    assert (method.discrimination_weight, method.network_norm) == (0.01, "instance")
    assert (method.num_steps, method.image_learning_rate) == (2000, 0.1)
    assert (method.real_batch_size, method.init, method.augment) == (256, "noise", "")


def test_no_weights_are_refused():
    with pytest.raises(ConfigError, match="layer_weights is empty"):
        LayerwiseMatching(layer_weights=())
