"""What a training can be told beyond its settings: objective, groups, phases, views, checkpoint."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.augment import Augmentation
from nas_proxy.errors import ConfigError, EvaluationError, StudyError
from nas_proxy.evaluate.factory import training_fidelity
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.loop import set_training_mode, train
from nas_proxy.train.measuring import measure
from nas_proxy.train.objective import Batch, Objective, ParameterGroup
from nas_proxy.train.phases import Phase, train_phases
from nas_proxy.train.training_set import TrainingSet
from tests.train.helpers import PLAIN, Recorder, make_settings, random_set

OPTIMISERS = ("sgd", "adam", "adamw")


class Net(nn.Module):
    """Has batch norm and dropout: state besides weights, and draws from the global generator."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.Dropout(0.3))
        self.head = nn.Linear(4, 3)

    def forward(self, images):
        return self.head(self.body(images).flatten(1))


def fresh():
    with isolated_rng(5):
        return Net()


class KilledError(Exception):
    pass


class KillAt:
    """Stands for a kill after a step."""

    def __init__(self, step):
        self.step = step

    def __call__(self, step, indices, logits):
        if step == self.step:
            raise KilledError


class Eager(Checkpointer):
    """Saves after each step."""

    @property
    def is_due(self):
        return True


class Projected(Objective):
    """An objective with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, batch):
        return F.cross_entropy(batch.logits * self.scale, batch.labels)


SET = random_set(augmentation=Augmentation(flip=True))


def run(path=None, observer=None, optimiser="sgd", kind=Eager, **options):
    network, objective = fresh(), Projected()
    told = make_settings(
        num_steps=9, batch_size=4, optimiser=optimiser, nesterov=True, weight_decay=0.01
    )
    checkpoint = None if path is None else kind(path, "key", "training", "train")
    with isolated_rng(7):
        result = train(
            network, SET, told, make_generator(3), observer, objective=objective,
            checkpoint=checkpoint, **options,
        )  # fmt: skip
    return result, {**network.state_dict(), **objective.state_dict()}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("killed_at", [1, 5, 9])
def test_a_killed_training_ends_as_if_nothing_had_happened(tmp_path, optimiser, killed_at):
    expected, weights = run(optimiser=optimiser)
    path = tmp_path / "training.safetensors"
    with pytest.raises(KilledError):
        run(path, KillAt(killed_at), optimiser)
    seen = []
    result, found = run(path, lambda step, *_: seen.append(step), optimiser)
    assert result.losses == expected.losses
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert seen == list(range(killed_at, 10))  # a step that was not saved is done again


def test_a_finished_training_is_not_repeated(tmp_path):
    path = tmp_path / "training.safetensors"
    expected, weights = run(path)
    seen = []
    result, found = run(path, lambda step, *_: seen.append(step))
    assert not seen
    assert result.losses == expected.losses
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "training.safetensors"
    run(path)
    with pytest.raises(StudyError, match="belongs to a training with other options.*to train anew"):
        Checkpointer(path, "another", "training", "train").load()


def test_an_objective_is_minimised_and_its_parameters_learn():
    _, weights = run()
    assert not torch.equal(weights["scale"], torch.ones(3))


def test_an_objective_is_given_what_the_network_was_given():
    given = []

    class Keep(Objective):
        def forward(self, batch: Batch):
            given.append(batch)
            assert batch.cross_entropy.item() == pytest.approx(
                F.cross_entropy(batch.logits, batch.labels).item()
            )
            return batch.cross_entropy

    network, training_set = Recorder(), random_set()
    train(network, training_set, make_settings(), make_generator(0), objective=Keep())
    assert all(torch.equal(b.images, x) for b, x in zip(given, network.batches, strict=True))
    for batch in given:
        assert torch.equal(batch.images, training_set.images[batch.indices])
        assert torch.equal(batch.labels, training_set.labels[batch.indices])


def test_groups_learn_at_their_rates_and_nothing_else_learns():
    """One step of plain descent: the change is the rate times the gradient."""
    training_set = random_set()
    told = make_settings(
        num_steps=1, batch_size=10, schedule="constant", learning_rate=0.5, momentum=0.0,
        nesterov=False, weight_decay=0.0,
    )  # fmt: skip
    whole, parts = Recorder(), Recorder()
    train(whole, training_set, told, make_generator(0))
    groups = [ParameterGroup([parts.linear.weight], 0.1)]
    train(parts, training_set, told, make_generator(0), groups=groups)
    before = Recorder().state_dict()
    step = whole.linear.weight.detach() - before["linear.weight"]
    found = parts.linear.weight.detach() - before["linear.weight"]
    assert torch.allclose(found, 0.1 * step, atol=1e-6)
    assert torch.equal(parts.linear.bias, before["linear.bias"])
    assert not parts.linear.bias.requires_grad


def test_what_is_frozen_as_a_whole_stays_a_fixed_function():
    network = fresh()
    statistics = network.body[1].running_mean.clone()
    groups = [ParameterGroup(list(network.head.parameters()))]
    train(network, SET, make_settings(), make_generator(0), groups=groups)
    assert torch.equal(network.body[1].running_mean, statistics)
    network.requires_grad_(True)
    set_training_mode(network)
    assert network.body[1].training
    train(network, SET, make_settings(), make_generator(0))
    assert not torch.equal(network.body[1].running_mean, statistics)


def test_views_are_copies_that_are_augmented_apart():
    generator = make_generator(0)
    images = torch.randn(6, 1, 2, 2, generator=generator)
    spec = tiny_dataset().spec
    training_set = TrainingSet(images, torch.arange(6) % 3, spec, PLAIN, views=2)
    network = Recorder()
    train(network, training_set, make_settings(num_steps=2, batch_size=3), make_generator(1))
    for batch in network.batches:
        assert len(batch) == 6
        assert torch.equal(batch[:3], batch[3:])
    flipped = TrainingSet(images, training_set.labels, spec, Augmentation(flip=True), views=2)
    network = Recorder()
    train(network, flipped, make_settings(num_steps=4, batch_size=6), make_generator(1))
    assert any(not torch.equal(batch[:6], batch[6:]) for batch in network.batches)


# Phases


def head(network):
    return [ParameterGroup(list(network.head.parameters()))]


def everything(network):
    return [
        ParameterGroup(list(network.body.parameters()), 0.1),
        ParameterGroup(list(network.head.parameters())),
    ]


PHASES = (
    Phase("feature extraction", make_settings(num_steps=3, batch_size=4), head),
    Phase("fine-tuning", make_settings(num_steps=5, batch_size=4), everything),
)


def run_phases(path: Path | None = None, observer=None):
    network = fresh()
    checkpoint = None if path is None else Eager(path, "key")
    with isolated_rng(7):
        result = train_phases(
            network, SET, PHASES, make_generator(3), observer, checkpoint=checkpoint
        )
    if checkpoint is not None:
        checkpoint.remove()
    return result, network.state_dict()


def test_phases_follow_one_another():
    bodies = []
    network, told = fresh(), []
    initial = network.body[0].weight.detach().clone()

    def watch(step, indices, logits):
        told.append(step)
        bodies.append(torch.equal(network.body[0].weight, initial))

    result = train_phases(network, SET, PHASES, make_generator(3), watch)
    assert result.phases == (("feature extraction", 3), ("fine-tuning", 5))
    assert told == [1, 2, 3, 4, 5, 6, 7, 8]
    assert bodies == [True] * 3 + [False] * 5
    assert len(result.losses) == 8
    assert result.images_seen == 32


@pytest.mark.parametrize("killed_at", [2, 3, 4, 8])
def test_phases_continue_where_they_were_killed(tmp_path, killed_at):
    expected, weights = run_phases()
    path = tmp_path / "training.safetensors"
    with pytest.raises(KilledError):
        run_phases(path, KillAt(killed_at))
    result, found = run_phases(path)
    assert (result.losses, result.phases) == (expected.losses, expected.phases)
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("pauses", [(2, 8), (3, 6), (1, 1, 4, 7)])
def test_phases_pause_and_go_on_to_the_same_weights(tmp_path, pauses):
    expected, weights = run_phases()
    path, told = tmp_path / "training.safetensors", []
    for until in (*pauses, None):
        network = fresh()
        with isolated_rng(7):
            result = train_phases(
                network,
                SET,
                PHASES,
                make_generator(3),
                lambda step, indices, logits: told.append(step),
                checkpoint=Eager(path, "key"),
                until=until,
            )
        assert result.losses == expected.losses[:until]
        assert result.images_seen == 4 * len(result.losses)
    assert told == list(range(1, 9))  # nothing twice
    assert result.phases == expected.phases
    found = network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())


# Progressive resizing


class AnySize(nn.Module):
    """Remembers the size of the images it saw, and whether it was training."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.seen = []

    def forward(self, images):
        self.seen.append((self.training, *images.shape[-2:]))
        return self.linear(images.mean(dim=(2, 3)))


