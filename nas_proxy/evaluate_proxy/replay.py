"""A proxy data set as the memory of a learner that meets the classes one task after another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.transforms import normalise, resize, resize_dataset
from nas_proxy.errors import ConfigError
from nas_proxy.evaluate_proxy.settings import ReplaySettings
from nas_proxy.networks.catalogue import build_network
from nas_proxy.reproducibility import derive_seed, isolated_rng, make_generator
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import measure
from nas_proxy.train.training_set import TrainingSet, as_probabilities
from nas_proxy.types import DatasetSpec, ImageDataset, Progress, Splits, no_progress


@dataclass(frozen=True)
class ReplayResult:
    """One learner.

    Attributes:
        order: The classes, in the order in which the tasks brought them.
        accuracies: `accuracies[t][s]`: test accuracy on the classes of task `s` after task `t`, for
            `s <= t`.
        seconds: Wall-clock seconds of all its trainings.
    """

    order: tuple[int, ...]
    accuracies: tuple[tuple[float, ...], ...]
    seconds: float

    @property
    def after_each_task(self) -> tuple[float, ...]:
        """Accuracy on all classes met so far, after each task; tasks count alike."""
        return tuple(sum(row) / len(row) for row in self.accuracies)

    @property
    def forgetting(self) -> float:
        """How much of each task but the last was lost at the end, from its best, on average.

        Chaudhry et al., "Riemannian Walk for Incremental Learning", ECCV 2018.
        """
        last = self.accuracies[-1]
        earlier = range(len(last) - 1)
        best = [max(row[task] for row in self.accuracies[task:-1]) for task in earlier]
        return sum(best[task] - last[task] for task in earlier) / len(earlier)


def run_replay(
    memory: ProxyDataset,
    splits: Splits,
    settings: ReplaySettings,
    *,
    seed: int,
    progress: Progress = no_progress,
) -> ReplayResult:
    """Train one learner through all tasks.

    Args:
        memory: Its images of a class may be used from the task after that of the class; with the
            labels in the set, also where teachers would label every view.
        splits: Real images, on the device of the memory.
        settings: Tasks, learner and training.
        seed: Of the order of classes, the weights and the batches.
        progress: Told after each task.

    Raises:
        ConfigError: If there are fewer classes than tasks.
        DivergedError: If the loss is not finite.
    """
    spec = splits.spec.with_image_size(settings.train.image_size or splits.spec.image_shape[1])
    device = memory.images.device
    tasks = divide_classes(spec.num_classes, settings.num_tasks, derive_seed("tasks", seed))
    started = time.perf_counter()
    with isolated_rng(derive_seed("replay weights", seed)):
        network = build_network(settings.network, spec).to(device)
    rows: list[tuple[float, ...]] = []
    for index, task in enumerate(tasks):
        met = [label for earlier in tasks[:index] for label in earlier]
        generator = make_generator(derive_seed("replay images", seed, index))
        training_set = _training_set(memory, splits.search_train, (task, met), generator, settings)
        with isolated_rng(derive_seed("replay layers", seed, index)):
            batches = make_generator(derive_seed("replay batches", seed, index), device)
            train(network, training_set, settings.train, batches)
        known = tasks[: index + 1]
        confusion = measure(network, _tests(splits.test, known, spec), settings.train).confusion
        rows.append(tuple(_found(confusion, classes) for classes in known))
        progress(index + 1, len(tasks))
    order = tuple(label for task in tasks for label in task)
    return ReplayResult(order, tuple(rows), time.perf_counter() - started)


def divide_classes(num_classes: int, num_tasks: int, seed: int) -> list[list[int]]:
    """The classes in random order, cut into tasks of the same size or one more.

    Raises:
        ConfigError: If there are fewer classes than tasks.
    """
    if num_classes < num_tasks:
        raise ConfigError(
            f"evaluate_proxy.replay.num_tasks is {num_tasks}, but there are {num_classes} classes; "
            "lower it"
        )
    order = torch.randperm(num_classes, generator=make_generator(seed))
    return [part.tolist() for part in order.tensor_split(num_tasks)]


def _training_set(
    memory: ProxyDataset,
    real: ImageDataset,
    classes: tuple[Sequence[int], Sequence[int]],
    generator: torch.Generator,
    settings: ReplaySettings,
) -> TrainingSet:
    """Real images of the task's classes, the memory of earlier ones, every class alike often."""
    task, met = classes
    size = settings.train.image_size or real.spec.image_shape[1]
    # No more than a training draws from each class.
    steps, batch_size = settings.train.steps_for(len(real)), settings.train.batch_size
    most = -(-steps * batch_size // (len(task) + len(met)))
    chosen = [_drawn(real.labels, label, most, generator) for label in task]
    indices = torch.cat(chosen)
    remembered = torch.cat([_members(memory.classes, label) for label in met] or [indices[:0]])
    images = torch.cat(
        [
            resize(normalise(real.images[indices], real.spec), size),
            resize(memory.training_images()[remembered], size),
        ]
    )
    labels = torch.cat(
        [
            as_probabilities(real.labels[indices], real.spec),
            as_probabilities(memory.labels, real.spec)[remembered],
        ]
    )
    position = torch.arange(len(images), device=images.device)
    sizes = [len(part) for part in chosen]
    sizes += [len(_members(memory.classes, label)) for label in met]
    largest = max(sizes)
    order = torch.cat(
        [part.repeat(-(-largest // len(part)))[:largest] for part in position.split(sizes)]
    )
    return TrainingSet(images, labels, real.spec.with_image_size(size), order=order)


def _drawn(labels: Tensor, label: int, most: int, generator: torch.Generator) -> Tensor:
    members = _members(labels, label)
    order = torch.randperm(len(members), generator=generator)[:most]
    return members[order.to(members.device)]


def _members(labels: Tensor, label: int) -> Tensor:
    return torch.nonzero(labels == label).flatten()


def _tests(test: ImageDataset, tasks: Sequence[Sequence[int]], spec: DatasetSpec) -> ImageDataset:
    known = torch.tensor([label for task in tasks for label in task], device=test.labels.device)
    part = test.subset(torch.nonzero(torch.isin(test.labels, known)).flatten())
    return resize_dataset(part, spec.image_shape[1])


def _found(confusion: Tensor, classes: Sequence[int]) -> float:
    """Share of the images of `classes` whose class was found."""
    rows = confusion[list(classes)]
    return float(sum(confusion[label, label] for label in classes)) / float(rows.sum())
