"""The training loop with soft labels, teachers, mixing, other optimisers, and someone watching."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import Labelling, ProxyDataset
from nas_proxy.reproducibility import make_generator
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.loop import train
from nas_proxy.train.training_set import TrainingSet, as_probabilities
from tests.train.helpers import NUM_CLASSES, Recorder, make_settings, random_set, reference_factor

PLAIN_DESCENT = {
    "num_steps": 1,
    "batch_size": 10,
    "momentum": 0.0,
    "nesterov": False,
    "weight_decay": 0.0,
    "schedule": "constant",
}


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def parameters(network):
    rows = [network.linear.weight, network.linear.bias[:, None]]
    return torch.cat(rows, dim=1).detach().double().numpy().copy()


def with_ones(training_set):
    """Features of the linear model, `(n, d + 1)`."""
    flat = training_set.images.flatten(1).double().numpy()
    return np.hstack([flat, np.ones((len(flat), 1))])


# Temperature


@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])
def test_a_step_is_along_the_gradient_of_the_tempered_divergence(temperature):
    soft = random_set(soft=True)
    data = TrainingSet(soft.images, soft.labels, soft.spec, temperature=temperature)
    network, told = Recorder(), make_settings(learning_rate=0.25, **PLAIN_DESCENT)
    before, x, q = parameters(network), with_ones(soft), soft.labels.double().numpy()
    result = train(network, data, told, make_generator(0))
    moved = (parameters(network) - before) / -0.25

    def divergence(weights):
        """T^2 KL(q || p), written out."""
        p = softmax(x @ weights.T / temperature)
        return temperature**2 * (q * (np.log(q) - np.log(p))).sum(axis=1).mean()

    slopes = np.zeros_like(before)
    for place in np.ndindex(*before.shape):
        step = np.zeros_like(before)
        step[place] = 1e-5
        slopes[place] = (divergence(before + step) - divergence(before - step)) / 2e-5
    np.testing.assert_allclose(moved, slopes, atol=2e-5)
    entropy = -(q * np.log(q)).sum(axis=1).mean()
    expected = divergence(before) + temperature**2 * entropy
    assert result.losses[0] == pytest.approx(expected, rel=1e-5)


def test_a_proxy_data_set_brings_its_temperature_and_its_tiles():
    images = torch.randn(3, 3, 8, 8, generator=make_generator(0))
    proxy = ProxyDataset(
        images,
        torch.full((12, NUM_CLASSES), 1 / NUM_CLASSES),
        tiny_dataset().spec,
        "m",
        {},
        1,
        0,
        labelling=Labelling(kind="soft", temperature=3.0),
        decode_factor=2,
    )
    data = TrainingSet.of(proxy)
    assert data.temperature == 3.0
    assert len(data) == len(data.images) == 12
    assert TrainingSet.of(tiny_dataset()).temperature == 1.0


# Labels of views


class Labels:
    """A labeller that gives softmaxed features and remembers what it was shown."""

    def __init__(self):
        self.shown = []

    def __call__(self, images):
        assert not images.requires_grad
        self.shown.append(images.clone())
        return images.flatten(1)[:, :NUM_CLASSES].softmax(dim=1)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(flip=True, dsa="color"),
        Augmentation(flip=True, mixup=1.0, cutmix=1.0),
    ],
    ids=["plain", "augmented", "mixed"],
)
def test_each_view_gets_the_label_that_is_given_to_that_view(augmentation):
    labels = Labels()
    hard = random_set(augmentation=augmentation)
    data = TrainingSet(hard.images, hard.labels, hard.spec, augmentation, 2.0, labels)
    network, logits = Recorder(), []
    told = make_settings(num_steps=5, batch_size=4, label_smoothing=0.5)
    result = train(network, data, told, make_generator(0), lambda _, __, seen: logits.append(seen))
    assert len(labels.shown) == len(network.batches) == 5
    for step, (shown, batch) in enumerate(zip(labels.shown, network.batches, strict=True)):
        assert torch.equal(shown, batch)
        q = batch.flatten(1)[:, :NUM_CLASSES].softmax(dim=1)  # without any smoothing
        loss = 4 * -(q * (logits[step] / 2).log_softmax(dim=1)).sum(dim=1).mean()
        assert result.losses[step] == pytest.approx(float(loss), rel=1e-5)
    if augmentation != Augmentation():
        seen = torch.cat(labels.shown)
        assert not all(bool((image == hard.images).flatten(1).all(1).any()) for image in seen)


def test_a_labeller_is_asked_at_each_step_anew():
    labels = Labels()
    hard = random_set(4, augmentation=Augmentation(dsa="color"))
    data = TrainingSet(hard.images, hard.labels, hard.spec, hard.augmentation, 1.0, labels)
    train(Recorder(), data, make_settings(num_steps=3, batch_size=4), make_generator(0))
    assert len({tuple(shown.flatten().tolist()) for shown in labels.shown}) == 3


# Mixing


def eye_set(augmentation):
    """Three images of one pixel in three channels: mixed, they are their own mixed label."""
    images = torch.eye(3).view(3, 3, 1, 1)
    return TrainingSet(images, torch.arange(3), tiny_dataset().spec, augmentation)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_labels_are_mixed_as_images_are_and_hard_ones_smoothed_as_ever(smoothing, soft):
    data = eye_set(Augmentation(mixup=1.0))
    if soft:
        data = TrainingSet(data.images, torch.eye(3), data.spec, data.augmentation)
    network, logits = Recorder(num_features=3), []
    told = make_settings(num_steps=8, batch_size=3, label_smoothing=smoothing)
    result = train(network, data, told, make_generator(0), lambda _, __, seen: logits.append(seen))
    num_mixed = 0
    for step, batch in enumerate(network.batches):
        q = batch.flatten(1)
        num_mixed += int(((q > 0).sum(dim=1) == 2).sum())
        if not soft:
            q = (1 - smoothing) * q + smoothing / 3
        loss = -(q * logits[step].log_softmax(dim=1)).sum(dim=1).mean()
        assert result.losses[step] == pytest.approx(float(loss), rel=1e-5)
    assert num_mixed > 6


def test_probabilities_of_hard_labels_are_one_hot_and_soft_ones_stay():
    spec = tiny_dataset().spec
    assert as_probabilities(torch.tensor([2, 0]), spec).tolist() == [[0, 0, 1], [1, 0, 0]]
    soft = torch.tensor([[0.5, 0.25, 0.25]])
    assert as_probabilities(soft, spec) is soft


# Watching


def test_an_observer_is_told_after_each_step_what_was_answered_before_it():
    data, network = random_set(10), Recorder()
    told = make_settings(num_steps=7, batch_size=4)
    seen = []

    def watch(step, indices, logits):
        seen.append((step, indices.clone(), logits.clone(), parameters(network)))
        assert not logits.requires_grad

    before = parameters(network)
    train(network, data, told, make_generator(0), watch)
    assert [step for step, *_ in seen] == list(range(1, 8))
    features = with_ones(data)
    for (_, indices, logits, after), batch in zip(seen, network.batches, strict=True):
        assert torch.equal(data.images[indices], batch)
        np.testing.assert_allclose(logits, features[indices] @ before.T, rtol=1e-4, atol=1e-5)
        assert not np.allclose(after, before)
        before = after
    np.testing.assert_array_equal(before, parameters(network))


def test_watching_changes_nothing():
    data, told = random_set(10, augmentation=Augmentation(dsa="color")), make_settings()
    alone = train(Recorder(), data, told, make_generator(0)).losses
    watched = train(Recorder(), data, told, make_generator(0), lambda *_: None).losses
    assert alone == watched


# Other optimisers


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_adam_is_that_of_a_reference_by_hand(optimiser, schedule):
    data, network = random_set(soft=True), Recorder()
    told = make_settings(
        num_steps=9,
        batch_size=10,
        optimiser=optimiser,
        learning_rate=0.05,
        weight_decay=0.1,
        schedule=schedule,
    )
    weights, x, y = parameters(network), with_ones(data), data.labels.double().numpy()
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(9):
        rate = 0.05 * reference_factor(schedule, step, 9)
        gradient = (softmax(x @ weights.T) - y).T @ x / len(x)
        if optimiser == "adam":
            gradient += 0.1 * weights  # an L2 penalty
        else:
            weights *= 1 - rate * 0.1  # decoupled
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        weights -= rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    train(network, data, told, make_generator(3))
    np.testing.assert_allclose(parameters(network), weights, rtol=1e-4, atol=1e-5)


def test_adam_needs_no_momentum():
    told = make_settings(optimiser="adam", momentum=0.0, learning_rate=0.01)
    network = Recorder()
    before = F.cross_entropy(network(random_set().images), random_set().labels)
    train(network, random_set(), told, make_generator(0))
    assert F.cross_entropy(network(random_set().images), random_set().labels) < before
