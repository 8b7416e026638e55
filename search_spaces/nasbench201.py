"""NAS-Bench-201: 15,625 cells of six edges (Dong and Yang, ICLR 2020).

A cell is a graph of four nodes; each of its edges carries one of five operations. The network is
the official one, parameter for parameter, so the published tables apply to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from nas_proxy.interfaces import SearchSpace, Trial
from nas_proxy.options import PositiveInt
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.types import Architecture, DatasetSpec

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")

# Source and target node of each edge, in the official order.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))

_NUM_NODES = 4
_WORDS = {
    "skip_connect": "skip",
    "nor_conv_1x1": "1x1 convolution",
    "nor_conv_3x3": "3x3 convolution",
    "avg_pool_3x3": "average pooling",
}
_EXAMPLE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|avg_pool_3x3~1|skip_connect~2|"


@SEARCH_SPACES.register("nasbench201")
@dataclass(frozen=True, kw_only=True)
class NASBench201Space(SearchSpace):
    """Cells of NAS-Bench-201 in three stages of 1, 2 and 4 times `channels`.

    A genotype is the list of six operation names, in the order of `EDGES`. Cells whose output no
    operation reaches are part of the benchmark and of the space; their networks answer the same
    for every image.

    Attributes:
        num_cells: Cells in each stage; the benchmark has 5.
        channels: Channels of the first stage; the benchmark has 16.
    """

    summary: ClassVar[str] = "15,625 cells of six edges with five operations"
    paper: ClassVar[str] = "Dong and Yang, NAS-Bench-201, ICLR 2020"
    fidelity_options: ClassVar[tuple[str, ...]] = ("num_cells", "channels")
    reduced_fidelity: ClassVar[Mapping[str, int]] = MappingProxyType({"num_cells": 1})

    num_cells: PositiveInt = 5
    channels: PositiveInt = 16

    def suggest(self, trial: Trial) -> Architecture:
        """One categorical choice for each edge, named such as edge_0_1."""
        return Architecture(
            self.name,
            [
                trial.suggest_categorical(f"edge_{source}_{target}", OPERATIONS)
                for source, target in EDGES
            ],
        )

    def sample(self, generator: torch.Generator) -> Architecture:
        """One of the 15,625 cells, uniform."""
        drawn = torch.randint(len(OPERATIONS), (len(EDGES),), generator=generator)
        return Architecture(self.name, [OPERATIONS[index] for index in drawn.tolist()])

    def mutate(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        """Another operation on one edge, uniform over the 24 neighbours."""
        genotype = architecture.genotype
        edge = int(torch.randint(len(EDGES), (), generator=generator))
        others = [operation for operation in OPERATIONS if operation != genotype[edge]]
        genotype[edge] = others[int(torch.randint(len(others), (), generator=generator))]
        return Architecture(self.name, genotype)

    def build(self, architecture: Architecture, spec: DatasetSpec) -> nn.Module:
        """A `CellNetwork` of this space's size."""
        return CellNetwork(
            architecture.genotype,
            spec.image_shape[0],
            spec.num_classes,
            num_cells=self.num_cells,
            channels=self.channels,
        )

    def describe(self, architecture: Architecture) -> str:
        """The operations by edge, such as "0-1 3x3 convolution, 1-3 skip"; `none` is left out."""
        words = [
            f"{source}-{target} {_WORDS[operation]}"
            for (source, target), operation in zip(EDGES, architecture.genotype, strict=True)
            if operation != "none"
        ]
        return ", ".join(words) or "no operation at all"

    def canonical_form(self, architecture: Architecture) -> str:
        """The cell's output as an expression of its input, such as `nor_conv_3x3(x)+x`.

        Skips are left out, sums are sorted, and edges that lead nowhere or come from nothing do
        not appear. Cells of one expression compute the same but for two small things: whether
        equal parts share their weights, and the biases of norms that see nothing but zeros.
        """
        return _expression(architecture.genotype)

    def to_string(self, architecture: Architecture) -> str:
        """The official notation: operation~source, nodes divided by plus signs."""
        nodes: list[str] = [""] * _NUM_NODES
        for (source, target), operation in zip(EDGES, architecture.genotype, strict=True):
            nodes[target] += f"{operation}~{source}|"
        return "+".join(f"|{node}" for node in nodes[1:])

    def from_string(self, text: str) -> Architecture:
        """The inverse of `to_string`.

        Raises:
            ValueError: If `text` is not in the official notation.
        """
        genotype = [part.partition("~")[0] for part in re.split(r"[|+]+", text)[1:-1]]
        # Writing it again is the whole check: of edges, sources, separators and nothing beside.
        if (
            len(genotype) != len(EDGES)
            or not set(genotype) <= set(OPERATIONS)
            or self.to_string(Architecture(self.name, genotype)) != text
        ):
            raise ValueError(
                f"{text!r} is no cell of NAS-Bench-201; expected one such as {_EXAMPLE!r} with the "
                f"operations {', '.join(OPERATIONS)}"
            )
        return Architecture(self.name, genotype)


