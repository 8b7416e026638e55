"""Statistics of batch norms that are set to those of training images under the weights as they are.

And what a training leaves behind beside its weights.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.loop import TrainResult, train
from nas_proxy.train.measuring import measure, recalibrate_norms
from nas_proxy.train.training_set import TrainingSet
from tests.train.helpers import make_settings, random_set

SETTINGS = make_settings()


class OneNorm(nn.Module):
    """A norm of the images themselves that remembers what it saw."""

    def __init__(self, dropout=0.0, **options):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.BatchNorm2d(1, **options)
        self.linear = nn.Linear(4, 3)
        self.batches = []

    def forward(self, images):
        self.batches.append(images.clone())
        return self.linear(self.norm(self.dropout(images)).flatten(1))


def recalibrated(network, training_set, seed=0):
    recalibrate_norms(network, training_set, SETTINGS, make_generator(seed))
    return network.norm.running_mean.item(), network.norm.running_var.item()


@pytest.mark.parametrize("num_images", [2, 10, 128])
def test_few_images_give_their_own_mean_and_variance(num_images):
    training_set = random_set(num_images)
    pixels = training_set.images.double().numpy()
    found = recalibrated(OneNorm(), training_set)
    assert found == pytest.approx((pixels.mean(), pixels.var(ddof=1)), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("num_images", "looked_at", "parts"), [(300, 300, 3), (700, 512, 4)])
def test_many_images_give_the_mean_over_even_batches(num_images, looked_at, parts):
    network, training_set = OneNorm(), random_set(num_images)
    found = recalibrated(network, training_set)
    batches = [batch.double().numpy() for batch in network.batches]
    assert len(batches) == parts
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    expected = [np.mean([f(b) for b in batches]) for f in (np.mean, lambda b: b.var(ddof=1))]
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    seen = {image.tobytes() for batch in network.batches for image in batch.numpy()}
    assert len(seen) == looked_at
    assert seen <= {image.tobytes() for image in training_set.images.numpy()}


def test_the_generator_says_which_images():
    training_set = random_set(700)
    found = [recalibrated(OneNorm(), training_set, seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_images_that_a_pass_repeats_count_as_often():
    order = torch.tensor([0, 0, 0, 1])
    training_set = random_set(5)
    repeated = TrainingSet(training_set.images, training_set.labels, training_set.spec, order=order)
    pixels = training_set.images[order].double().numpy()
    found = recalibrated(OneNorm(), repeated)
    assert found == pytest.approx((pixels.mean(), pixels.var(ddof=1)), rel=1e-4)


def test_images_are_normalised_as_for_training():
    dataset = tiny_dataset(image_shape=(1, 2, 2))
    mean, variance = recalibrated(OneNorm(), TrainingSet.of(dataset))
    assert (mean, variance) == pytest.approx((0, 1), abs=1e-3)


def test_dropout_stays_out_of_it_and_draws_nothing():
    training_set, network = random_set(50), OneNorm(dropout=0.5)
    before = torch.get_rng_state()
    assert recalibrated(network, training_set) == recalibrated(OneNorm(), training_set)
    # The second network's weights were drawn; the first recalibration drew nothing.
    torch.set_rng_state(before)
    recalibrated(network, training_set)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_momentum_weights_and_gradients_are_as_before(momentum):
    network = OneNorm(momentum=momentum)
    kept = {name: value.clone() for name, value in network.named_parameters()}
    recalibrated(network, random_set())
    assert network.norm.momentum == momentum
    for name, value in network.named_parameters():
        assert torch.equal(value, kept[name])
        assert value.grad is None


def test_what_was_known_before_is_forgotten():
    network, training_set = OneNorm(), random_set(60)
    expected = recalibrated(network, training_set)
    network.norm.running_mean.fill_(100)
    network.norm.running_var.fill_(100)
    network.norm.num_batches_tracked.fill_(1000)
    assert recalibrated(network, training_set) == expected


@pytest.mark.parametrize("norm", ["none", "group", "instance", "layer"])
def test_networks_without_batch_norm_are_left_alone(norm):
    with isolated_rng(0):
        network = ConvNet((3, 8, 8), 3, width=4, depth=1, norm=norm)
    network.register_forward_hook(lambda *_: pytest.fail("it was run"))
    generator = make_generator(0)
    recalibrate_norms(network, TrainingSet.of(tiny_dataset()), SETTINGS, generator)
    assert network.training
    assert torch.equal(generator.get_state(), make_generator(0).get_state())


def test_a_norm_that_keeps_no_statistics_is_left_alone():
    network = OneNorm(track_running_stats=False)
    recalibrate_norms(network, random_set(), SETTINGS, make_generator(0))
    assert network.norm.running_mean is None


class Deep(nn.Module):
    """Batch norm, and dropout, which draws from the global generator."""

    def __init__(self):
        super().__init__()
        self.body = ConvNet((3, 8, 8), 3, width=4, depth=1, norm="batch")
        self.dropout = nn.Dropout(0.3)

    def forward(self, images):
        return self.dropout(self.body(images))


def trained(observer_of):
    dataset = tiny_dataset()
    with isolated_rng(0):
        network = Deep()
        result = train(
            network, TrainingSet.of(dataset), SETTINGS, make_generator(0), observer_of(network)
        )
    return network, result


def test_looking_at_a_network_on_the_way_changes_neither_weights_nor_statistics():
    plain, result = trained(lambda network: None)

    def watch(network):
        return lambda step, indices, logits: measure(network, tiny_dataset(), SETTINGS)

    watched, same = trained(watch)
    assert same.losses == result.losses
    for name, value in watched.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_recalibrating_on_the_way_changes_no_weight():
    plain, result = trained(lambda network: None)
    generator = make_generator(5)

    def watch(network):
        training_set = TrainingSet.of(tiny_dataset())
        return lambda *_: recalibrate_norms(network, training_set, SETTINGS, generator)

    watched, same = trained(watch)
    assert same.losses == result.losses
    for name, value in watched.named_parameters():
        assert torch.equal(value, dict(plain.named_parameters())[name]), name


def test_recalibrating_mends_statistics_that_lag_behind():
    """After a few steps at a large rate the averages still remember the first weights."""
    network, _ = trained(lambda network: None)
    training_set = TrainingSet.of(tiny_dataset())
    lagging = measure(network, tiny_dataset(), SETTINGS).loss
    recalibrate_norms(network, training_set, SETTINGS, make_generator(0))
    mended = measure(network, tiny_dataset(), SETTINGS).loss
    network.train()
    network.dropout.eval()
    images, labels = training_set.batch(torch.arange(len(training_set)))
    with torch.no_grad():
        own = nn.functional.cross_entropy(network(images), labels).item()
    assert mended == pytest.approx(own, rel=0.02)
    assert abs(lagging - own) > 5 * abs(mended - own)


# --- what a training leaves behind ------------------------------------------------------------


def result_of(*losses):
    return TrainResult(tuple(losses), 1.0, 8 * len(losses))


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 9, 20])
def test_the_slope_is_the_change_of_the_fitted_line_over_the_second_half(num_steps):
    losses = np.random.default_rng(num_steps).normal(size=num_steps)
    half = losses[num_steps // 2 :]
    expected = 0.0
    if len(half) > 1:
        expected = np.polyfit(np.arange(len(half)), half, 1)[0] * (len(half) - 1)
    assert result_of(*losses).loss_slope == pytest.approx(expected, abs=1e-9)


def test_a_falling_loss_has_a_negative_slope_whatever_came_before():
    assert result_of(0, 0, 9, 4, 3, 2).loss_slope == pytest.approx(-2)
    assert result_of(5, 4, 1, 1, 1, 1).loss_slope == 0


def test_a_part_of_a_training_is_what_a_shorter_one_leaves():
    whole = result_of(*range(20))
    part = whole.until(5)
    assert part.losses == (0, 1, 2, 3, 4)
    assert (part.loss_mean, part.loss_tail) == (2, 4)
    assert part.images_seen == 40
    assert math.isnan(part.train_seconds)
    assert whole.until(20).losses == whole.losses
