"""What the parts of benchmarks/gpu.sh share: a part of CIFAR-10 in one file, and their arguments.

The file is made by benchmarks/prepare_gpu.py. Nothing here needs pydantic, optuna or mlflow.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import publish
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from nas_proxy.data.transforms import channel_statistics, normalise
from nas_proxy.devices import share_memory
from nas_proxy.evaluate.factory import training_fidelity
from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.evaluate.trained_signals import EvaluationData
from nas_proxy.interfaces import SearchSpace
from nas_proxy.reproducibility import content_hash
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import DatasetSpec, Fidelity, ImageDataset, Splits

PART = "cifar10_part.safetensors"
VAL_SHARE = 0.1  # of the training images


@dataclass(frozen=True, eq=False)
class Part:
    """Some images of CIFAR-10, and some rows of NAS-Bench-201's table.

    Attributes:
        splits: On the CPU.
        table: Test accuracy in % by architecture, in the notation of the table.
    """

    splits: Splits
    table: Mapping[str, float]


def write_part(
    path: Path,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    class_names: Sequence[str],
    table: Mapping[str, float],
) -> None:
    """Write a part: uint8 images `(n, 3, h, w)` with int64 labels `(n,)`, the classes in turn."""
    tensors = {
        "train_images": train[0].contiguous(),
        "train_labels": train[1].to(torch.uint8),
        "test_images": test[0].contiguous(),
        "test_labels": test[1].to(torch.uint8),
    }
    said = {"class_names": list(class_names), "table": dict(table)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"part": json.dumps(said)})


def read_part(path: Path) -> Part:
    """Read a part; the last tenth of its training images measures candidates."""
    with safe_open(str(path), framework="pt") as file:
        said = json.loads((file.metadata() or {})["part"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    images, labels = tensors["train_images"], tensors["train_labels"].long()
    num_val = max(1, round(VAL_SHARE * len(labels)))
    mean, std = channel_statistics(images[:-num_val])
    spec = DatasetSpec(
        name="cifar10",
        class_names=tuple(said["class_names"]),
        image_shape=tuple(images.shape[1:]),
        mean=mean,
        std=std,
        licence="a part of CIFAR-10, for measuring alone",
        source_hash=content_hash(images[:-num_val], labels[:-num_val]),
    )
    splits = Splits(
        ImageDataset(images[:-num_val], labels[:-num_val], spec),
        ImageDataset(images[-num_val:], labels[-num_val:], spec),
        ImageDataset(tensors["test_images"], tensors["test_labels"].long(), spec),
    )
    return Part(splits, said["table"])


def on(dataset: ImageDataset, device: torch.device) -> ImageDataset:
    """The images and labels on a device, as bytes."""
    return replace(dataset, images=dataset.images.to(device), labels=dataset.labels.to(device))


@dataclass(frozen=True, kw_only=True)
class PartFactory:
    """Builds evaluators that train on a part; as `NetworkEvaluatorFactory` for known data sets.

    Attributes:
        file: The part.
        space: At full size.
        settings: How candidates are trained.
        device: Such as `cuda`.
        num_slots: Processes that evaluate there at the same time.
        cuda_graph: Whether a training step is one CUDA graph.
        spec: Of the part.
        num_images: Training images of the part.
    """

    file: Path
    space: SearchSpace
    settings: TrainSettings
    device: str
    spec: DatasetSpec
    num_images: int
    num_slots: int = 1
    cuda_graph: bool = False

    @property
    def fidelity(self) -> Fidelity:
        """What one evaluation costs."""
        return training_fidelity(self.settings, self.spec, self.spec.source_hash, self.num_images)

    def build(self) -> NetworkEvaluator:
        """Read the part and put its images on the device once."""
        device = torch.device(self.device)
        share_memory(device, self.num_slots)
        splits = read_part(self.file).splits
        train, val = on(splits.search_train, device), on(splits.search_val, device)
        return NetworkEvaluator(
            space=self.space,
            scores={},
            score_images=(normalise(train.images[:8], train.spec), train.labels[:8]),
            spec=splits.spec,
            settings=self.settings,
            fidelity=self.fidelity,
            evaluation_data=EvaluationData(val, "val", TrainingSet.of(train)),
            cuda_graph=self.cuda_graph,
        )


class Table:
    """A table that is written anew with each row, so that what is measured stays if time ends.

    Args:
        arguments: Of the script.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._started = time.monotonic()
        self.rows: list[dict[str, Any]] = []

    def add(self, row: Mapping[str, Any], **beside: Any) -> None:
        """Add a row and write; `beside` stands beside the rows."""
        self.rows.append(dict(row))
        self.write(**beside)

    def write(self, **beside: Any) -> None:
        """Write what there is."""
        said = {"size": self._arguments.size, "part": describe(self._arguments.part)}
        publish({**said, **beside, "rows": self.rows}, self._arguments)

    @property
    def seconds_left(self) -> float:
        """Of the script's time."""
        return self._arguments.seconds - (time.monotonic() - self._started)


def describe(part: Path) -> dict[str, Any]:
    """How large a part is, as JSON values."""
    splits = read_part(part).splits
    return {name: len(part) for name, part in splits.parts.items()}


def gpu_parser(description: str | None, *, seconds: float) -> argparse.ArgumentParser:
    """A parser with the arguments of all parts."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--part", type=Path, required=True, help="file of prepare_gpu.py")
    made.add_argument("--device", default="cuda", help="cuda or cpu")
    made.add_argument("--size", choices=["full", "tiny"], default="full")
    made.add_argument("--seconds", type=float, default=seconds, help="nothing starts later")
    made.add_argument("--out", type=Path, help="JSON file to write")
    return made


def settings_of(size: str, **changes: Any) -> TrainSettings:
    """How candidates are trained on a GPU; tiny: hardly."""
    made = TrainSettings(num_steps=1, batch_size=256, learning_rate=0.1, schedule="cosine")
    small = {"batch_size": 16} if size == "tiny" else {}
    return replace(made, **{**changes, **small})


def plain(value: Any) -> Any:
    """Settings as JSON values that differ from their defaults."""
    default = asdict(TrainSettings(num_steps=1))
    return {k: v for k, v in asdict(value).items() if v != default.get(k)}
