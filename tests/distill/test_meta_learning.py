"""RaT-BPTT: the gradient through training beside finite differences, in double precision."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nas_proxy.core import checkpoint as checkpoint_module
from nas_proxy.data.transforms import normalise
from nas_proxy.distill import meta_learning
from nas_proxy.distill.common.inner_training import (
    InnerTraining,
    adam_update,
    flatten_parameters,
    forward,
    initial_adam_state,
)
from nas_proxy.distill.common.random_networks import ConvNets
from nas_proxy.distill.meta_learning import MetaLearning
from nas_proxy.errors import ConfigError, DivergedError
from nas_proxy.interfaces import DistillContext
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.testing import tiny_dataset
from tests.distill.helpers import NUM_CLASSES, SMALL, Log, distill, small_network
from tests.distill.helpers_patterns import patterned_dataset

TINY = {**SMALL, "zca": None, "unroll": 4, "window": 2, "inner_learning_rate": 0.03}
LEARNED = DistillContext(labels="learned")


class DoubleImages:
    """All real images at once, in double precision."""

    def __init__(self, dataset):
        self._dataset = dataset

    def mixed_batch(self, generator):
        images = normalise(self._dataset.images, self._dataset.spec).double()
        return images, self._dataset.labels


@pytest.fixture
def smooth_networks(monkeypatch):
    """In double precision, and with sigmoids: a step of training jumps where a rectifier opens."""

    def draw(source, seed):
        with isolated_rng(seed):
            return ConvNet((3, 8, 8), 3, width=4, depth=2, activation="sigmoid").double()

    monkeypatch.setattr(ConvNets, "draw", draw)


def leaves(distiller):
    """Images, logits of labels and inner learning rate, in double precision."""
    dataset = tiny_dataset()
    images, _ = distiller.initialise(dataset, 2, make_generator(0))
    synthetic = distiller.synthetic_images(images, 2, dataset.spec, LEARNED)
    noise = torch.randn(6, NUM_CLASSES, generator=make_generator(1)).double()
    return [
        images.double(),
        synthetic.label_logits.detach().double() + noise,
        torch.tensor(distiller.inner_learning_rate, dtype=torch.float64),
    ]


def step_at(distiller, values, seed=0):
    """One step from `values`: its loss and the gradients, which the first step does not clip."""
    dataset = tiny_dataset()
    learned = [value.clone().requires_grad_() for value in values]
    images, logits, rate = learned
    synthetic = replace(
        distiller.synthetic_images(values[0], 2, dataset.spec, LEARNED),
        images=images,
        label_logits=logits,
        learning_rate=rate,
        optimiser=torch.optim.SGD(learned, lr=1e-300),
    )
    objective = distiller.objective(dataset, DoubleImages(dataset), LEARNED)
    loss = objective.step(synthetic, seed)
    return loss, [value.grad for value in learned]


def finite_difference(loss_at, values, direction, size):
    """The derivative of the loss along `direction`, by four evaluations."""
    losses = {
        shift: loss_at([v + shift * size * d for v, d in zip(values, direction, strict=True)])
        for shift in (-2, -1, 1, 2)
    }
    return (8 * (losses[1] - losses[-1]) - (losses[2] - losses[-2])) / (12 * size)


def check_gradients(loss_at, values, gradients, size=1e-4):
    """Along a random direction in each of the values."""
    for index, gradient in enumerate(gradients):
        direction = [torch.zeros_like(value) for value in values]
        noise = torch.randn(values[index].shape, generator=make_generator(index)).double()
        direction[index] = noise / noise.norm() * values[index].norm()
        expected = finite_difference(loss_at, values, direction, size)
        assert float((gradient * direction[index]).sum()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gradient", ["unrolled", "recomputed"])
@pytest.mark.parametrize("inner_optimiser", ["sgd", "adam"])
def test_the_gradient_is_that_of_finite_differences(smooth_networks, inner_optimiser, gradient):
    """Images, labels and learning rate, where the window is the whole training."""
    distiller = MetaLearning(
        **{**TINY, "unroll": 3, "window": 3},
        inner_optimiser=inner_optimiser,
        gradient=gradient,
        num_initialisations=2,
        batch_per_class=1,
        init="real",
    )
    values = leaves(distiller)
    _, gradients = step_at(distiller, values)
    check_gradients(lambda moved: step_at(distiller, moved)[0], values, gradients)


@pytest.mark.parametrize("inner_optimiser", ["sgd", "adam"])
def test_what_comes_before_the_window_is_a_constant(smooth_networks, monkeypatch, inner_optimiser):
    """The truncated gradient is the whole derivative of the loss from where the window opens."""
    distiller = MetaLearning(
        **{**TINY, "unroll": 8, "window": 2}, inner_optimiser=inner_optimiser, init="real"
    )
    values = leaves(distiller)
    seen = []
    end = InnerTraining.end

    def remembered(training):
        seen.append((training.num_steps, end(training)))
        return seen[-1][1]

    monkeypatch.setattr(InnerTraining, "end", remembered)
    whole_loss, gradients = step_at(distiller, values)
    ((num_before, state),) = seen
    assert num_before > 0
    monkeypatch.setattr(InnerTraining, "end", lambda training: state)
    assert step_at(distiller, values)[0] == whole_loss
    check_gradients(lambda moved: step_at(distiller, moved)[0], values, gradients)
    monkeypatch.setattr(InnerTraining, "end", end)
    with pytest.raises(AssertionError):  # it is not the derivative through all of the training
        check_gradients(lambda moved: step_at(distiller, moved)[0], values, gradients)


@pytest.mark.parametrize("inner_optimiser", ["sgd", "adam"])
def test_the_window_goes_on_where_training_stopped(smooth_networks, monkeypatch, inner_optimiser):
    """The loss is that of one training, with its batches, moments and number of steps."""
    distiller = MetaLearning(
        **{**TINY, "unroll": 8, "window": 2}, inner_optimiser=inner_optimiser, init="real"
    )
    trainings = []
    end = InnerTraining.end
    monkeypatch.setattr(
        InnerTraining, "end", lambda training: trainings.append(training) or end(training)
    )
    # Real images are augmented too; here they are to stay as they are.
    augment = meta_learning.siamese_augment
    monkeypatch.setattr(
        meta_learning,
        "siamese_augment",
        lambda images, *given, **named: (
            augment(images, *given, **named) if len(images) == 6 else images
        ),
    )
    loss, _ = step_at(distiller, leaves(distiller))
    (before,) = trainings
    assert before.num_steps > 0
    batches = [before.batch(step)[0] for step in range(before.num_steps + 2)]
    assert len({float(batch.detach().sum()) for batch in batches}) > 2  # augmented anew
    state = end(replace(before, num_steps=before.num_steps + 2))
    vector = state if inner_optimiser == "sgd" else state[0]
    images, labels = DoubleImages(tiny_dataset()).mixed_batch(None)
    logits = forward(before.network, vector, images)
    assert loss == pytest.approx(float(F.cross_entropy(logits, labels).detach()), rel=1e-12)


def test_both_ways_to_the_gradient_agree_to_rounding(smooth_networks):
    distillers = [
        MetaLearning(**{**TINY, "unroll": 9, "window": 6}, gradient=way, init="real")
        for way in ("unrolled", "recomputed")
    ]
    values = leaves(distillers[0])
    (loss, gradients), (other_loss, others) = (step_at(each, values) for each in distillers)
    assert loss == pytest.approx(other_loss, rel=1e-12)
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-12)


def test_adam_inside_is_torchs():
    network = small_network().double()
    images = torch.randn(5, 3, 8, 8, generator=make_generator(0)).double()
    labels = torch.tensor([0, 1, 2, 0, 1])
    training = InnerTraining(
        network=network,
        start=initial_adam_state(flatten_parameters(network)),
        learning_rate=torch.tensor(0.01),
        num_steps=7,
        batch=lambda step: (images + step, labels),
        inputs=(),
        optimiser="adam",
    )
    theirs = copy.deepcopy(network)
    optimiser = torch.optim.Adam(theirs.parameters(), lr=0.01)
    for step in range(7):
        optimiser.zero_grad()
        F.cross_entropy(theirs(images + step), labels).backward()
        optimiser.step()
    mine = forward(network, training.end()[0], images)
    torch.testing.assert_close(mine, theirs(images), rtol=1e-6, atol=1e-7)


def test_a_parameter_without_gradient_does_no_harm():
    """Adam's root of zero has an infinite derivative, which must not become not-a-number."""
    state = initial_adam_state(torch.zeros(3, dtype=torch.float64))
    gradient = torch.tensor([0.0, 1.0, 1e-200], dtype=torch.float64, requires_grad=True)
    after = adam_update(state, gradient, num_steps=1, learning_rate=0.1)
    assert after[0].tolist() == pytest.approx([0, -0.1, 0], abs=1e-6)
    after.sum().backward()
    assert gradient.grad.isfinite().all()


