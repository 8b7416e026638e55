"""The training loop: its steps against a reference by hand, its batches, and its faults."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.transforms import normalise
from nas_proxy.errors import DivergedError
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import measure
from nas_proxy.train.training_set import TrainingSet
from tests.train.helpers import (
    NUM_CLASSES,
    PLAIN,
    SCHEDULES,
    Recorder,
    make_settings,
    random_set,
    reference_factor,
)

# The steps


def reference_losses(network, training_set, batches, told):
    """Stochastic gradient descent with (Nesterov's) momentum on softmax regression, in numpy."""
    weights = np.hstack(
        [network.linear.weight.detach().double(), network.linear.bias.detach().double()[:, None]]
    )
    features = training_set.images.flatten(1).double().numpy()
    features = np.hstack([features, np.ones((len(features), 1))])
    targets = training_set.labels.double().numpy()
    if targets.ndim == 1:
        targets = np.eye(NUM_CLASSES)[targets.astype(int)]
        targets = (1 - told.label_smoothing) * targets + told.label_smoothing / NUM_CLASSES
    velocity = np.zeros_like(weights)
    losses = []
    for step, batch in enumerate(batches):
        x, y = features[batch], targets[batch]
        logits = x @ weights.T
        logits -= logits.max(axis=1, keepdims=True)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        losses.append(-(y * np.log(probabilities)).sum(axis=1).mean())
        gradient = (probabilities - y).T @ x / len(batch) + told.weight_decay * weights
        velocity = told.momentum * velocity + gradient
        move = gradient + told.momentum * velocity if told.nesterov else velocity
        rate = told.learning_rate * reference_factor(told.schedule, step, len(batches))
        weights -= rate * move
    return losses, weights


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "changes",
    [
        {"weight_decay": 0.03},
        {"weight_decay": 0.0, "nesterov": False, "momentum": 0.5},
        {"nesterov": False, "momentum": 0.0, "label_smoothing": 0.2},
    ],
    ids=["nesterov", "momentum", "smoothed"],
)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_every_step_is_that_of_a_reference_by_hand(schedule, changes, soft):
    training_set, network = random_set(soft=soft), Recorder()
    told = make_settings(
        num_steps=12, batch_size=4, schedule=schedule, learning_rate=0.4, **changes
    )
    result = train(network, training_set, told, make_generator(3))
    losses, weights = reference_losses(
        Recorder(), training_set, network.indices(training_set), told
    )
    assert result.losses == pytest.approx(losses, rel=1e-4)
    learned = torch.cat([network.linear.weight, network.linear.bias[:, None]], dim=1)
    np.testing.assert_allclose(learned.detach().numpy(), weights, rtol=1e-4, atol=1e-5)


def test_one_hot_soft_labels_train_like_hard_ones():
    hard = random_set()
    one_hot = TrainingSet(hard.images, torch.eye(NUM_CLASSES)[hard.labels], hard.spec)
    told = make_settings(num_steps=20)
    first, second = (train(Recorder(), data, told, make_generator(0)) for data in (hard, one_hot))
    assert first.losses == pytest.approx(second.losses, rel=1e-5)


def test_smoothing_is_the_published_mix_and_leaves_soft_labels_alone():
    hard, soft = random_set(), random_set(soft=True)
    told = {"num_steps": 1, "batch_size": 10}
    logits = Recorder()(hard.images).detach().double()
    log_probabilities = logits - logits.logsumexp(dim=1, keepdim=True)
    exact = -log_probabilities[torch.arange(10), hard.labels].mean()
    spread = -log_probabilities.mean()  # the loss of a label that is uniform over the classes

    def first_loss(data, smoothing):
        return train(
            Recorder(), data, make_settings(label_smoothing=smoothing, **told), make_generator(0)
        ).losses[0]

    assert first_loss(hard, 0.0) == pytest.approx(float(exact), rel=1e-5)
    assert first_loss(hard, 0.3) == pytest.approx(float(0.7 * exact + 0.3 * spread), rel=1e-5)
    assert first_loss(soft, 0.3) == first_loss(soft, 0.0)


def test_training_lowers_the_loss_of_real_images():
    dataset = tiny_dataset()
    with isolated_rng(0):
        network = ConvNet((3, 8, 8), 3, width=8, depth=2)
    told = make_settings(num_steps=30, batch_size=24)
    before = measure(network, dataset, told).loss
    result = train(network, TrainingSet.of(dataset), told, make_generator(0))
    after = measure(network, dataset, told)
    assert after.loss < 0.5 * before
    assert after.accuracy > 0.9
    assert result.loss_tail < 0.5 * result.losses[0]


# Batches


@given(st.integers(1, 12), st.integers(1, 15), st.integers(1, 30), st.integers(0, 2**63 - 1))
@settings(max_examples=30)
def test_every_image_comes_once_before_any_comes_again(num, batch_size, num_steps, seed):
    training_set, network = random_set(num), Recorder()
    told = make_settings(num_steps=num_steps, batch_size=batch_size)
    result = train(network, training_set, told, make_generator(seed))
    batches = network.indices(training_set)
    size = min(batch_size, num)
    assert [len(batch) for batch in batches] == [size] * num_steps
    stream = [index for batch in batches for index in batch]
    for start in range(0, len(stream), num):
        epoch = stream[start : start + num]
        assert len(set(epoch)) == len(epoch)
    assert result.images_seen == len(stream)
    assert len(result.losses) == num_steps


