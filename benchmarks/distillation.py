"""Every distiller on CIFAR-10: test accuracy beside random images and the published figure.

Each set is distilled, then ConvNets are trained on it and on as many random images with the same
kind of labels, in the same way, and tested on the 10,000 test images. A row that is finished is
kept in --out and not made again; what is missing comes first. No setting was chosen by these test
accuracies, unless a recipe's note says so.

    python benchmarks/distillation.py --data-root DATA --size published --device cuda --budget 600
    python benchmarks/distillation.py --data-root DATA --size cpu --budget 60 --num-workers 2
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from common import parser, publish
from pydantic import TypeAdapter
from recipes import RECIPES, SIZES, Recipe, Size

from nas_proxy.core.costs import CostMeter
from nas_proxy.core.files import write_atomically
from nas_proxy.data.pictures import write_image_grid
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.distill.measured import distill_and_label
from nas_proxy.distill.random_subset import random_control
from nas_proxy.interfaces import DistillContext, DistillTask
from nas_proxy.networks.catalogue import NetworkSettings, build_network
from nas_proxy.registry import DISTILLERS
from nas_proxy.reproducibility import content_hash, derive_seed, isolated_rng, make_generator
from nas_proxy.statistics.accuracy import SeedMean
from nas_proxy.teachers.labelling import labeller_of, save_teachers
from nas_proxy.teachers.settings import LabelSettings
from nas_proxy.teachers.training import obtain_teachers
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import measure
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import ImageDataset, Splits

GOAL = 1.5  # points below the published figure that count as reproduced


def main() -> None:
    """Run what is missing, longest-standing gaps first, until the budget is used up."""
    arguments = _arguments()
    deadline = time.monotonic() + 60 * arguments.budget
    rows = _finished(arguments.out)
    wanted = [
        (name, images_per_class)
        for images_per_class in arguments.images_per_class
        for name in arguments.methods
        if f"{name}/{images_per_class}" not in rows
    ]
    pool = ProcessPoolExecutor(arguments.num_workers, mp_context=get_context("spawn"))
    running = {}
    with pool:
        queue = iter(wanted)
        for _ in range(arguments.num_workers):
            _submit(pool, queue, running, arguments, deadline)
        while running:
            future = next(as_completed(running))
            name = running.pop(future)
            try:
                rows[name] = future.result()
            except Exception as error:  # noqa: BLE001 - the other rows go on; this one is named
                print(f"{name} failed: {type(error).__name__}: {error}")
            publish(_table(rows, arguments), arguments)
            _submit(pool, queue, running, arguments, deadline)


def _submit(
    pool: ProcessPoolExecutor,
    queue: Iterator[tuple[str, int]],
    running: dict[Any, str],
    arguments: argparse.Namespace,
    deadline: float,
) -> None:
    if time.monotonic() > deadline:
        return
    for name, images_per_class in queue:
        print(f"{name} with {images_per_class} images per class", flush=True)
        future = pool.submit(measure_method, name, images_per_class, vars(arguments))
        running[future] = f"{name}/{images_per_class}"
        return


def measure_method(name: str, images_per_class: int, arguments: dict[str, Any]) -> dict[str, Any]:
    """Distil, and train networks on the result and on its random control: one row."""
    torch.set_num_threads(1)
    recipe, size = RECIPES[name], SIZES[arguments["size"]]
    device = torch.device(arguments["device"])
    data = DataSettings(
        name="cifar10",
        root=arguments["data_root"],
        images_per_class=size.real_images_per_class,
        val_fraction=0.01,
    )
    splits = _on(load_splits(data), device)
    work = Path(arguments["work"])
    labels = _labels(recipe, size)
    context = DistillContext(
        device=device,
        cache=work / "cache",
        checkpoint=work / f"{size.name}-{name}-{images_per_class}.checkpoint",
        labels=labels.kind,
    )
    file = work / f"{size.name}-{name}-{images_per_class}.safetensors"
    if not file.is_file():
        _distill(recipe, size, images_per_class, splits.search_train, labels, context, file)
    proxy_dataset = ProxyDataset.load(file).to(device)
    write_image_grid(file.with_suffix(".png"), proxy_dataset.pixels().cpu(), images_per_class)
    found = _accuracies(file, recipe, size, splits, range(arguments["num_networks"]))
    control = []
    for index in range(arguments["num_networks"]):
        control_file = work / "controls" / f"{size.name}-{name}-{images_per_class}-{index}"
        control_file = control_file.with_suffix(".safetensors")
        _save_control(proxy_dataset, labels, splits.search_train, index, context, control_file)
        control += _once(control_file, recipe, size, splits, index)
    return _row(recipe, images_per_class, proxy_dataset, found, control)


def _distill(
    recipe: Recipe,
    size: Size,
    images_per_class: int,
    dataset: ImageDataset,
    labels: LabelSettings,
    context: DistillContext,
    file: Path,
) -> None:
    context = replace(context, costs=CostMeter(file.with_suffix(".costs.json")))
    options = {**recipe.published.get(images_per_class, {}), **recipe.options_at(size)}
    distiller = TypeAdapter(DISTILLERS.get(recipe.distiller)).validate_python(options)
    task = DistillTask(
        dataset=dataset,
        images_per_class=images_per_class,
        generator=make_generator(derive_seed("benchmark", recipe.distiller)),
        context=context,
    )
    made = distill_and_label(distiller, task, labels)
    if made.labelling.per == "view":
        save_teachers(obtain_teachers(labels.teachers, dataset, context), file)
    made.save(file)
    context.costs.forget()


def _save_control(
    proxy_dataset: ProxyDataset,
    labels: LabelSettings,
    dataset: ImageDataset,
    index: int,
    context: DistillContext,
    file: Path,
) -> None:
    """Random images with the same labels and, where it is learned, the same learning rate."""
    seed = derive_seed("benchmark control", index)
    control = random_control(proxy_dataset, labels, dataset, seed=seed, context=context)
    if control.labelling.per == "view":
        save_teachers(obtain_teachers(labels.teachers, dataset, context), file)
    replace(control, learning_rate_rule=proxy_dataset.learning_rate_rule).save(file)


def _accuracies(file: Path, recipe: Recipe, size: Size, splits: Splits, seeds: Any) -> list[float]:
    """Test accuracy in % of one network for each seed."""
    proxy_dataset = ProxyDataset.load(file).to(splits.search_train.images.device)
    training_set = TrainingSet.of(
        proxy_dataset, labeller_of(proxy_dataset, file, splits.search_train)
    )
    settings = recipe.train_settings(proxy_dataset, size)
    found = []
    for index in seeds:
        seed = derive_seed("benchmark network", index)
        with isolated_rng(seed):
            network = build_network(
                NetworkSettings(name="convnet", width=size.network_width), splits.spec
            ).to(proxy_dataset.images.device)
            train(network, training_set, settings, make_generator(seed, training_set.images.device))
        found.append(100 * measure(network, splits.test, settings).accuracy)
    return found


def _once(file: Path, recipe: Recipe, size: Size, splits: Splits, index: int) -> list[float]:
    """The accuracy of a control, which several methods share if they train on it alike."""
    control = ProxyDataset.load(file)
    settings = recipe.train_settings(control, size)
    augmentation = settings.augmentation or control.augmentation
    key = content_hash(control.images, control.labels, str((settings, augmentation)), index)
    known = file.parent / f"{key}.json"
    if not known.is_file():
        accuracies = _accuracies(file, recipe, size, splits, [index])
        write_atomically(known, json.dumps(accuracies))
    found: list[float] = json.loads(known.read_text())
    return found


def _row(
    recipe: Recipe,
    images_per_class: int,
    proxy_dataset: ProxyDataset,
    found: list[float],
    control: list[float],
) -> dict[str, Any]:
    own, random = SeedMean.of(found), SeedMean.of(control)
    difference = own.minus(random)
    published = recipe.published_accuracy.get(images_per_class)
    return {
        "method": recipe.title,
        "images_per_class": images_per_class,
        "labels": proxy_dataset.labelling.kind,
        "test_accuracy": own.mean,
        "standard_error": own.standard_error,
        "accuracies": found,
        "random_same_labels": random.mean,
        "random_standard_error": random.standard_error,
        "random_accuracies": control,
        "difference": difference.mean,
        "difference_standard_error": difference.standard_error,
        "published": published,
        "reproduced": published is not None and own.mean >= published - GOAL,
        "seconds": proxy_dataset.costs,
        "total_seconds": proxy_dataset.cost_seconds,
        "peak_memory_mib": proxy_dataset.peak_memory_mib,
        "note": recipe.note,
    }


def _labels(recipe: Recipe, size: Size) -> LabelSettings:
    section = {"kind": recipe.labels.get("kind", "hard"), **recipe.labels}
    if section["kind"] != "hard":
        section.setdefault("teachers", [size.teacher])
    return TypeAdapter(LabelSettings).validate_python(section)


def _on(splits: Splits, device: torch.device) -> Splits:
    parts = {
        name: replace(part, images=part.images.to(device), labels=part.labels.to(device))
        for name, part in splits.parts.items()
    }
    return Splits(**parts)


def _finished(out: Path) -> dict[str, Any]:
    return json.loads(out.read_text())["rows"] if out.is_file() else {}


def _table(rows: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    return {"size": SIZES[arguments.size].describe(), "rows": dict(sorted(rows.items()))}


def _arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--methods", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    made.add_argument("--images-per-class", nargs="+", type=int, default=[10])
    made.add_argument("--size", choices=list(SIZES), required=True)
    made.add_argument("--num-networks", type=int, default=3)
    made.add_argument("--num-workers", type=int, default=1, help="rows that are made side by side")
    made.add_argument("--budget", type=float, required=True, help="minutes; no row starts later")
    made.add_argument(
        "--work", default="results/benchmarks/unfinished", help="sets, teachers, pictures"
    )
    made.set_defaults(out=None)
    arguments = made.parse_args()
    if arguments.out is None:
        arguments.out = Path(f"results/benchmarks/distillation_{arguments.size}.json")
    if arguments.num_networks < 2:
        made.error("--num-networks must be at least 2: there is no standard error of one")
    return arguments


if __name__ == "__main__":
    main()
