"""Trajectory matching: its loss and steps, and each option by what it does."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nas_proxy.data.transforms import normalise
from nas_proxy.data.whitening import Whitening
from nas_proxy.distill.common.inner_training import InnerTraining
from nas_proxy.distill.trajectory_matching._trajectories import Trajectories
from nas_proxy.distill.trajectory_matching.distiller import TrajectoryObjective
from nas_proxy.errors import ConfigError, DivergedError
from nas_proxy.reproducibility import make_generator
from nas_proxy.testing import tiny_dataset
from tests.distill.helpers import NUM_CLASSES, distill, small_network
from tests.distill.helpers_trajectories import Log, small


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Experts that the tests of this module share."""
    return tmp_path_factory.mktemp("cache")


# The loss and the step


def points_of(cache, **options):
    """Start and goal of the first student of the one expert."""
    seen = {}

    def remember(self, expert, epoch):
        seen[epoch] = original(self, expert, epoch)
        return seen[epoch]

    original = Trajectories.parameters
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trajectories, "parameters", remember)
        distill(small(num_steps=1, **options), cache=cache)
    return seen[0], seen[1]


@pytest.mark.parametrize("zca", [0, 0.1])
def test_the_loss_is_the_distance_of_a_network_that_is_trained_on_the_images(cache, zca):
    dataset, log = tiny_dataset(), Log()
    distiller = small(num_steps=1, zca=zca, augment="")
    result = distill(distiller, progress=log, cache=cache)
    start, goal = points_of(cache, zca=zca)
    images, labels = distiller.initialise(dataset, 2, make_generator(0))
    if zca:
        images = Whitening.fit(dataset, zca).apply(images)

    def loss_after(images, learning_rate):
        network = small_network().double()
        vector_to_parameters(start.double(), network.parameters())
        optimiser = torch.optim.SGD(network.parameters(), lr=learning_rate)
        for _ in range(3):
            optimiser.zero_grad()
            F.cross_entropy(network(images.double()), labels).backward()
            optimiser.step()
        end = parameters_to_vector(network.parameters()).detach()
        return float((end - goal).square().sum() / (start - goal).square().sum())

    assert log.losses[0] == pytest.approx(loss_after(images, 0.1), rel=0.01)
    # Images and learning rate go down their own slopes, each with its own learning rate.
    slope = (loss_after(images, 0.1 + 1e-5) - loss_after(images, 0.1 - 1e-5)) / 2e-5
    assert result.learning_rate_rule.learning_rate == pytest.approx(0.1 - 1e-4 * slope, rel=1e-3)
    moved = (result.images - images).double()  # minus the gradient: the learning rate is 1
    length = float(moved.norm())
    ahead, behind = (
        loss_after(images.double() + sign * 1e-4 * moved / length, 0.1) for sign in (1, -1)
    )
    assert (ahead - behind) / 2e-4 == pytest.approx(-length, rel=1e-3)


def test_momentum_of_the_learning_rate_is_a_half(cache):
    options = {"augment": "", "image_learning_rate": 1e-9, "learning_rate_learning_rate": 1e-6}
    rates = [
        distill(small(num_steps=n, **options), cache=cache).learning_rate_rule.learning_rate
        for n in (1, 2)
    ]
    first, second = rates[0] - 0.1, rates[1] - rates[0]
    assert second / first == pytest.approx(1.5, rel=0.05)  # the slope is nearly the same


@pytest.mark.parametrize("labels", ["hard", "learned"])
def test_students_come_nearer_to_the_expert(cache, labels):
    log = Log()
    distiller = small(
        num_steps=6,
        augment="",
        image_learning_rate=5.0,
        label_learning_rate=0.2,
        learning_rate_learning_rate=1e-6,
    )
    distill(distiller, progress=log, labels=labels, cache=cache)
    assert log.losses[-1] < 0.8 * log.losses[0]


