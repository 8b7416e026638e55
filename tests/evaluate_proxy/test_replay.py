"""The learner that replays a proxy data set."""

from dataclasses import replace

import pytest
import torch

from nas_proxy.errors import ConfigError
from nas_proxy.evaluate_proxy import replay
from nas_proxy.evaluate_proxy.replay import ReplayResult, divide_classes, run_replay
from nas_proxy.evaluate_proxy.settings import ReplaySettings
from nas_proxy.interfaces import DistillTask
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.registry import DISTILLERS
from nas_proxy.reproducibility import make_generator
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Splits

NUM_CLASSES = 6
SETTINGS = ReplaySettings(
    num_tasks=3,
    network=NetworkSettings(name="convnet", width=8, depth=1, norm="group"),
    train=TrainSettings(num_steps=100, batch_size=24, learning_rate=0.02, precision="float32"),
)


@pytest.fixture(scope="module")
def splits():
    train = tiny_dataset(num_classes=NUM_CLASSES, images_per_class=12)
    return Splits(search_train=train, search_val=train, test=train)


@pytest.fixture(scope="module")
def memory(splits):
    return DISTILLERS.get("random_subset")().distill(
        DistillTask(dataset=splits.search_train, images_per_class=4, generator=make_generator(0))
    )


def result_of(*rows):
    return ReplayResult(tuple(range(len(rows))), rows, 1.0)


def test_forgetting_is_the_mean_loss_from_the_best_of_each_earlier_task():
    result = result_of((0.9,), (0.5, 0.8), (0.6, 0.2, 1.0))
    assert result.forgetting == pytest.approx(((0.9 - 0.6) + (0.8 - 0.2)) / 2)
    assert result.after_each_task == pytest.approx((0.9, 0.65, 0.6))


def test_a_task_that_gets_better_is_forgotten_less_than_nothing():
    assert result_of((0.5,), (0.7, 0.8)).forgetting == pytest.approx(-0.2)


def test_every_class_is_in_exactly_one_task_and_the_seed_decides_which():
    tasks = divide_classes(10, 5, seed=0)
    assert [len(task) for task in tasks] == [2] * 5
    assert sorted(label for task in tasks for label in task) == list(range(10))
    assert divide_classes(10, 5, seed=1) != tasks
    assert [len(task) for task in divide_classes(7, 3, seed=0)] == [3, 2, 2]


def test_more_tasks_than_classes_are_refused():
    with pytest.raises(ConfigError, match=r"num_tasks is 5, but there are 3 classes"):
        divide_classes(3, 5, seed=0)


def test_a_memory_prevents_forgetting(splits, memory):
    remembered = run_replay(memory, splits, SETTINGS, seed=0)
    # A memory of noise holds nothing to remember.
    noise = torch.randn(memory.images.shape, generator=make_generator(1))
    forgotten = run_replay(replace(memory, images=noise), splits, SETTINGS, seed=0)
    assert remembered.forgetting < forgotten.forgetting - 0.2
    assert remembered.after_each_task[-1] > forgotten.after_each_task[-1] + 0.2


@pytest.mark.exhaustive
def test_the_same_seed_gives_the_same_learner(splits, memory):
    first, second = (run_replay(memory, splits, SETTINGS, seed=3).accuracies for _ in range(2))
    assert first == second
    assert run_replay(memory, splits, SETTINGS, seed=4).accuracies != first


def test_each_task_sees_its_own_real_images_and_the_memory_of_earlier_classes_alone(
    splits, memory, monkeypatch
):
    seen = []

    def watch(network, training_set, settings, generator):
        seen.append(training_set)

    monkeypatch.setattr(replay, "train", watch)
    result = run_replay(memory, splits, SETTINGS, seed=0)
    tasks = [result.order[start : start + 2] for start in (0, 2, 4)]
    for index, (task, training_set) in enumerate(zip(tasks, seen, strict=True)):
        met = {label for earlier in tasks[:index] for label in earlier}
        classes = training_set.labels.argmax(dim=1)
        assert set(classes.tolist()) == met | set(task)
        for label in met:
            held = training_set.images[classes == label]
            assert torch.equal(held, memory.images[memory.classes == label])
        # Every class alike often, though there are three times as many real images.
        often = torch.bincount(classes[training_set.order], minlength=NUM_CLASSES)
        assert len(set(often[often > 0].tolist())) == 1


def test_only_classes_met_so_far_are_tested(splits, memory):
    rows = run_replay(memory, splits, SETTINGS, seed=0).accuracies
    assert [len(row) for row in rows] == [1, 2, 3]
    assert all(0 <= value <= 1 for row in rows for value in row)
