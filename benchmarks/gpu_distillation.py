"""Distillation on a GPU at published settings, as far as the time goes, 10 images per class.

Each method runs for its share of the time with the options of its paper; what is shortened is said
in the row (steps, experts, teachers, and the real images are a part). Seconds per iteration give
the time that the published number of iterations would take. The accuracy is that of ConvNets that
train on the set in the common way, on the part's test images, beside that of random images.

    python benchmarks/gpu_distillation.py --part prepared/cifar10_part.safetensors --out OUT.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gpu_common import Table, gpu_parser, on, read_part

from nas_proxy.data.augment import DSA_STRATEGY, Augmentation
from nas_proxy.data.proxy_dataset import LearningRateRule, ProxyDataset
from nas_proxy.devices import wait_for
from nas_proxy.distill.distribution_matching import DistributionMatching
from nas_proxy.distill.gradient_matching import GradientMatching
from nas_proxy.distill.patch_selection import PatchSelection
from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.distill.statistical_matching import SQUEEZED_RESNET18, StatisticalMatching
from nas_proxy.distill.trajectory_matching.distiller import TrajectoryMatching
from nas_proxy.interfaces import DistillContext, Distiller, DistillTask
from nas_proxy.networks.catalogue import NetworkSettings, build_network
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import measure
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import ImageDataset


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        title: The method's name in the field.
        make: From a number of iterations to the distiller.
        published: Iterations of the paper, of those that the progress counts; None if it has none.
        first: Iterations of the run that is timed first.
        note: What is shortened beside the iterations.
    """

    title: str
    make: Callable[[int], Distiller]
    published: int | None
    first: int
    note: str = ""


def methods(size: str, images_per_class: int) -> list[Method]:
    """In order of worth."""
    tiny = size == "tiny"
    small = {"network_width": 4, "real_batch_size": 8} if tiny else {}
    teacher = _teacher(tiny)
    experts = 2 if tiny else 4
    published_mtt = TrajectoryMatching().in_force(images_per_class).num_steps
    return [
        Method(
            "DM",
            lambda n: DistributionMatching(num_steps=n, augment=DSA_STRATEGY, **small),
            DistributionMatching().num_steps,
            2 if tiny else 30,
        ),
        Method(
            "DSA",
            lambda n: GradientMatching(num_steps=n, augment=DSA_STRATEGY, init="real", **small),
            GradientMatching().num_steps,
            2,
        ),
        Method(
            "MTT",
            lambda n: TrajectoryMatching(
                num_steps=n,
                num_experts=1 if tiny else 2,
                expert_num_epochs=experts,
                max_start_epoch=1,
                matched_epochs=2 if not tiny else 1,
                **{**small, **({"num_inner_steps": 2} if tiny else {})},
            ),
            published_mtt,
            2 if tiny else 5,
            f"experts of {experts} epochs; the paper has 100 of 50",
        ),
        Method(
            "RDED", lambda n: PatchSelection(network=teacher), None, 1, "a teacher of few epochs"
        ),
        Method(
            "SRe2L",
            lambda n: StatisticalMatching(networks=(teacher,), num_steps=n),
            StatisticalMatching().num_steps,
            2 if tiny else 20,
            "a teacher of few epochs",
        ),
    ]


def _teacher(tiny: bool) -> Any:
    epochs = 1 if tiny else 8
    train_settings = replace(SQUEEZED_RESNET18.train, num_epochs=epochs)
    network = (
        NetworkSettings(name="convnet", norm="batch", width=4)
        if tiny
        else (SQUEEZED_RESNET18.network)
    )
    return replace(SQUEEZED_RESNET18, network=network, train=train_settings)