@pytest.mark.parametrize("labels", ["hard", "learned"])
def test_unrolled_and_recomputed_give_the_same_set(cache, labels):
    options = {"inner_batch_size": 4, "num_steps": 2}
    made = {
        gradient: distill(small(gradient=gradient, **options), labels=labels, cache=cache)
        for gradient in ("unrolled", "recomputed", "first_order")
    }
    one, other = made["unrolled"], made["recomputed"]
    torch.testing.assert_close(one.images, other.images, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.labels, other.labels, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(one.images, made["first_order"].images, rtol=1e-4, atol=1e-5)


# The window and the limit


@pytest.mark.parametrize(
    ("first", "last", "growth", "expected"),
    [
        (2, 6, 8, [2, 2, 3, 3, 4, 4, 5, 5, 6, 6]),
        (3, 3, 0, [3] * 10),
        (2, 4, 0, [4] * 10),
    ],
)
def test_the_window_of_start_epochs_grows(monkeypatch, cache, first, last, growth, expected):
    ends, asked = [], []

    def remember_end(self):
        ends.append(end_of_window(self))
        return ends[-1]

    def remember_epoch(self, expert, epoch):
        asked.append(epoch)
        return parameters(self, expert, epoch)

    end_of_window, parameters = TrajectoryObjective.end_of_window, Trajectories.parameters
    monkeypatch.setattr(TrajectoryObjective, "end_of_window", remember_end)
    monkeypatch.setattr(Trajectories, "parameters", remember_epoch)
    distiller = small(
        num_steps=10,
        num_inner_steps=1,
        augment="",
        matched_epochs=2,
        min_start_epoch=1,
        initial_max_start_epoch=first,
        max_start_epoch=last,
        window_growth_steps=growth,
        expert_num_epochs=8,
    )
    distill(distiller, cache=cache)
    starts, goals = asked[::2], asked[1::2]
    assert ends == expected
    assert all(1 <= start < end for start, end in zip(starts, ends, strict=True))
    assert len(set(starts)) > 1
    assert [goal - start for start, goal in zip(starts, goals, strict=True)] == [2] * 10


def test_a_loss_above_the_limit_changes_nothing(cache):
    start, _ = small().initialise(tiny_dataset(), 2, make_generator(0))
    log = Log()
    skipped = distill(small(max_loss=1e-6), cache=cache, progress=log)
    assert len(log.losses) == 2
    torch.testing.assert_close(skipped.images, start, rtol=0, atol=0)
    assert skipped.learning_rate_rule.learning_rate == pytest.approx(0.1)
    allowed = distill(small(max_loss=1e6), cache=cache)
    assert not torch.equal(allowed.images, start)
    free = distill(small(), cache=cache)
    torch.testing.assert_close(free.images, allowed.images, rtol=0, atol=0)


# Where it starts


def confusing_dataset():
    """One image of three has the label of another class, so that no expert is right about all."""
    dataset = tiny_dataset()
    labels = dataset.labels.clone()
    for label in range(NUM_CLASSES):
        labels[torch.nonzero(dataset.labels == label).flatten()[:3]] = (label + 1) % NUM_CLASSES
    return replace(dataset, labels=labels, spec=replace(dataset.spec, source_hash="confusing"))


@pytest.mark.parametrize("zca", [0, 0.1])
def test_correct_starts_from_images_that_the_first_expert_knows(cache, zca):
    dataset = confusing_dataset()
    options = {"max_loss": 1e-6, "zca": zca, "expert_num_epochs": 12}  # nothing is moved
    made, real = (
        distill(small(init=init, **options), images_per_class=4, dataset=dataset, cache=cache)
        for init in ("correct", "real")
    )
    classes = torch.arange(NUM_CLASSES).repeat_interleave(4)
    images = normalise(dataset.images, dataset.spec)
    if zca:
        images = Whitening.fit(dataset, zca).apply(images)
    for image, label in zip(made.images, classes.tolist(), strict=True):
        distances = (images - image).square().flatten(1).sum(dim=1)
        assert float(distances.min()) < 1e-6
        assert int(dataset.labels[distances.argmin()]) == label
    seen = []

    def remember(self, expert, epoch):
        found = original(self, expert, epoch)
        seen.append((epoch, found))
        return found

    original = Trajectories.parameters
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trajectories, "parameters", remember)
        distill(small(init="correct", **options), dataset=dataset, cache=cache)
    epoch, last = seen[0]
    assert epoch == -1
    network = small_network()
    vector_to_parameters(last, network.parameters())
    assert bool((network(made.images).argmax(dim=1) == classes).all())
    assert not bool((network(real.images).argmax(dim=1) == classes).all())