def test_networks_train_at_rising_sizes_and_are_measured_at_the_full_one():
    network, dataset = AnySize(), TrainingSet.of(tiny_dataset(image_shape=(3, 16, 16)))
    told = make_settings(num_steps=8, first_image_size=8)
    train(network, dataset, told, make_generator(0))
    measure(network, dataset, told)
    sizes = [(8, 8)] * 3 + [(12, 12)] * 3 + [(16, 16)] * 2
    assert network.seen[:8] == [(True, *size) for size in sizes]
    assert {entry[1:] for entry in network.seen[8:]} == {(16, 16)}


def test_a_network_of_one_size_alone_is_told_which_option_asks_for_others():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    dataset = TrainingSet.of(tiny_dataset(image_shape=(3, 16, 16)))
    told = make_settings(num_steps=8, first_image_size=8)
    with pytest.raises(EvaluationError, match=r"fails at 8 pixels.*train\.first_image_size"):
        train(network, dataset, told, make_generator(0))


def test_a_first_size_above_the_images_own_is_refused():
    told = make_settings(num_steps=8, first_image_size=9)
    with pytest.raises(ConfigError, match="first_image_size is 9, but trainings end at 8 pixels"):
        training_fidelity(told, tiny_dataset().spec, "d", 24)


def test_a_first_size_above_the_full_one_is_refused():
    with pytest.raises(ValueError, match=r"first_image_size \(32\) is above image_size \(16\)"):
        make_settings(first_image_size=32, image_size=16)
