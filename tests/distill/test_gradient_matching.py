"""DC, DSA and IDC: distances, derivatives and steps recomputed by hand."""

import math
from dataclasses import replace

import pytest
import torch

from nas_proxy.data.augment import DSA_STRATEGY, Augmentation
from nas_proxy.data.multi_formation import decode
from nas_proxy.data.proxy_dataset import LearningRateRule
from nas_proxy.data.transforms import normalise
from nas_proxy.distill.common import synthetic
from nas_proxy.distill.common.synthetic import RealImages, SyntheticImages
from nas_proxy.distill.gradient_matching import (
    GradientMatching,
    _real_gradients,
    gradient_distance,
)
from nas_proxy.errors import ConfigError
from nas_proxy.reproducibility import make_generator
from nas_proxy.testing import tiny_dataset
from tests.distill.helpers import (
    NUM_CLASSES,
    SMALL,
    Log,
    distill,
    loss_by_hand,
    real_images,
    remember_networks,
    small_network,
    weights_of,
)


def distance_by_hand(one, other, metric):
    """Of two weight tensors' gradients, output row by output row."""
    total = 0.0
    for row, goal in zip(one.flatten(1), other.flatten(1), strict=True):
        if metric == "cosine":
            lengths = row.square().sum().sqrt() * goal.square().sum().sqrt()
            total = total + 1 - (row * goal).sum() / (lengths + 1e-6)
        else:
            power = 2 if metric == "mse" else 1
            total = total + ((row - goal).abs() ** power).sum()
    return total


def gradient_mismatch(weights, dataset, images, per_class, metric="cosine", unmatched=()):
    """The loss, without augmentation, on all real images."""
    weights = {name: value.clone().requires_grad_() for name, value in weights.items()}
    total = 0.0
    for label in range(NUM_CLASSES):
        mine = images[label * per_class : (label + 1) * per_class]
        goal, made = (
            torch.autograd.grad(
                loss_by_hand(weights, x, torch.full((len(x),), label)),
                list(weights.values()),
                create_graph=True,
            )
            for x in (real_images(dataset, label).to(images.dtype), mine)
        )
        for name, one, other in zip(weights, goal, made, strict=True):
            if one.ndim > 1 and name not in unmatched:
                total = total + distance_by_hand(one.detach(), other, metric)
    return total


def train_by_hand(weights, velocities, images, labels, *, rate, momentum=0.0, decay=0.0):
    """One step of gradient descent with momentum and L2 penalty."""
    leaves = {name: value.requires_grad_() for name, value in weights.items()}
    slopes = torch.autograd.grad(loss_by_hand(leaves, images, labels), list(leaves.values()))
    moved = {}
    for (name, value), slope in zip(leaves.items(), slopes, strict=True):
        velocities[name] = momentum * velocities.get(name, 0.0) + slope + decay * value.detach()
        moved[name] = (value - rate * velocities[name]).detach()
    return moved


# The distance