def test_epochs_come_in_different_orders():
    training_set, network = random_set(10), Recorder()
    train(network, training_set, make_settings(num_steps=4, batch_size=10), make_generator(0))
    assert len({tuple(order) for order in network.indices(training_set)}) == 4


def test_real_images_are_normalised_and_made_to_fit_their_labels():
    dataset = tiny_dataset()
    network = Recorder(3 * 8 * 8)
    train(network, TrainingSet.of(dataset), make_settings(num_steps=1), make_generator(0))
    expected = normalise(dataset.images, dataset.spec)
    matches = [
        [bool(torch.equal(image, other)) for other in expected] for image in network.batches[0]
    ]
    assert all(sum(row) == 1 for row in matches)


def test_proxy_images_are_taken_as_they_are_with_their_augmentation():
    images = torch.randn(3, 3, 8, 8, generator=make_generator(0))
    proxy = ProxyDataset(
        images, torch.arange(3), tiny_dataset().spec, "m", {}, 1, 0, Augmentation(dsa="color")
    )
    network = Recorder(3 * 8 * 8)
    plain = make_settings(num_steps=2, batch_size=3, augmentation=PLAIN)
    train(network, TrainingSet.of(proxy), plain, make_generator(0))
    assert sorted(sum(network.indices(TrainingSet.of(proxy)), [])) == [0, 0, 1, 1, 2, 2]
    asked = Recorder(3 * 8 * 8)
    train(asked, TrainingSet.of(proxy), make_settings(num_steps=2, batch_size=3), make_generator(0))
    for batch in asked.batches:  # the set's own augmentation, for each image of each batch
        assert not any(torch.equal(image, original) for image in batch for original in images)


def test_the_settings_augmentation_replaces_that_of_the_set():
    training_set = random_set(6, augmentation=Augmentation(dsa="color"))
    network = Recorder()
    flips = make_settings(num_steps=10, batch_size=6, augmentation=Augmentation(flip=True))
    train(network, training_set, flips, make_generator(0))
    both_ways = TrainingSet(
        torch.cat([training_set.images, training_set.images.flip(-1)]),
        training_set.labels,
        training_set.spec,
    )
    assert max(sum(network.indices(both_ways), [])) >= 6  # raises if an image is neither


# Determinism


def test_the_seed_decides_and_nothing_else():
    data = random_set(20, augmentation=Augmentation(flip=True, dsa="color_crop"))

    def losses(seed):
        return train(Recorder(), data, make_settings(num_steps=8), make_generator(seed)).losses

    first = losses(0)
    torch.rand(5)
    assert losses(0) == first
    assert losses(1) != first


def test_the_global_generator_and_the_images_are_left_alone():
    data = random_set(20, augmentation=Augmentation(crop=0.5, flip=True, cutout=0.5, dsa="color"))
    network = Recorder()
    before, state = data.images.clone(), torch.get_rng_state()
    train(network, data, make_settings(), make_generator(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(data.images, before)


def test_dropout_is_reproducible_in_isolation():
    data = random_set()

    def losses(seed):
        network = nn.Sequential(Recorder(num_classes=16), nn.Dropout(0.5), nn.Linear(16, 3))
        with torch.no_grad():
            network[2].weight.normal_(generator=make_generator(5))
            network[2].bias.zero_()
        with isolated_rng(seed):
            return train(network, data, make_settings(), make_generator(0)).losses

    first = losses(3)
    torch.rand(7)
    assert losses(3) == first
    assert losses(4) != first


# Divergence


class BreaksAt(Recorder):
    """Gives logits that are not finite from one step on, counted from 1."""

    def __init__(self, step, value=math.nan):
        super().__init__()
        self.step, self.value = step, value

    def forward(self, images):
        logits = super().forward(images)
        return logits * self.value if len(self.batches) >= self.step else logits


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("step", "num_steps"), [(1, 1), (1, 120), (50, 120), (51, 120), (73, 120), (120, 120), (7, 9)]
)
def test_a_loss_that_is_not_finite_names_its_first_step(step, num_steps, value):
    told = make_settings(num_steps=num_steps)
    with pytest.raises(DivergedError, match=rf"not finite from step {step} on"):
        train(BreaksAt(step, value), random_set(), told, make_generator(0))


def test_a_breakdown_is_noticed_within_fifty_steps():
    network = BreaksAt(55)
    with pytest.raises(DivergedError):
        train(network, random_set(), make_settings(num_steps=500), make_generator(0))
    assert len(network.batches) == 100


def test_a_learning_rate_that_is_much_too_high_diverges():
    told = make_settings(num_steps=60, learning_rate=1e30, schedule="constant")
    with pytest.raises(DivergedError, match=r"from step \d+ on"):
        train(Recorder(), random_set(), told, make_generator(0))