# The step around the gradient


def test_trainings_stop_between_window_and_unroll_anywhere(monkeypatch):
    lengths = []
    end = InnerTraining.end
    monkeypatch.setattr(
        InnerTraining, "end", lambda training: lengths.append(training.num_steps) or end(training)
    )
    distill(MetaLearning(**{**TINY, "unroll": 5, "window": 2}, num_steps=15))
    assert set(lengths) == {0, 1, 2, 3}


def test_every_class_has_its_share_of_a_batch():
    distiller = MetaLearning(**TINY, batch_per_class=2, augment="", decode_factor=2)
    dataset = tiny_dataset()
    objective = distiller.objective(dataset, None, LEARNED)
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 8, 8)
    synthetic = distiller.synthetic_images(images, 2, dataset.spec, DistillContext())
    drawn = set()
    for seed in range(20):
        batch, labels = objective._batch(synthetic, seed)
        assert labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert [int(image.mean()) // 2 for image in batch] == labels.tolist()
        drawn.update(batch.mean(dim=(1, 2, 3)).tolist())
    assert len(drawn) == 6  # each stored image has its turn


def test_a_long_gradient_is_shortened_to_twice_the_running_mean():
    objective = MetaLearning().objective(tiny_dataset(), None, LEARNED)
    images = SimpleNamespace(grad=None)
    lengths = []
    for length in (1.0, 1.0, 100.0, 1.0):
        images.grad = torch.full((4,), length / 2)
        objective._mean_norm = objective._clip(images)
        lengths.append(float(images.grad.norm()))
    mean = 0.9 * 1.0 + 0.1 * 100.0
    np.testing.assert_allclose(lengths, [1, 1, 2 * mean, 1], rtol=1e-5)
    assert float(objective._mean_norm) == pytest.approx(0.9 * mean + 0.1)


def test_noise_starts_with_norm_one():
    images, _ = MetaLearning().initialise(tiny_dataset(), 2, make_generator(0))
    torch.testing.assert_close(images.flatten(1).norm(dim=1), torch.ones(6))
    real, _ = MetaLearning(init="real").initialise(tiny_dataset(), 2, make_generator(0))
    assert real.flatten(1).norm(dim=1).min() > 5


def test_the_learned_learning_rate_is_handed_on_and_stays_positive():
    options = {**TINY, "init": "real", "num_steps": 4, "learn_inner_learning_rate": True}
    made = distill(MetaLearning(**options, learning_rate_learning_rate=0.001))
    rule = made.learning_rate_rule
    assert rule.optimiser == "adam"
    assert 0 < abs(rule.learning_rate - 0.03) <= 0.004 + 1e-6
    assert rule.batch_size == 6
    pushed = distill(MetaLearning(**options, learning_rate_learning_rate=1.0))
    assert pushed.learning_rate_rule.learning_rate > 0
    fixed = distill(MetaLearning(**{**options, "learn_inner_learning_rate": False}))
    assert fixed.learning_rate_rule.learning_rate == 0.03


def test_a_kill_changes_nothing_with_everything_learned(tmp_path, monkeypatch):
    monkeypatch.setattr(
        checkpoint_module.Checkpointer, "save_if_due", checkpoint_module.Checkpointer.save
    )
    distiller = MetaLearning(**TINY, num_steps=6, learn_inner_learning_rate=True)
    undisturbed = distill(distiller, labels="learned")
    log = Log(3)
    with pytest.raises(KeyboardInterrupt):
        distill(distiller, labels="learned", checkpoint=tmp_path / "state", progress=log)
    log = Log()
    continued = distill(distiller, labels="learned", checkpoint=tmp_path / "state", progress=log)
    assert log.steps[0][0] == 4
    assert continued.id == undisturbed.id
    assert continued.labelling.kind == "learned"
    continued.check_labels()


def loss_after_training(images, labels):
    """On real images, mean over networks that had no part in distilling."""
    dataset = patterned_dataset()
    real = normalise(dataset.images, dataset.spec)
    losses = []
    for seed in range(100, 108):
        network = small_network(seed)
        training = InnerTraining(
            network=network,
            start=initial_adam_state(flatten_parameters(network)),
            learning_rate=torch.tensor(0.05),
            num_steps=3,
            batch=lambda step: (images, labels),
            inputs=(),
            optimiser="adam",
        )
        logits = forward(network, training.end()[0], real)
        losses.append(float(F.cross_entropy(logits, dataset.labels).detach()))
    return np.mean(losses)


def test_images_learn_to_teach_and_labels_with_them():
    distiller = MetaLearning(
        **{**TINY, "unroll": 3, "window": 3, "inner_learning_rate": 0.05},
        init="real",
        augment="",
        num_steps=8,
        image_learning_rate=0.2,
    )
    dataset = patterned_dataset()
    initial, labels = distiller.initialise(dataset, 2, make_generator(0))
    before = loss_after_training(initial, labels)
    hard = distill(distiller, dataset=dataset)
    assert loss_after_training(hard.images, hard.labels) < 0.92 * before
    learned = distill(distiller, dataset=dataset, labels="learned")
    assert loss_after_training(learned.images, learned.labels) < 0.97 * before


def test_training_that_explodes_ends_in_one_sentence():
    options = {**TINY, "inner_optimiser": "sgd", "inner_learning_rate": 1e38}
    with pytest.raises(DivergedError, match="meta_learning diverged at step 1 of 3"):
        distill(MetaLearning(**options, num_steps=3))


def test_a_window_longer_than_the_training_is_refused():
    with pytest.raises(ConfigError, match=r"window \(9\) is the last part of unroll \(8\) steps"):
        MetaLearning(window=9, unroll=8)
