"""Candidates on a GPU: our loop against the plain loop and against one in the manner of airbench.

All train NAS-Bench-201 cells on the same images. The plain loop is that of training_speed.py: a
DataLoader, augmentation image by image in Python, loss and accuracy fetched at each step; beside
it stands the same with loading processes. The loop in the manner of airbench (Jordan, "94 % on
CIFAR-10 in 3.29 seconds on a single GPU", 2024) is written from its description: all images lie on
the GPU as halves, an epoch is augmented at once, flips alternate between epochs, weights are halves
but for norms, nothing is fetched on the way. The peak is that of a product of large matrices,
measured here.

    python benchmarks/gpu_candidates.py --part prepared/cifar10_part.safetensors --out OUT.json
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from gpu_common import Table, gpu_parser, on, plain, read_part, settings_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from training_speed import augment_one_by_one

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.transforms import normalise
from nas_proxy.devices import wait_for
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.scores.flops import Flops
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.train.loop import train
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import ImageDataset

CELL = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|"
    "+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
)
NUM_LOADERS = 8
CANDIDATE_STEPS = 360  # of which "seconds per candidate" speaks
Loop = Callable[[nn.Module, int], float]
"""From a network and a number of steps to seconds per step."""


def network(num_cells: int, images: ImageDataset) -> nn.Module:
    """A cell, always with the same weights, on the device of the images."""
    with isolated_rng(0):
        space = NASBench201Space(num_cells=num_cells)
        return space.build(space.from_string(CELL), images.spec).to(images.images.device)


def ours(
    images: ImageDataset, size: str, precision: str, graphed: bool, model: nn.Module, num_steps: int
) -> float:
    """Our loop."""
    settings = settings_of(
        size,
        num_steps=num_steps,
        precision=precision,
        augmentation=Augmentation(crop=0.125, flip=True, cutout=0.5),
    )
    generator = make_generator(0, images.images.device)
    result = train(model, TrainingSet.of(images), settings, generator, graphed=graphed)
    return result.train_seconds / num_steps


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Images that are augmented one by one where they are loaded."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return augment_one_by_one(self._images[index : index + 1])[0], self._labels[index]


def plain_loop(
    images: ImageDataset, batch_size: int, num_loaders: int, model: nn.Module, num_steps: int
) -> float:
    """The plain loop; with loading processes its start is left out."""
    device = images.images.device
    data = Augmented(normalise(images.images, images.spec).cpu(), images.labels.cpu())
    loader = DataLoader(data, batch_size, shuffle=True, num_workers=num_loaders, drop_last=True)
    optimiser = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    model.train()
    correct, loss_sum, steps, started = 0, 0.0, 0, 0.0
    while True:
        for batch, labels in loader:
            if not started:
                wait_for(device)
                started = time.perf_counter()
            batch, labels = batch.to(device), labels.to(device)
            logits = model(batch)
            loss = F.cross_entropy(logits, labels)
            loss_sum += loss.item() * len(labels)
            correct += int((logits.argmax(dim=1) == labels).sum())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            steps += 1
            if steps == num_steps:
                wait_for(device)
                return (time.perf_counter() - started) / num_steps


def in_the_manner_of_airbench(
    images: ImageDataset, batch_size: int, model: nn.Module, num_steps: int
) -> float:
    """See above; padding by two pixels, label smoothing of 0.2, a triangular rate, as described."""
    device, size = images.images.device, images.images.shape[-1]
    pixels = normalise(images.images, images.spec).bfloat16()
    padded = F.pad(pixels, (2,) * 4, mode="reflect")
    for module in model.modules():
        if not isinstance(module, nn.BatchNorm2d) and not list(module.children()):
            module.to(torch.bfloat16)
    model.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(
        model.parameters(), lr=0.2, momentum=0.85, nesterov=True, weight_decay=5e-4
    )
    loss_function = nn.CrossEntropyLoss(label_smoothing=0.2, reduction="none")
    generator = make_generator(0, device)
    mirrored = torch.rand(len(pixels), device=device, generator=generator) < 0.5
    wait_for(device)
    started, steps, epoch = time.perf_counter(), 0, 0
    while True:
        top, left = torch.randint(5, (2, len(pixels)), device=device, generator=generator)
        rows = top[:, None] + torch.arange(size, device=device)
        columns = left[:, None] + torch.arange(size, device=device)
        every = torch.arange(len(pixels), device=device)
        changed = padded.permute(0, 2, 3, 1)[
            every[:, None, None], rows[:, :, None], columns[:, None, :]
        ].permute(0, 3, 1, 2)
        changed = torch.where(
            (mirrored ^ bool(epoch % 2))[:, None, None, None], changed.flip(-1), changed
        )
        order = torch.randperm(len(pixels), device=device, generator=generator)
        for indices in order.split(batch_size):
            if len(indices) < batch_size:
                break
            batch = changed[indices].contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):  # norms are float32
                logits = model(batch)
            loss = loss_function(logits.float(), images.labels[indices]).sum() / batch_size
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            peak = num_steps / 5
            share = min((steps + 1) / peak, (num_steps - steps) / max(1.0, num_steps - peak))
            for group in optimiser.param_groups:
                group["lr"] = 0.2 * share
            optimiser.step()
            steps += 1
            if steps == num_steps:
                wait_for(device)
                return (time.perf_counter() - started) / num_steps
        epoch += 1


def peak_flops(device: torch.device, length: int) -> float:
    """Operations per second of a product of two square matrices in bfloat16."""
    left, right = torch.randn((2, length, length), device=device).bfloat16()
    for _ in range(3):
        left @ right
    wait_for(device)
    started = time.perf_counter()
    for _ in range(10):
        left @ right
    wait_for(device)
    return 10 * 2 * length**3 / (time.perf_counter() - started)


def loops(images: ImageDataset, size: str) -> dict[str, tuple[Loop, int]]:
    """Each loop, with how many of its steps are timed."""
    batch_size = min(settings_of(size, num_steps=1).batch_size, len(images))
    few, many = (3, 8) if size == "tiny" else (20, 200)
    loaders = 1 if size == "tiny" else NUM_LOADERS
    return {
        "plain loop": (partial(plain_loop, images, batch_size, 0), few),
        "ours, bfloat16": (partial(ours, images, size, "bfloat16", False), many),
        "ours, bfloat16, CUDA graph": (partial(ours, images, size, "bfloat16", True), many),
        "in the manner of airbench": (
            partial(in_the_manner_of_airbench, images, batch_size),
            many,
        ),
        f"plain loop, {loaders} loading processes": (
            partial(plain_loop, images, batch_size, loaders),
            few,
        ),
        "ours, float32": (partial(ours, images, size, "float32", False), many),
        "ours, float32, CUDA graph": (partial(ours, images, size, "float32", True), many),
    }


def main() -> None:
    """Measure and publish, a row for each loop and network."""
    arguments = gpu_parser(__doc__, seconds=90).parse_args()
    device = torch.device(arguments.device)
    images = on(read_part(arguments.part).splits.search_train, device)
    settings = settings_of(arguments.size, num_steps=CANDIDATE_STEPS)
    peak = peak_flops(device, 8192 if arguments.size == "full" else 128)
    table = Table(arguments)
    beside = {"settings": plain(settings), "measured_peak_flops_per_second": peak}
    for num_cells in (1, 5) if arguments.size == "full" else (1,):
        model = network(num_cells, images)
        flops = Flops().measure(model, normalise(images.images[:2], images.spec))
        plain_seconds = None
        for name, (loop, num_steps) in loops(images, arguments.size).items():
            if table.seconds_left <= 0:
                return
            loop(network(num_cells, images), 5)  # kernels are chosen
            seconds = loop(network(num_cells, images), num_steps)
            plain_seconds = plain_seconds or seconds
            rate = min(settings.batch_size, len(images)) / seconds
            table.add(
                {
                    "num_cells": num_cells,
                    "loop": name,
                    "steps_timed": num_steps,
                    "images_per_second": round(rate, 1),
                    f"seconds_per_candidate_of_{CANDIDATE_STEPS}_steps": round(
                        CANDIDATE_STEPS * seconds, 3
                    ),
                    "times_faster_than_plain": round(plain_seconds / seconds, 2),
                    # A gradient costs twice its forward pass.
                    "share_of_measured_peak": round(3 * flops * rate / peak, 4),
                },
                **beside,
            )


if __name__ == "__main__":
    main()
