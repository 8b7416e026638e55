"""A calibration sample for the checks of distillers that learn from known architectures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas_proxy.interfaces import CalibrationSample, SearchSpace, Trial
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.types import Architecture, DatasetSpec

_WIDTHS = (2, 3, 4, 6, 8, 12)
_DEPTHS = (1, 2)


@dataclass(frozen=True, kw_only=True)
class TinySpace(SearchSpace):
    """Twelve ConvNets, small enough to be trained in milliseconds; in no registry."""

    name = "tiny"

    def suggest(self, trial: Trial) -> Architecture:
        """A width and a depth."""
        return self._of(
            trial.suggest_categorical("width", _WIDTHS), trial.suggest_categorical("depth", _DEPTHS)
        )

    def sample(self, generator: torch.Generator) -> Architecture:
        """One of the twelve."""
        return self._of(*(_draw(values, generator) for values in (_WIDTHS, _DEPTHS)))

    def mutate(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        """The same width, the other depth."""
        width, depth = architecture.genotype
        return self._of(width, sum(_DEPTHS) - depth)

    def build(self, architecture: Architecture, spec: DatasetSpec) -> nn.Module:
        """A `ConvNet`."""
        width, depth = architecture.genotype
        return ConvNet(spec.image_shape, spec.num_classes, width=width, depth=depth, norm="batch")

    def encode(self, architecture: Architecture) -> Tensor:
        """Width and depth, `(2,)`."""
        return torch.tensor(architecture.genotype, dtype=torch.float32)

    def _of(self, *genotype: Any) -> Architecture:
        return Architecture(self.name, genotype)


def tiny_calibration_sample() -> CalibrationSample:
    """All architectures of `TinySpace` with made-up references; always the same."""
    space = TinySpace()
    pairs = [(width, depth) for width in _WIDTHS for depth in _DEPTHS]
    return CalibrationSample(
        space=space,
        architectures=tuple(Architecture(space.name, pair) for pair in pairs),
        references=tuple(width + depth / 2 for width, depth in pairs),
    )


def _draw(values: tuple[int, ...], generator: torch.Generator) -> int:
    return values[int(torch.randint(len(values), (), generator=generator))]
