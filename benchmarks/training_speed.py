"""Seconds per training step: our loop against the plain loop of the condensation literature.

The plain loop is written from its description: a DataLoader over normalised float tensors, an
augmentation that goes through the batch image by image in Python, loss and accuracy fetched at
every step. Both train the same networks on the same images; the repetitions alternate, so that
the noise of a shared machine hits both.

    python benchmarks/training_speed.py --data-root DATA --out OUT.json
"""

from __future__ import annotations

import multiprocessing
import random
import resource
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from common import parser, publish, small_network
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.data.transforms import normalise, resize_dataset
from nas_proxy.reproducibility import make_generator
from nas_proxy.train.loop import train
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import ImageDataset

BATCH_SIZE = 64


def ours(dataset: ImageDataset, name: str, num_steps: int, precision: str) -> float:
    """Seconds per step of `nas_proxy.train.loop`."""
    settings = TrainSettings(
        num_steps=num_steps,
        batch_size=BATCH_SIZE,
        learning_rate=0.05,
        augmentation=Augmentation(crop=0.125, flip=True, cutout=0.5),
        precision=precision,
    )
    device = dataset.images.device
    model = small_network(name, dataset.spec, width=32).to(device)
    result = train(model, TrainingSet.of(dataset), settings, make_generator(0, device))
    return result.train_seconds / num_steps


def plain(dataset: ImageDataset, name: str, num_steps: int) -> float:
    """Seconds per step of the plain loop."""
    device = dataset.images.device
    images = normalise(dataset.images, dataset.spec).cpu()
    loader = DataLoader(TensorDataset(images, dataset.labels.cpu()), BATCH_SIZE, shuffle=True)
    model = small_network(name, dataset.spec, width=32).to(device).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    started, steps, loss_sum, correct = time.perf_counter(), 0, 0.0, 0
    while steps < num_steps:
        for batch, labels in loader:
            batch, labels = augment_one_by_one(batch).to(device), labels.to(device)
            logits = model(batch)
            loss = F.cross_entropy(logits, labels)
            loss_sum += loss.item() * len(labels)
            predicted = np.argmax(logits.cpu().data.numpy(), axis=-1)
            correct += int(np.sum(np.equal(predicted, labels.cpu().data.numpy())))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            steps += 1
            if steps == num_steps:
                break
    return (time.perf_counter() - started) / num_steps


def augment_one_by_one(images: Tensor) -> Tensor:
    """Crop, flip and cutout, image by image."""
    size = images.shape[-1]
    shift, hole = size // 8, size // 2
    padded = F.pad(images, (shift,) * 4)
    changed = images.clone()
    for index in range(len(images)):
        top, left = random.randint(0, 2 * shift), random.randint(0, 2 * shift)
        changed[index] = padded[index, :, top : top + size, left : left + size]
        if random.random() < 0.5:
            changed[index] = changed[index].flip(-1)
        row, column = random.randint(0, size - 1), random.randint(0, size - 1)
        rows = slice(max(0, row - hole // 2), row + hole // 2)
        changed[index, :, rows, max(0, column - hole // 2) : column + hole // 2] = 0
    return changed


def peak_memory(work: Callable[[], float]) -> int:
    """Additional peak memory of a loop in MiB, in a process of its own."""
    queue = multiprocessing.get_context("fork").Queue()

    def measure() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        queue.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)

    process = multiprocessing.get_context("fork").Process(target=measure)
    process.start()
    peak = queue.get()
    process.join()
    return int(peak)


def main() -> None:
    """Measure and publish."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--num-steps", type=int, default=30)
    arguments_parser.add_argument("--repeats", type=int, default=5)
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    splits = load_splits(DataSettings(name="cifar10", root=arguments.data_root))
    full = splits.search_train
    full = full.subset(torch.arange(10_000))
    rows = []
    for image_size in (32, 16):
        dataset = resize_dataset(full, image_size)
        dataset = ImageDataset(
            dataset.images.to(arguments.device), dataset.labels.to(arguments.device), dataset.spec
        )
        for name in ("convnet", "nasbench201"):
            steps = arguments.num_steps
            loops: dict[str, Callable[[], float]] = {
                "plain loop": partial(plain, dataset, name, steps),
                "ours, float32": partial(ours, dataset, name, steps, "float32"),
                "ours, bfloat16": partial(ours, dataset, name, steps, "bfloat16"),
            }
            memory = {}
            if arguments.device == "cpu":
                memory = {loop: peak_memory(work) for loop, work in loops.items()}
            seconds: dict[str, list[float]] = {loop: [] for loop in loops}
            for _ in range(arguments.repeats):
                for loop, work in loops.items():
                    seconds[loop].append(work())
            median = {loop: float(np.median(values)) for loop, values in seconds.items()}
            rows.append(
                {
                    "network": name,
                    "image_size": image_size,
                    "milliseconds_per_step": {k: round(1000 * v, 1) for k, v in median.items()},
                    "times_faster_than_plain": {
                        k: round(median["plain loop"] / v, 2) for k, v in median.items()
                    },
                    "additional_peak_memory_mib": memory,
                }
            )
    publish({"batch_size": BATCH_SIZE, "repeats": arguments.repeats, "rows": rows}, arguments)


if __name__ == "__main__":
    main()
