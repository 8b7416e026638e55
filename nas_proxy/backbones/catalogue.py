"""What is known of torchvision's networks before anything is trained: the table of backbones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from nas_proxy.backbones.weights import published, published_licence
from nas_proxy.backbones.zoo import (
    backbone_names,
    build_torchvision,
    smallest_size,
    structure_of,
)
from nas_proxy.reproducibility import isolated_rng
from nas_proxy.types import Progress, no_progress

SortKey = Literal["params", "accuracy", "flops", "latency"]
_NUM_CLASSES = 1000  # of ImageNet-1K
_ATTRIBUTES: dict[SortKey, str] = {
    "params": "num_params",
    "accuracy": "accuracy",
    "flops": "multiply_adds",
    "latency": "latency_seconds",
}


@dataclass(frozen=True)
class BackboneFacts:
    """One network with its best published weights.

    Attributes:
        name: In torchvision.
        weights: Name of the weights that `weights: default` takes.
        num_params: With the head for ImageNet-1K.
        multiply_adds: Of one image at `image_size`, as torchvision publishes them; half the
            floating-point operations that the score `flops` counts.
        accuracy: Published top-1 accuracy on ImageNet-1K's validation images, in [0, 1]. Weights
            were chosen by it, so it is no true test accuracy.
        image_size: In pixels, for which the accuracy holds.
        smallest_size: The smallest multiple of 32 pixels that it accepts.
        head: Its last layer, in words.
        licence: The terms of the weights.
        latency_seconds: Median of one image at `image_size` on this machine; None if not measured.
    """

    name: str
    weights: str
    num_params: int
    multiply_adds: float
    accuracy: float
    image_size: int
    smallest_size: int
    head: str
    licence: str
    latency_seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON mapping with the attributes' names."""
        return asdict(self)


Latencies = Callable[[nn.Module, tuple[int, int, int]], float]
"""From a network and an image's shape to seconds."""


def list_backbones(
    *,
    sort: SortKey = "params",
    max_params: int | None = None,
    measure: Latencies | None = None,
    progress: Progress = no_progress,
) -> list[BackboneFacts]:
    """The table of backbones, the smallest, fastest or most accurate first.

    Args:
        sort: By what; `latency` needs `measure`.
        max_params: Leave out those with more.
        measure: Measures the latency of each; None leaves it out.
        progress: Told after each network.
    """
    names = [
        name for name in backbone_names() if max_params is None or _num_params(name) <= max_params
    ]
    rows = []
    for number, name in enumerate(names, start=1):
        rows.append(_facts(name, measure))
        progress(number, len(names), name)
    return sorted(rows, key=lambda row: _sort_value(row, sort))


def smallest_backbone() -> tuple[str, int]:
    """Name and parameters of the backbone with the fewest."""
    name = min(backbone_names(), key=_num_params)
    return name, _num_params(name)


def _sort_value(row: BackboneFacts, sort: SortKey) -> tuple[float, str]:
    value = getattr(row, _ATTRIBUTES[sort])
    return (-value if sort == "accuracy" else value), row.name


def _facts(name: str, measure: Latencies | None) -> BackboneFacts:
    weights = published(name)
    image_size = _published_size(weights.transforms().crop_size)
    smallest = smallest_size(name)
    return BackboneFacts(
        name=name,
        weights=weights.name,
        num_params=_num_params(name),
        multiply_adds=weights.meta["_ops"] * 1e9,
        accuracy=weights.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100,
        image_size=image_size,
        smallest_size=smallest,
        head=_head(name, smallest),
        licence=published_licence(name),
        latency_seconds=None if measure is None else _latency(name, image_size, measure),
    )


def _latency(name: str, image_size: int, measure: Latencies) -> float:
    with isolated_rng(0):
        network = build_torchvision(name, _NUM_CLASSES, image_size)
    return measure(network, (3, image_size, image_size))


def _num_params(name: str) -> int:
    return int(published(name).meta["num_params"])


def _published_size(crop_size: Sequence[int] | int) -> int:
    return crop_size if isinstance(crop_size, int) else crop_size[0]


def _head(name: str, image_size: int) -> str:
    structure = structure_of(name, image_size)
    kind = "linear" if structure.head_is_linear else "1x1 convolution"
    return f"{structure.head}: {kind}, {structure.head_width} to {_NUM_CLASSES}"