class CellNetwork(nn.Module):
    """The official network: stem, three stages with residual blocks of stride 2 between, head.

    Args:
        genotype: Six operation names in the order of `EDGES`.
        in_channels: Channels of the images.
        num_classes: Length of the logits.
        num_cells: Cells in each stage.
        channels: Channels of the first stage.
    """

    def __init__(
        self,
        genotype: Sequence[str],
        in_channels: int,
        num_classes: int,
        *,
        num_cells: int,
        channels: int,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        ]
        for stage in range(3):
            if stage > 0:
                layers.append(ReductionBlock(channels, 2 * channels))
                channels *= 2
            layers.extend(Cell(genotype, channels) for _ in range(num_cells))
        layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        """The input of the linear layer: `(n, c, h, w)` to `(n, 4 * channels)`."""
        return self.features(images)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """Logits, `(n, num_classes)`."""
        return self.classifier(self.embed(images))  # type: ignore[no-any-return]


class Cell(nn.Module):
    """One cell: every node is the sum of its edges; the last node is the output.

    Edges from which no path leads to the output keep their parameters, which the benchmark
    counts, but are not computed: nothing depends on them.
    """

    def __init__(self, genotype: Sequence[str], channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(_operation(name, channels) for name in genotype)
        # For each node after the first: the edges to compute and their source nodes.
        self._incoming = _incoming_edges(genotype)

    def forward(self, features: Tensor) -> Tensor:
        """Features `(n, channels, h, w)` to features of the same shape."""
        nodes = [features]
        for incoming in self._incoming:
            if not incoming:
                # New zeros, not 0 times the features: that would turn an infinity into NaN.
                nodes.append(torch.zeros_like(features))
                continue
            (edge, source), *others = incoming
            total = self.edges[edge](nodes[source])
            for edge, source in others:
                total = total + self.edges[edge](nodes[source])
            nodes.append(total)
        return nodes[-1]


class ReductionBlock(nn.Module):
    """The residual block between stages: half the height and width, other channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _relu_conv_norm(in_channels, out_channels, kernel_size=3, stride=2),
            _relu_conv_norm(out_channels, out_channels, kernel_size=3),
        )
        self.shortcut = nn.Sequential(
            # Rounding up agrees with the convolution at odd sizes, where the official code fails.
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features `(n, in_channels, h, w)` to `(n, out_channels, ceil(h / 2), ceil(w / 2))`."""
        return self.shortcut(features) + self.residual(features)  # type: ignore[no-any-return]


def _operation(name: str, channels: int) -> nn.Module:
    if name == "nor_conv_1x1":
        return _relu_conv_norm(channels, channels, kernel_size=1)
    if name == "nor_conv_3x3":
        return _relu_conv_norm(channels, channels, kernel_size=3)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    if name in ("none", "skip_connect"):
        return nn.Identity()  # "none" is never computed; it keeps the place
    raise ValueError(f"there is no operation {name!r} in NAS-Bench-201")


def _relu_conv_norm(
    in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),  # not in place: the features are shared, and zero-cost scores hook it
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
    )


def _expression(genotype: Sequence[str]) -> str:
    """The output as a sorted sum of terms; `0` for a cell that its input does not reach."""
    nodes = [["x"]]  # the terms of each node's sum
    for node in range(1, _NUM_NODES):
        terms: list[str] = []
        for (source, target), operation in zip(EDGES, genotype, strict=True):
            if target != node or operation == "none" or not nodes[source]:
                continue
            if operation == "skip_connect":
                terms += nodes[source]
            else:
                terms.append(f"{operation}({_sum(nodes[source])})")
        nodes.append(terms)
    return _sum(nodes[-1]) if nodes[-1] else "0"


def _sum(terms: Sequence[str]) -> str:
    return "+".join(sorted(terms))


def _incoming_edges(genotype: Sequence[str]) -> tuple[tuple[tuple[int, int], ...], ...]:
    present = [index for index, name in enumerate(genotype) if name != "none"]
    needed = {_NUM_NODES - 1}
    for index in reversed(present):  # edges into later nodes come first
        source, target = EDGES[index]
        if target in needed:
            needed.add(source)
    return tuple(
        tuple((index, EDGES[index][0]) for index in present if EDGES[index][1] == node)
        if node in needed
        else ()
        for node in range(1, _NUM_NODES)
    )
