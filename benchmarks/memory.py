"""What candidates and the driver of a study take of a CPU's memory.

The first table is the growth of a process that trains one network, beside the bytes that its
forward pass keeps for the gradient. The second trains on a folder of many photographs, made here of
noise: what counts is anonymous memory, for pages of mapped files are given back when memory is
short. The third figure is the largest resident memory of the process that runs a small study with
tracking, while its workers train; `--before CHECKOUT` adds that of another version.

    python benchmarks/memory.py --data-root DATA --out OUT.json
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from common import parser, publish, small_network
from PIL import Image
from torch import Tensor, nn

from nas_proxy.core.environment import PeakMemory
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory, training_fidelity
from nas_proxy.reproducibility import make_generator
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.train.loop import train
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Architecture, ImageDataset

BATCH_SIZE = 128
STUDY = {
    "study_name": "memory",
    "data": {"name": "cifar10"},
    "distill": {"name": "random_subset", "images_per_class": 5},
    "space": {"name": "nasbench201"},
    "train": {
        "num_steps": 5,
        "batch_size": 32,
        "image_size": 16,
        "space_fidelity": {"num_cells": 1},
    },
    "search": {"n_trials": 2, "sampler": "random", "executor": "processes", "num_workers": 1},
}
NUM_DIFFERENT = 200  # photographs; the others are further names of these


def kept_mib(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """MiB that a forward pass keeps for the gradient, each storage once, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        F.cross_entropy(model(images), labels)
    return sum(kept.values()) / 2**20


def candidate(name: str, dataset: ImageDataset) -> dict[str, Any]:
    """One row of the first table; in a process of its own."""
    torch.set_num_threads(1)
    training_set = TrainingSet.of(dataset)
    images, labels = training_set.batch(torch.arange(BATCH_SIZE))
    settings = TrainSettings(
        num_steps=3, batch_size=BATCH_SIZE, precision="float32", channels_last=True
    )
    build = partial(small_network, name, dataset.spec, width=64)
    train(build(), training_set, settings, make_generator(0))  # what libraries take once
    model = build()
    peak = PeakMemory(torch.device("cpu"))
    train(model, training_set, settings, make_generator(0))
    grown = peak.mib
    kept = kept_mib(build().train(), images, labels)
    return {
        "network": name,
        "image_size": dataset.spec.image_shape[1],
        "activations_mib": round(kept),
        "peak_mib": round(grown),
        "times_activations": round(grown / kept, 2),
    }


@contextmanager
def watched(peaks: dict[str, float]) -> Iterator[None]:
    """The largest anonymous memory of this process inside the block, in MiB."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    peaks["anonymous_mib"] = max(
                        peaks.get("anonymous_mib", 0.0), int(line.split()[1]) / 1024
                    )

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def make_photographs(folder: Path, num_images: int, image_size: int) -> None:
    """A folder of ten classes; files are further names of a few hundred different ones."""
    generator = make_generator(0)
    pictures = []
    for number in range(min(NUM_DIFFERENT, num_images)):
        small = torch.randint(256, (8, 8, 3), dtype=torch.uint8, generator=generator)
        path = folder / f"{number}.jpg"
        Image.fromarray(small.numpy()).resize((image_size, image_size)).save(path)
        pictures.append(path)
    for number in range(num_images):
        place = folder / "images" / f"class{number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        os.link(pictures[number % len(pictures)], place / f"{number}.jpg")


def photographs(num_images: int, image_size: int, cache: Path) -> dict[str, Any]:
    """The second table's row; in a process of its own, after the folder was decoded once."""
    torch.set_num_threads(1)
    data = DataSettings(name="image_folder", root=str(cache / "images"), image_size=image_size)
    peaks: dict[str, float] = {}
    with watched(peaks):
        splits = load_splits(data)
        settings = TrainSettings(
            num_steps=3,
            batch_size=16,
            num_val_images=200,
            augmentation=Augmentation(crop=0.125, flip=True),
            precision="float32",
            channels_last=True,
        )
        space = ConvNetSpace(widths=(16,), depths=(3,))
        factory = NetworkEvaluatorFactory(
            data=data,
            space=space,
            scores={},
            settings=settings,
            train_on="search_train",
            device="cpu",
            fidelity=training_fidelity(
                settings, splits.spec, splits.spec.source_hash, len(splits.search_train)
            ),
        )
        architecture: Architecture = space.sample(make_generator(0))
        found = factory.build().evaluate(architecture, 0)
    if not found.complete:
        raise RuntimeError(found.reason)
    return {"num_images": num_images, "image_size": image_size, **peaks}


def driver_mib(tree: Path, data_root: str) -> float:
    """The largest resident memory of the driver of a small study on CIFAR-10, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "study.yaml"
        config.write_text(yaml.safe_dump({**STUDY, "results": f"{folder}/results"}))
        environment = {**os.environ, "PYTHONPATH": str(tree), "NAS_PROXY_CACHE": f"{folder}/cache"}
        words = ["-m", "nas_proxy.cli", "run", str(config), f"data.root={data_root}"]
        with subprocess.Popen(
            [sys.executable, *words], env=environment, cwd=folder, stderr=subprocess.DEVNULL
        ) as process:
            peak = 0
            while process.poll() is None:
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        peak = max(peak, int(line.split()[1]))
                time.sleep(0.2)
    if process.returncode:
        raise RuntimeError(f"the study ended with {process.returncode}")
    return round(peak / 1024)


def elsewhere(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` gives in a process that has done nothing else."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(work)


def main() -> None:
    """Measure and publish."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--num-images", type=int, nargs="+", default=[10_000, 100_000])
    arguments_parser.add_argument("--image-size", type=int, default=224)
    arguments_parser.add_argument("--before", type=Path, help="another checkout of nas_proxy")
    arguments = arguments_parser.parse_args()
    full = load_splits(DataSettings(name="cifar10", root=arguments.data_root)).search_train
    dataset = full.subset(torch.arange(2000))
    candidates = [
        elsewhere(partial(candidate, name, dataset)) for name in ("convnet", "nasbench201")
    ]
    rows = []
    for num_images in arguments.num_images:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["NAS_PROXY_CACHE"] = folder
            make_photographs(Path(folder), num_images, arguments.image_size)
            work = partial(photographs, num_images, arguments.image_size, Path(folder))
            # The first process decodes the folder, as a study's driver does; then comes a worker.
            rows += [{"process": name, **elsewhere(work)} for name in ("driver", "worker")]
    trees = {"before": arguments.before, "after": Path(__file__).parents[1]}
    drivers = {
        name: driver_mib(tree.absolute(), arguments.data_root)
        for name, tree in trees.items()
        if tree is not None
    }
    publish({"candidates": candidates, "photographs": rows, "driver_mib": drivers}, arguments)


if __name__ == "__main__":
    main()