@pytest.mark.parametrize("metric", ["cosine", "mse", "l1"])
def test_the_distance_of_gradients_is_that_of_a_loop(metric):
    generator = make_generator(0)
    shapes = [(4, 3, 3, 3), (4,), (2, 5), (1,)]
    gradients, target = (
        [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        for _ in range(2)
    )
    target[2][1] = 0.0  # the row of a dead unit
    expected = 0.0
    for one, other in zip(gradients, target, strict=True):
        if one.ndim == 1:
            continue
        for row, goal in zip(one.numpy(), other.numpy(), strict=True):
            row, goal = row.ravel(), goal.ravel()
            cosine = row @ goal / (math.sqrt(row @ row) * math.sqrt(goal @ goal) + 1e-6)
            difference = [abs(a - b) for a, b in zip(row, goal, strict=True)]
            distances = {"mse": sum(d * d for d in difference), "l1": sum(difference)}
            expected += {**distances, "cosine": 1 - cosine}[metric]
    found = gradient_distance(gradients, target, metric)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_rows_without_gradient_count_one_and_give_finite_derivatives():
    gradient = torch.zeros(3, 4, requires_grad=True)
    target = torch.tensor([[0.0] * 4, [1.0] * 4, [2.0] * 4])
    distance = gradient_distance([gradient], [target])
    assert float(distance.detach()) == 3.0
    distance.backward()
    assert gradient.grad.isfinite().all()


def test_equal_and_opposite_gradients_are_the_extremes():
    gradient = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert float(gradient_distance([gradient], [7 * gradient])) == pytest.approx(0, abs=1e-5)
    assert float(gradient_distance([gradient], [-gradient])) == pytest.approx(4, abs=1e-5)
    assert float(gradient_distance([gradient], [-gradient], "mse")) == 4 * 26
    assert float(gradient_distance([gradient], [-gradient], "l1")) == 2 * 8


class DoubleImages(RealImages):
    """Real images in double precision."""

    def batch(self, label, generator):
        return super().batch(label, generator).double()


@pytest.mark.parametrize("metric", ["cosine", "mse"])
def test_the_derivative_to_the_pixels_is_that_of_finite_differences(metric):
    dataset = tiny_dataset(image_shape=(3, 6, 6))
    distiller = GradientMatching(
        outer_loop=1, image_learning_rate=1.0, image_momentum=0.0, metric=metric
    )
    network = small_network(image_shape=(3, 6, 6)).double()
    start = torch.randn(6, 3, 6, 6, generator=make_generator(0), dtype=torch.float64)

    def step(images):
        """The loss at `images`, and the images after one step of length one."""
        images = images.clone().requires_grad_()
        synthetic = SyntheticImages(
            images=images,
            classes=torch.arange(3).repeat_interleave(2),
            images_per_class=2,
            spec=dataset.spec,
            optimiser=torch.optim.SGD([images], lr=1.0),
        )
        loss = distiller.iterate(synthetic, DoubleImages(dataset, 256), network, seed=0)
        return loss, images.detach()

    loss, moved = step(start)
    by_hand = gradient_mismatch(weights_of(network), dataset, start, 2, metric)
    assert loss == pytest.approx(float(by_hand.detach()), rel=1e-6)
    gradient = (start - moved).flatten()
    assert float(gradient.abs().max()) > 1e-3
    for pixel in (0, 50, 130, 200, 333, 600, 647):
        nudge = torch.zeros_like(start)
        nudge.view(-1)[pixel] = 1e-5
        slope = (step(start + nudge)[0] - step(start - nudge)[0]) / 2e-5
        assert float(gradient[pixel]) == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_the_gradient_of_the_parts_of_a_batch_is_that_of_the_whole(monkeypatch):
    network, images = small_network(), torch.randn(23, 3, 8, 8, generator=make_generator(0))
    weights = list(network.parameters())
    loss = torch.nn.functional.cross_entropy(network(images), torch.full((23,), 1))
    whole = torch.autograd.grad(loss, weights)
    monkeypatch.setattr(synthetic, "_CACHED_VALUES", 5 * 4 * 8 * 8)  # five images at most
    for one, other in zip(_real_gradients(network, images, 1, weights), whole, strict=True):
        torch.testing.assert_close(one, other)


# DC and DSA


@pytest.mark.parametrize("init", ["noise", "real"])
def test_dc_follows_the_training_of_each_network_on_the_images(monkeypatch, init):
    networks = remember_networks(monkeypatch)
    dataset, log = tiny_dataset(), Log()
    distiller = GradientMatching(
        num_steps=2,
        outer_loop=3,
        inner_loop=2,
        init=init,
        image_learning_rate=0.2,
        network_learning_rate=0.05,
        **SMALL,
    )
    result = distill(distiller, progress=log)
    images, labels = distiller.initialise(dataset, 2, make_generator(0))
    velocity, losses = 0.0, []
    for weights in networks:
        for update in range(3):
            images = images.detach().requires_grad_()
            loss = gradient_mismatch(weights, dataset, images, 2)
            losses.append(float(loss.detach()))
            velocity = 0.5 * velocity + torch.autograd.grad(loss, images)[0]
            images = (images - 0.2 * velocity).detach()
            for _ in range(2 if update < 2 else 0):  # six images are one batch
                weights = train_by_hand(weights, {}, images, labels, rate=0.05)
    torch.testing.assert_close(result.images, images, rtol=1e-3, atol=1e-4)
    means = [sum(losses[at : at + 3]) / 3 for at in (0, 3)]
    assert log.losses == pytest.approx(means, rel=0.01)
    assert len(networks) == 2


def test_noise_comes_to_push_like_the_data():
    dataset = tiny_dataset()
    distiller = GradientMatching(
        num_steps=30, outer_loop=1, inner_loop=1, image_learning_rate=1.0, **SMALL
    )
    start, _ = distiller.initialise(dataset, 2, make_generator(0))
    result = distill(distiller)
    probes = [weights_of(small_network(seed)) for seed in range(100, 105)]

    def distance(images):
        return sum(float(gradient_mismatch(w, dataset, images, 2).detach()) for w in probes)

    assert distance(result.images) < 0.8 * distance(start)


@pytest.mark.parametrize("augment", ["color", "crop", "cutout", "rotate", DSA_STRATEGY])
@pytest.mark.parametrize("jointly", [False, True])
def test_gradients_are_compared_under_the_same_change(augment, jointly):
    log = Log()
    distiller = GradientMatching(
        num_steps=4, outer_loop=1, init="real", augment=augment, augment_jointly=jointly, **SMALL
    )
    distill(distiller, images_per_class=8, progress=log)
    assert max(log.losses) < 0.01  # of 33 rows


@pytest.mark.parametrize(
    ("images_per_class", "outer", "inner"),
    [
        (1, 1, 1),
        (10, 10, 50),
        (20, 20, 25),
        (30, 30, 20),
        (40, 40, 15),
        (50, 50, 10),
        (2, 2, 250),
        (5, 5, 100),
        (100, 100, 5),
        (1000, 1000, 1),
    ],
)
def test_loops_are_the_published_ones_unless_they_are_said(images_per_class, outer, inner):
    assert GradientMatching().loops(images_per_class) == (outer, inner)
    assert GradientMatching(outer_loop=3).loops(images_per_class) == (3, inner)
    assert GradientMatching(inner_loop=7).loops(images_per_class) == (outer, 7)


def test_the_defaults_are_those_of_dc():
    method = GradientMatching()
    assert (method.num_steps, method.image_learning_rate) == (1000, 0.1)
    assert (method.init, method.augment, method.decode_factor) == ("noise", "", 1)
    assert (method.image_momentum, method.real_batch_size) == (0.5, 256)
    assert (method.metric, method.match_classifier) == ("cosine", True)
    assert (method.network_trains_on, method.network_batch_size) == ("synthetic", 256)
    assert (method.network_learning_rate, method.network_momentum) == (0.01, 0.0)
    assert method.network_weight_decay == 0.0
    result = distill(GradientMatching(num_steps=1, outer_loop=1, augment="color", **SMALL))
    assert result.learning_rate_rule == LearningRateRule()
    assert result.augmentation == Augmentation(dsa="color")


# IDC


def small_idc(**changes):
    """All that makes IDC, without what is drawn at random."""
    plain = {
        "augment": "",
        "network_augmentation": Augmentation(),
        "network_batch_size": 24,  # all real images: their order does not count
        "synthetic_batch_size": None,
        "clip_pixels": False,
        "decode_factor": 1,
        "num_steps": 2,
        "outer_loop": 3,
        "real_steps": 2,
        **SMALL,
    }
    return replace(GradientMatching.idc(10), **{**plain, **changes})


@pytest.mark.parametrize("metric", ["mse", "l1"])
def test_idc_follows_one_training_of_each_network_on_real_images(monkeypatch, metric):
    networks = remember_networks(monkeypatch)
    dataset, log = tiny_dataset(), Log()
    distiller = small_idc(metric=metric, image_learning_rate=0.02, network_learning_rate=0.05)
    result = distill(distiller, progress=log)
    images, _ = distiller.initialise(dataset, 2, make_generator(0))
    real = normalise(dataset.images, dataset.spec)
    velocity, losses = 0.0, []
    for weights in networks:
        velocities = {}  # of the weights: they last from update to update
        for update in range(3):
            images = images.detach().requires_grad_()
            loss = gradient_mismatch(
                weights, dataset, images, 2, metric, unmatched=("classifier.weight",)
            )
            losses.append(float(loss.detach()))
            velocity = 0.5 * velocity + torch.autograd.grad(loss, images)[0]
            images = (images - 0.02 * velocity).detach()
            for _ in range(2 if update < 2 else 0):
                weights = train_by_hand(
                    weights, velocities, real, dataset.labels, rate=0.05, momentum=0.9, decay=5e-4
                )
    torch.testing.assert_close(result.images, images, rtol=1e-3, atol=1e-4)
    assert len(networks) == 2
    means = [sum(losses[at : at + 3]) / 3 for at in (0, 3)]
    assert log.losses == pytest.approx(means, rel=0.01)


def test_idc_matches_the_training_images_that_its_tiles_hold(monkeypatch):
    networks = remember_networks(monkeypatch)
    log = Log()
    distiller = small_idc(decode_factor=2, num_steps=1, outer_loop=1)
    distill(distiller, progress=log)
    images, _ = distiller.initialise(tiny_dataset(), 2, make_generator(0))
    loss = gradient_mismatch(
        networks[0], tiny_dataset(), decode(images, 2), 8, "mse", unmatched=("classifier.weight",)
    )
    assert log.losses == pytest.approx([float(loss.detach())], rel=0.01)


def test_a_synthetic_batch_is_drawn_from_each_class(monkeypatch):
    counts = []

    def counted(self, real, synthetic, seed):
        counts.append(
            (len(real), len(synthetic), len({float(x.detach().sum()) for x in synthetic}))
        )
        return real, synthetic

    monkeypatch.setattr(GradientMatching, "augmented_pair", counted)
    distill(small_idc(synthetic_batch_size=3, num_steps=1, outer_loop=2), images_per_class=5)
    assert counts == [(8, 3, 3)] * 6
    counts.clear()
    distill(small_idc(synthetic_batch_size=9, num_steps=1, outer_loop=1), images_per_class=5)
    assert counts == [(8, 5, 5)] * 3


def test_clipped_pixels_are_colours_when_a_network_comes():
    dataset = tiny_dataset()
    limits = normalise(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1), dataset.spec)
    seen = []

    class Watched(GradientMatching):
        def _matching_loss(self, synthetic, *args, **options):
            seen.append(synthetic.images.detach().clone())
            return super()._matching_loss(synthetic, *args, **options)

    noise = {"init": "noise", "num_steps": 2, "outer_loop": 2, "image_learning_rate": 5.0}
    options = {**vars(small_idc(**noise)), "clip_pixels": True}
    Watched.name = "watched"
    distill(Watched(**options))
    for step in (0, 2):
        assert (seen[step] >= limits[0] - 1e-6).all()
        assert (seen[step] <= limits[1] + 1e-6).all()
    assert (seen[0] == limits[0]).any()  # noise went beyond
    assert (seen[1] > limits[1]).any()  # between networks pixels are free


