"""The 720 ConvNets of the dataset condensation literature (Zhao et al., ICLR 2021, section 4.3).

Width {32, 64, 128, 256} x depth {1, 2, 3, 4} x norm {none, batch, layer, instance, group} x
activation {sigmoid, ReLU, leaky ReLU} x pooling {none, max, average}.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nas_proxy.errors import UserError
from nas_proxy.interfaces import SearchSpace, Trial
from nas_proxy.networks.convnet import (
    ACTIVATIONS,
    NORMS,
    POOLINGS,
    Activation,
    ConvNet,
    Norm,
    Pooling,
)
from nas_proxy.options import PositiveInt
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.types import Architecture, DatasetSpec

_NUM_GROUPS = 4  # of the ConvNet's group norm, which divides the width

# Option, and the choice that it is a list of.
_CHOICES = {
    "widths": "width",
    "depths": "depth",
    "norms": "norm",
    "activations": "activation",
    "pooling": "pooling",
}

# The field's letters, such as "NIN" for instance norm and "PA" for average pooling.
_NORM_LETTERS = {"none": "N", "batch": "BN", "layer": "LN", "instance": "IN", "group": "GN"}
_ACTIVATION_LETTERS = {"sigmoid": "S", "relu": "R", "leaky_relu": "L"}
_POOLING_LETTERS = {"none": "N", "max": "M", "avg": "A"}
_NAME = re.compile(
    r"ConvNet-W(?P<width>[1-9][0-9]*)-D(?P<depth>[1-9][0-9]*)"
    r"-N(?P<norm>N|BN|LN|IN|GN)-A(?P<activation>[SRL])-P(?P<pooling>[NMA])"
)

_WORDS = {
    "none": "no",
    "avg": "average",
    "relu": "ReLU",
    "leaky_relu": "leaky ReLU",
}


@SEARCH_SPACES.register("convnet")
@dataclass(frozen=True, kw_only=True)
class ConvNetSpace(SearchSpace):
    """ConvNets of one width throughout; 720 of them unless the options leave some out.

    A genotype is a mapping with the keys width, depth, norm, activation and pooling.

    Attributes:
        widths: Channels of every block to choose from; group norm needs multiples of four.
        depths: Numbers of blocks to choose from.
        norms: Normalisations to choose from.
        activations: Activations to choose from.
        pooling: Poolings to choose from; a block whose image is down to one pixel has none.

    Raises:
        ValueError: If an option is empty, names a value twice, or a width cannot be built.
    """

    summary: ClassVar[str] = "720 ConvNets: width, depth, norm, activation and pooling"
    paper: ClassVar[str] = "Zhao, Mopuri and Bilen, Gradient Matching, ICLR 2021"

    widths: tuple[PositiveInt, ...] = (32, 64, 128, 256)
    depths: tuple[PositiveInt, ...] = (1, 2, 3, 4)
    norms: tuple[Norm, ...] = NORMS
    activations: tuple[Activation, ...] = ACTIVATIONS
    pooling: tuple[Pooling, ...] = POOLINGS

    def __post_init__(self) -> None:
        for option in _CHOICES:
            values = getattr(self, option)
            if not values:
                raise ValueError(f"{option} is empty: the space would hold no architecture")
            if len(set(values)) < len(values):
                raise ValueError(f"{option} names a value twice: {', '.join(map(str, values))}")
        odd = [width for width in self.widths if width % _NUM_GROUPS]
        if odd and "group" in self.norms:
            raise ValueError(
                f"group norm divides the channels into {_NUM_GROUPS} groups, so width {odd[0]} "
                f"cannot be built; choose multiples of {_NUM_GROUPS}, or leave 'group' out of norms"
            )

    def suggest(self, trial: Trial) -> Architecture:
        """One categorical choice for each key of the genotype."""
        return Architecture(
            self.name,
            {key: trial.suggest_categorical(key, values) for key, values in self._values().items()},
        )

    def sample(self, generator: torch.Generator) -> Architecture:
        """One architecture, uniform over the genotypes."""
        return Architecture(
            self.name,
            {key: _draw(values, generator) for key, values in self._values().items()},
        )

    def mutate(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        """Change one key, uniform over the keys that have another value.

        Raises:
            UserError: If the options leave a single architecture.
        """
        genotype = architecture.genotype
        alternatives = {
            key: [value for value in values if value != genotype[key]]
            for key, values in self._values().items()
        }
        changeable = [key for key, values in alternatives.items() if values]
        if not changeable:
            raise UserError(
                f"the space {self.name!r} holds a single architecture, which has no neighbour; "
                "give one of its options a second value"
            )
        key = _draw(changeable, generator)
        return Architecture(self.name, {**genotype, key: _draw(alternatives[key], generator)})

    def build(self, architecture: Architecture, spec: DatasetSpec) -> nn.Module:
        """A `ConvNet` for the images and classes of `spec`."""
        return ConvNet(spec.image_shape, spec.num_classes, **architecture.genotype)

    def encode(self, architecture: Architecture) -> Tensor:
        """Logarithm to base 2 of the width, depth, and one digit for each norm and so on, `(13,)`.

        The length does not depend on the options.
        """
        genotype = architecture.genotype
        digits = [
            float(genotype[key] == value)
            for key, values in (
                ("norm", NORMS),
                ("activation", ACTIVATIONS),
                ("pooling", POOLINGS),
            )
            for value in values
        ]
        return torch.tensor([math.log2(genotype["width"]), float(genotype["depth"]), *digits])

    def describe(self, architecture: Architecture) -> str:
        """Such as "3 blocks of width 128, instance norm, ReLU, average pooling"."""
        genotype = architecture.genotype
        norm, activation, pooling = (
            _WORDS.get(genotype[key], genotype[key]) for key in ("norm", "activation", "pooling")
        )
        blocks = "1 block" if genotype["depth"] == 1 else f"{genotype['depth']} blocks"
        width = genotype["width"]
        return f"{blocks} of width {width}, {norm} norm, {activation}, {pooling} pooling"

    def to_string(self, architecture: Architecture) -> str:
        """The field's letters: ConvNet-W128-D3-NIN-AR-PA is the usual matching network."""
        genotype = architecture.genotype
        return (
            f"ConvNet-W{genotype['width']}-D{genotype['depth']}"
            f"-N{_NORM_LETTERS[genotype['norm']]}"
            f"-A{_ACTIVATION_LETTERS[genotype['activation']]}"
            f"-P{_POOLING_LETTERS[genotype['pooling']]}"
        )

    def from_string(self, text: str) -> Architecture:
        """The inverse of `to_string`.

        Raises:
            ValueError: If `text` is not of that form, or its architecture is outside the options.
        """
        match = _NAME.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} is no ConvNet; expected a name such as 'ConvNet-W128-D3-NIN-AR-PA'"
            )
        genotype = {
            "width": int(match["width"]),
            "depth": int(match["depth"]),
            "norm": _word(_NORM_LETTERS, match["norm"]),
            "activation": _word(_ACTIVATION_LETTERS, match["activation"]),
            "pooling": _word(_POOLING_LETTERS, match["pooling"]),
        }
        for key, values in self._values().items():
            if genotype[key] not in values:
                raise ValueError(
                    f"{text!r} is outside the space: its {key} is {genotype[key]}, "
                    f"not one of {', '.join(map(str, values))}"
                )
        return Architecture(self.name, genotype)

    def _values(self) -> dict[str, tuple[Any, ...]]:
        return {key: getattr(self, option) for option, key in _CHOICES.items()}


def _draw(values: tuple[Any, ...] | list[Any], generator: torch.Generator) -> Any:
    return values[int(torch.randint(len(values), (), generator=generator))]


def _word(letters: Mapping[str, str], letter: str) -> str:
    return next(word for word, known in letters.items() if known == letter)
