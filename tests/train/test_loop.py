"""The training loop: its steps against a reference by hand, its batches, schedules and faults."""

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
from nas_proxy.train.loop import TrainingSet, TrainResult, measure, train
from nas_proxy.train.schedules import learning_rate_factor
from nas_proxy.train.settings import TrainSettings

SCHEDULES = ("one_cycle", "cosine", "step", "constant")
NUM_CLASSES = 3
PLAIN = Augmentation()


def make_settings(**changes):
    return TrainSettings(**{"num_steps": 6, "batch_size": 8, "precision": "float32", **changes})


def random_set(num=10, soft=False, augmentation=PLAIN):
    generator = make_generator(1)
    images = torch.randn(num, 1, 2, 2, generator=generator)
    labels = torch.arange(num) % NUM_CLASSES
    if soft:
        labels = torch.randn(num, NUM_CLASSES, generator=generator).softmax(dim=1)
    return TrainingSet(images, labels, tiny_dataset().spec, augmentation)


class Recorder(nn.Module):
    """A linear model of flattened images that remembers the batches it saw while training."""

    def __init__(self, num_features=4, num_classes=NUM_CLASSES, seed=0):
        super().__init__()
        self.linear = nn.Linear(num_features, num_classes)
        with torch.no_grad():
            self.linear.weight.normal_(generator=make_generator(seed))
            self.linear.bias.normal_(generator=make_generator(seed + 1))
        self.batches = []

    def forward(self, images):
        self.batches.append(images.detach().clone())
        return self.linear(images.flatten(1))

    def indices(self, training_set):
        """Which image of the set each one was, for sets without equal images."""
        known = {
            tuple(image.flatten().tolist()): at for at, image in enumerate(training_set.images)
        }
        return [[known[tuple(image.flatten().tolist())] for image in x] for x in self.batches]


# The steps


def reference_factor(schedule, step, num_steps):
    """The schedules as the documentation words them."""
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return 0.1 if step > num_steps // 2 else 1.0
    rising = num_steps // 4 if schedule == "one_cycle" else 0
    if step < rising:
        return (step + 1) / (rising + 1)
    return math.cos(0.5 * math.pi * (step - rising) / (num_steps - rising)) ** 2


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
    before, _ = measure(network, dataset, told)
    result = train(network, TrainingSet.of(dataset), told, make_generator(0))
    after, accuracy = measure(network, dataset, told)
    assert after < 0.5 * before
    assert accuracy > 0.9
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


# Precision


def test_bfloat16_trains_and_stays_close_to_float32():
    dataset = TrainingSet.of(tiny_dataset())

    def trained(**changes):
        with isolated_rng(0):
            network = ConvNet((3, 8, 8), 3, width=8, depth=2, norm="group")
        told = make_settings(num_steps=15, learning_rate=0.02, **changes)
        return network, train(network, dataset, told, make_generator(0))

    _, exact = trained()
    network, rough = trained(precision="bfloat16")
    assert rough.losses != exact.losses
    assert rough.losses == pytest.approx(exact.losses, rel=0.02)
    assert all(weight.dtype == torch.float32 for weight in network.parameters())
    convolution = network.features[0].weight
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    network, _ = trained(precision="bfloat16", channels_last=False)
    assert network.features[0].weight.is_contiguous()