def test_idc_has_the_published_settings():
    method = GradientMatching.idc(10)
    assert (method.num_steps, method.outer_loop, method.real_steps) == (2000, 100, 32)
    assert (method.metric, method.match_classifier, method.decode_factor) == ("mse", False, 2)
    assert (method.real_batch_size, method.synthetic_batch_size) == (64, 128)
    assert (method.network_batch_size, method.network_learning_rate) == (64, 0.01)
    assert (method.network_momentum, method.network_weight_decay) == (0.9, 5e-4)
    assert (method.augment, method.augment_jointly) == ("color_crop_cutout", True)
    # 0.005 for pixels in [0, 1], whose deviation is .25; in proportion to the images.
    assert method.image_learning_rate == pytest.approx(0.005 / 0.25**2)
    assert GradientMatching.idc(50).image_learning_rate == pytest.approx(0.4)


def test_what_idc_makes_asks_for_its_own_training():
    augmentation = Augmentation(crop=0.125, flip=True, dsa="color", cutmix=1.0)
    result = distill(replace(GradientMatching.idc(2), num_steps=1, outer_loop=2, **SMALL))
    assert result.augmentation == augmentation
    assert result.learning_rate_rule == LearningRateRule(batch_size=64)
    assert result.decode_factor == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_pixels": True}, "clip_pixels does not go with zca"),
        ({"network_trains_on": "real"}, "network_trains_on: real does not go with zca"),
    ],
)
def test_what_is_not_defined_for_whitened_images_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        GradientMatching(zca=0.1, **options)