def test_learned_labels_start_from_the_experts_and_move(cache):
    dataset = tiny_dataset()
    options = {"expert_num_epochs": 12, "num_experts": 2}
    still = distill(small(max_loss=1e-6, **options), labels="learned", cache=cache)
    moved = distill(small(label_learning_rate=50.0, **options), labels="learned", cache=cache)
    assert still.labelling.kind == moved.labelling.kind == "learned"
    assert not torch.allclose(still.labels, moved.labels, atol=1e-4)
    torch.testing.assert_close(moved.labels.sum(dim=1), torch.ones(6))
    # The first images are real: what the experts say of them on average, softmax.
    images, classes = small().initialise(dataset, 2, make_generator(0))
    logits = []

    def remember(self, images, classes):
        found = original(self, images, classes)
        logits.append((images.clone(), *found))
        return found

    original = Trajectories.labels
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trajectories, "labels", remember)
        distill(small(max_loss=1e-6, **options), labels="learned", cache=cache)
    asked, said, known = logits[0]
    torch.testing.assert_close(asked, images)
    otherwise = 4.0 * F.one_hot(classes, NUM_CLASSES)  # sure of the class
    expected = torch.where(known[:, None], said, otherwise).softmax(dim=1)
    torch.testing.assert_close(still.labels, expected)
    assert bool((still.labels.argmax(dim=1) == classes).all())


def test_labels_stay_classes_unless_learned_ones_are_wanted(cache):
    for labels in ("hard", "soft"):
        made = distill(small(), labels=labels, cache=cache)
        assert made.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert made.labelling.kind == "hard"


def test_formations_are_matched_by_their_training_images(cache):
    for init in ("real", "noise", "correct"):
        made = distill(
            small(decode_factor=2, init=init, num_steps=1), labels="learned", cache=cache
        )
        assert made.images.shape == (6, 3, 8, 8)
        assert made.labels.shape == (24, NUM_CLASSES)
        assert made.decode_factor == 2


# What the set says


def test_the_set_carries_rate_whitening_options_and_the_cost_of_the_experts(cache):
    made = distill(small(zca=0.1), cache=cache)
    again = distill(small(zca=0.1), cache=cache, seed=1)
    assert made.zca == 0.1
    assert made.parameters["num_inner_steps"] == 3
    assert made.costs["experts"] == again.costs["experts"] > 0  # though they were there already
    assert made.learning_rate_rule.learning_rate != pytest.approx(0.1, rel=1e-6)
    rule = made.learning_rate_rule
    assert (rule.momentum, rule.weight_decay, rule.num_epochs) == (0.9, 5e-4, 1000)
    assert distill(small(), cache=cache).zca is None


def test_images_of_another_seed_share_the_experts(cache):
    distill(small(), cache=cache)
    before = sorted((cache / "trajectories").rglob("expert_*"))
    first, second = (distill(small(), seed=seed, cache=cache) for seed in (5, 6))
    assert sorted((cache / "trajectories").rglob("expert_*")) == before
    assert first.id != second.id


# What goes wrong on the way


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"initial_learning_rate": 1e30}, "not finite"),
        ({"learning_rate_learning_rate": 1e3}, "the learned learning rate became -"),
    ],
)
def test_a_step_that_leaves_the_sensible_keeps_the_state_before(options, words, cache, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(DivergedError, match=words) as caught:
        distill(small(num_steps=50, **options), cache=cache, checkpoint=checkpoint)
    assert "diverged at step" in str(caught.value)
    assert checkpoint.is_file()


@pytest.mark.parametrize(
    ("gradient", "words"),
    [
        ("unrolled", "graph of 3 steps on 4 images .* set distill.gradient: recomputed"),
        ("recomputed", "a step on 4 images .* set distill.inner_batch_size to 2"),
    ],
)
def test_too_little_memory_is_told_with_what_needs_less(monkeypatch, cache, gradient, words):
    def fail(self, loss_of):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(InnerTraining, gradient, fail)
    with pytest.raises(ConfigError, match=words):
        distill(small(gradient=gradient, inner_batch_size=4), cache=cache)