def test_channels_last_does_not_change_the_numbers():
    dataset = TrainingSet.of(tiny_dataset())

    def losses(channels_last):
        with isolated_rng(0):
            network = ConvNet((3, 8, 8), 3, width=8, depth=2)
        told = make_settings(channels_last=channels_last)
        return train(network, dataset, told, make_generator(0)).losses

    assert losses(True) == pytest.approx(losses(False), rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
@pytest.mark.parametrize("norm", ["none", "batch", "group", "instance", "layer"])
def test_the_layout_follows_precision_and_norm_unless_it_is_said(precision, norm):
    told = make_settings(precision=precision)
    device = torch.device("cpu")
    network = ConvNet((3, 8, 8), 3, width=8, depth=2, norm=norm)
    faster = told.uses_bfloat16(device) and norm not in ("instance", "layer")
    assert told.uses_channels_last(network, device) is faster
    assert told.uses_bfloat16(device) == (precision == "bfloat16") or precision == "auto"
    for said in (True, False):
        changed = make_settings(precision=precision, channels_last=said)
        assert changed.uses_channels_last(network, device) is said


# Measuring


@pytest.mark.parametrize("batch_size", [1, 5, 24, 500])
def test_measuring_is_the_loss_and_accuracy_in_evaluation_mode(batch_size):
    dataset = tiny_dataset()
    with isolated_rng(0):
        network = ConvNet((3, 8, 8), 3, width=8, depth=2, norm="batch")
    told = make_settings(num_steps=5, augmentation=Augmentation(dsa="color"))
    train(network, TrainingSet.of(dataset), told, make_generator(0))
    assert network.training
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    loss, accuracy = measure(network, dataset, told, batch_size=batch_size)

    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    pixels = dataset.images.double() / 255
    mean, std = (
        torch.tensor(x).double().view(1, 3, 1, 1) for x in (dataset.spec.mean, dataset.spec.std)
    )
    network.eval()
    with torch.no_grad():
        logits = network(((pixels - mean) / std).float()).double().numpy()
        network.train()
        other = network(((pixels - mean) / std).float()).double().numpy()

    def direct(logits):
        by_class = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(24), dataset.labels]
        return by_class.mean(), (logits.argmax(axis=1) == dataset.labels.numpy()).mean()

    assert (loss, accuracy) == pytest.approx(direct(logits), rel=1e-5)
    assert loss != pytest.approx(direct(other)[0], rel=1e-3)  # batch statistics would differ


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_measured_loss_that_is_not_finite_is_an_error(value):
    class Broken(nn.Module):
        def forward(self, images):
            return images.new_full((len(images), 3), value)

    with pytest.raises(DivergedError, match="validation loss is not finite"):
        measure(Broken(), tiny_dataset(), make_settings())


def test_summaries_of_the_losses():
    result = TrainResult(tuple(float(step) for step in range(25)), 1.0, 25)
    assert result.loss_mean == 12.0
    assert result.loss_tail == 23.5  # the last tenth, rounded down
    assert TrainResult((3.0, 1.0), 1.0, 2).loss_tail == 1.0


# Length and schedules


@given(st.integers(1, 50), st.integers(1, 1000), st.integers(1, 2000))
def test_epochs_are_counted_in_steps_rounded_up(num_epochs, batch_size, num_images):
    told = TrainSettings(num_epochs=num_epochs, batch_size=batch_size)
    steps = told.steps_for(num_images)
    seen = steps * min(batch_size, num_images)
    assert seen >= num_epochs * num_images
    assert seen - min(batch_size, num_images) < num_epochs * num_images
    assert TrainSettings(num_steps=num_epochs).steps_for(num_images) == num_epochs


def test_epochs_reach_every_image_that_often():
    training_set, network = random_set(10), Recorder()
    told = TrainSettings(num_epochs=3, batch_size=4, precision="float32")
    train(network, training_set, told, make_generator(0))
    stream = sum(network.indices(training_set), [])
    assert len(stream) == 32
    assert all(stream[:30].count(image) == 3 for image in range(10))


@pytest.mark.parametrize("length", [{}, {"num_steps": 3, "num_epochs": 3}])
def test_a_length_is_given_exactly_once(length):
    with pytest.raises(ValueError, match="exactly one of num_steps and num_epochs"):
        TrainSettings(**length)


def test_nesterov_needs_a_momentum():
    with pytest.raises(ValueError, match="nesterov needs a momentum above 0"):
        TrainSettings(num_steps=1, momentum=0.0)
    assert not TrainSettings(num_steps=1, momentum=0.0, nesterov=False).nesterov


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(num_steps=st.integers(1, 3000))
def test_no_step_is_wasted_and_the_peak_is_reached(schedule, num_steps):
    factors = [learning_rate_factor(schedule, step, num_steps) for step in range(num_steps)]
    assert min(factors) > 0
    assert max(factors) == 1.0
    peak = factors.index(1.0)
    assert peak == (num_steps // 4 if schedule == "one_cycle" else 0)
    assert factors[: peak + 1] == sorted(set(factors[: peak + 1]))  # rises strictly
    falling = factors[peak:]
    assert falling == sorted(falling, reverse=True)
    if schedule in ("one_cycle", "cosine"):
        assert len(set(falling)) == len(falling)
        assert num_steps < 40 or falling[-1] < 0.01
    if schedule == "step":
        assert set(falling) <= {1.0, 0.1}
        assert falling.count(0.1) == num_steps - min(num_steps, num_steps // 2 + 1)
    for step in (0, num_steps // 3, num_steps - 1):
        assert factors[step] == pytest.approx(reference_factor(schedule, step, num_steps))
