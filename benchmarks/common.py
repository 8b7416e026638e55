"""What all benchmark scripts share: their arguments, and tables that say what they were made on."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas_proxy.core.environment import hardware, versions
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory, training_fidelity
from nas_proxy.interfaces import SearchSpace
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import content_hash, isolated_rng
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import DatasetSpec, ImageDataset

RESULTS = Path("results/benchmarks")
CELL = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|"
    "+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
)


def parser(description: str | None, *, data: bool = True) -> argparse.ArgumentParser:
    """A parser with the common arguments; `description` is the script's docstring."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    if data:
        made.add_argument("--data-root", required=True, help="folder of cifar-10-batches-py")
    made.add_argument("--device", default="cpu", help="cpu or cuda")
    made.add_argument("--out", type=Path, help="JSON file to write")
    return made


def study_parser(description: str | None, *, out: str) -> argparse.ArgumentParser:
    """A parser for a script that runs a study; `out` names the table that it keeps."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("config", type=Path, help="YAML file of the study")
    made.add_argument("overrides", nargs="*", metavar="key=value")
    made.add_argument("--out", type=Path, default=RESULTS / out)
    return made


def cifar10_factory(
    settings: TrainSettings, space: SearchSpace, *, data_root: str, device: str
) -> NetworkEvaluatorFactory:
    """A factory of evaluators that train on the search-training images of the real CIFAR-10."""
    data = DataSettings(name="cifar10", root=data_root)
    splits = load_splits(data)
    return NetworkEvaluatorFactory(
        data=data,
        space=space,
        scores={},
        settings=settings,
        train_on="search_train",
        device=device,
        fidelity=training_fidelity(
            settings, splits.spec, splits.spec.source_hash, len(splits.search_train)
        ),
    )


def work_folder(name: str, arguments: argparse.Namespace, free: Collection[str]) -> Path:
    """Where what is finished is kept: another one for other arguments, but for those of `free`."""
    decisive = {key: value for key, value in vars(arguments).items() if key not in free}
    folder: Path = arguments.work / f"{name}_{content_hash(decisive)}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cifar10_search_train(arguments: argparse.Namespace) -> ImageDataset:
    """All images that may be distilled and trained on, on the device of the arguments."""
    data = DataSettings(name="cifar10", root=arguments.data_root)
    found, device = load_splits(data).search_train, arguments.device
    return replace(found, images=found.images.to(device), labels=found.labels.to(device))


def in_checkout(checkout: Path, *command: str | Path) -> str:
    """What Python prints that runs `command` with the nas_proxy of a checkout.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    words = [sys.executable, *map(str, command)]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    return subprocess.run(
        words, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def small_network(name: str, spec: DatasetSpec, *, width: int) -> nn.Module:
    """A ConvNet of this width, or one cell of NAS-Bench-201, always with the same weights."""
    with isolated_rng(0):
        if name == "convnet":
            return ConvNet(spec.image_shape, spec.num_classes, width=width)
        space = NASBench201Space(num_cells=1)
        return space.build(space.from_string(CELL), spec)


def publish(result: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print the result and write it with hardware, versions, date and command."""
    script = Path(sys.argv[0])
    table = {
        "command": shlex.join(["python", f"benchmarks/{script.name}", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "hardware": hardware(torch.device(arguments.device)),
        "versions": versions(),
        **result,
    }
    text = json.dumps(table, indent=1)
    print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")