class Clock:
    """Notes when each iteration ended.

    Args:
        device: Waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = (0, 0)
        self.times: list[float] = []

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """A progress display; of several kinds of work, such as experts, the last one counts."""
        wait_for(self._device)
        if done <= self._last[0] or total != self._last[1]:
            self.times = []
        self._last = done, total
        self.times.append(time.perf_counter())

    @property
    def seconds_per_iteration(self) -> float | None:
        """Of the later half, in which nothing is chosen or trained first any more."""
        later = self.times[len(self.times) // 2 :] if len(self.times) > 3 else self.times
        return (later[-1] - later[0]) / (len(later) - 1) if len(later) > 1 else None


def distil(
    distiller: Distiller, dataset: ImageDataset, images_per_class: int, cache: Path | None
) -> tuple[ProxyDataset, Clock, float]:
    """The set, when its iterations ended, and seconds of all."""
    device = dataset.images.device
    clock, started = Clock(device), time.perf_counter()
    task = DistillTask(
        dataset=dataset,
        images_per_class=images_per_class,
        generator=make_generator(0),
        context=DistillContext(device=device, progress=clock, cache=cache),
    )
    made = distiller.distill(task)
    wait_for(device)
    return made, clock, time.perf_counter() - started


def accuracy(made: ProxyDataset, test: ImageDataset, size: str) -> float:
    """Test accuracy in % of a ConvNet that trains on a set in the common way, but shorter."""
    device = test.images.device
    rule = TrainSettings.of_rule(LearningRateRule())
    epochs = 2 if size == "tiny" else 300
    settings = replace(rule, num_epochs=epochs, augmentation=Augmentation(dsa=DSA_STRATEGY))
    width = 4 if size == "tiny" else 128
    with isolated_rng(0):
        network = build_network(NetworkSettings(name="convnet", width=width), test.spec).to(device)
        train(network, TrainingSet.of(made.to(device)), settings, make_generator(0, device))
    return 100 * measure(network, test, settings).accuracy


def main() -> None:
    """Distil with each method, longer where time is left, and publish each row."""
    made = gpu_parser(__doc__, seconds=65)
    made.add_argument("--images-per-class", type=int, default=10)
    arguments = made.parse_args()
    device = torch.device(arguments.device)
    splits = read_part(arguments.part).splits
    real, test = on(splits.search_train, device), on(splits.test, device)
    per_class = 2 if arguments.size == "tiny" else arguments.images_per_class
    table = Table(arguments)
    random, _, _ = distil(RandomSubset(), real, per_class, None)
    beside = {"images_per_class": per_class, "random": accuracy(random, test, arguments.size)}
    wanted = methods(arguments.size, per_class)
    for number, method in enumerate(wanted):
        share = table.seconds_left / (len(wanted) - number)
        if share <= 0:
            break
        with tempfile.TemporaryDirectory() as work:  # teachers and experts of both runs
            row = row_of(method, real, test, per_class, (share, Path(work)), arguments)
        table.add(row, **beside)


def row_of(
    method: Method,
    real: ImageDataset,
    test: ImageDataset,
    per_class: int,
    means: tuple[float, Path],
    given: argparse.Namespace,
) -> dict[str, Any]:
    """A first run gives the seconds of an iteration, a second one goes as far as its time.

    `means` are seconds and the folder of teachers and experts.
    """
    share, cache = means
    found, clock, seconds = distil(method.make(method.first), real, per_class, cache)
    num_iterations, each = method.first, clock.seconds_per_iteration
    if method.published is not None and each is not None and given.size != "tiny":
        longer = min(method.published, int(0.5 * max(0.0, share - seconds) / each))
        if longer > method.first:
            num_iterations = longer
            found, clock, seconds = distil(method.make(longer), real, per_class, cache)
            each = clock.seconds_per_iteration or each
    total = None if method.published is None or each is None else method.published * each
    return {
        "method": method.title,
        "iterations": num_iterations,
        "published_iterations": method.published,
        "seconds": round(seconds, 2),
        "seconds_per_iteration": None if each is None else round(each, 5),
        "extrapolated_seconds_of_published": None if total is None else round(total, 1),
        "test_accuracy_of_one_network": round(accuracy(found, test, given.size), 2),
        "note": method.note,
    }


if __name__ == "__main__":
    main()
