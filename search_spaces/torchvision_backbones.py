"""Transfer learning as a search space: which backbone, and how it is adapted to a data set.

A backbone is any classification network of torchvision. Its head is replaced; then comes feature
extraction, which trains the head alone, and then fine-tuning, which trains deeper layers too, at
rates that may fall from the head down ("discriminative fine-tuning", Howard and Ruder 2018).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from nas_proxy.backbones.backbone import build_backbone
from nas_proxy.backbones.tuning import RateDecay, fine_tuning_groups, head_group, share_length
from nas_proxy.backbones.weights import identify_weights, is_file, record_of
from nas_proxy.backbones.zoo import accepts, check_backbone, fitting_size, smallest_size
from nas_proxy.errors import ConfigError, did_you_mean
from nas_proxy.interfaces import TransferSpace, Trial
from nas_proxy.options import (
    Bound,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Shorthand,
)
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.reproducibility import content_hash
from nas_proxy.train.phases import Phase
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, DatasetSpec, Splits, WeightsRecord

from ._transfer_genotype import (
    CHOICES,
    FEATURE_EXTRACTION,
    FINE_TUNING,
    as_text,
    augmentation_of,
    in_words,
    trains,
    tunes,
    without_idle,
)
from ._transfer_weights import check_weights_on

_NO_WEIGHTS = "none"


def _known_word(word: str) -> str:
    """`weights` as a word, if it is one of those."""
    if word not in (_NO_WEIGHTS, "default"):
        raise ConfigError(
            f"{word!r} is neither none nor default; files are given by backbone, as in "
            f"{{resnet18: {word}}}"
        )
    return word


@SEARCH_SPACES.register("torchvision_backbones")
@dataclass(frozen=True, kw_only=True)
class TorchvisionBackbonesSpace(TransferSpace):
    """Backbones of torchvision and ways to adapt them.

    A genotype is a mapping of one value for each of the lists below. Its epochs, rates, weight
    decay and augmentation take the place of those of the section `train`; a number of steps or
    epochs there is the total that both phases share in the genotype's proportion, and
    `train.num_epochs: architecture` takes the genotype's own epochs. A genotype that trains
    nothing (all of the body frozen, or no fine-tuning, and no feature extraction) is none.

    Attributes:
        backbones: Of `torchvision.models.list_models`.
        weights: What the bodies start from: `none`, random weights; `default`, torchvision's best,
            which it downloads; or for each backbone one of these, another name of torchvision's
            weights, or a file such as `nas-proxy pretrain` writes.
        image_size: Images are resized to it, in pixels. None leaves those of 32 pixels or more as
            they are where the backbone accepts them, and enlarges others to the next multiple
            of 32 that it accepts.
        num_layer_groups: Into how many groups by depth a body is cut.
        hidden_units: Of a hidden layer in the head; 0 for a linear head.
        dropouts: Shares of the last layer's inputs that are dropped.
        feature_extraction_epochs: In which the head alone is trained; 0 for none.
        feature_extraction_rates: Learning rates of that phase.
        fine_tuning_epochs: In which the body is trained too; 0 for none.
        fine_tuning_rates: Learning rates of the head in that phase.
        frozen_shares: Share of the layer groups, from the images on, that fine-tuning leaves as
            they are; 1 freezes all of the body, and there is no fine-tuning.
        rate_decays: How the rate falls from the head to the layers next to the images: `none`,
            `linear` or `exponential`.
        decay_factors: What the rate of the layers next to the images is multiplied by.
        weight_decays: Of both phases.
        flips: Whether images are mirrored.
        rotations: Largest angle in degrees.
        colour_jitters: Strength of random changes of brightness, contrast and saturation.
        crops: Largest shift as a share of the image's side.

    Raises:
        ConfigError: If an option is empty, names a value twice or leaves nothing to train; if
            there is no such backbone, or one does not accept the image size.
    """

    summary: ClassVar[str] = "torchvision's networks: weights, head, freezing, fine-tuning"
    paper: ClassVar[str] = "Howard and Ruder, Universal Language Model Fine-tuning, ACL 2018"
    says_length: ClassVar[bool] = True

    backbones: tuple[str, ...] = (
        "mobilenet_v3_small",
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        "resnet18",
        "efficientnet_b0",
        "regnet_y_400mf",
    )
    # Not in the hash: a mapping has none.
    weights: Annotated[Literal["none", "default"] | Mapping[str, str], Shorthand(_known_word)] = (
        field(default="none", hash=False)
    )
    image_size: PositiveInt | None = None
    num_layer_groups: PositiveInt = 4
    hidden_units: tuple[NonNegativeInt, ...] = (0, 128)
    dropouts: tuple[Annotated[float, Bound(ge=0, lt=1)], ...] = (0.0, 0.3)
    feature_extraction_epochs: tuple[NonNegativeInt, ...] = (0, 2, 5)
    feature_extraction_rates: tuple[PositiveFloat, ...] = (0.3, 0.1, 0.03)
    fine_tuning_epochs: tuple[NonNegativeInt, ...] = (0, 5, 10)
    fine_tuning_rates: tuple[PositiveFloat, ...] = (0.1, 0.03, 0.01, 0.003)
    frozen_shares: tuple[Fraction, ...] = (0.0, 0.5, 1.0)
    rate_decays: tuple[RateDecay, ...] = ("none", "linear", "exponential")
    decay_factors: tuple[PositiveFloat, ...] = (0.3, 0.1)
    weight_decays: tuple[NonNegativeFloat, ...] = (0.0, 5e-4)
    flips: tuple[bool, ...] = (False, True)
    rotations: tuple[NonNegativeFloat, ...] = (0.0, 15.0)
    colour_jitters: tuple[Fraction, ...] = (0.0, 0.4)
    crops: tuple[Fraction, ...] = (0.0, 0.125)

    def __post_init__(self) -> None:
        for option in CHOICES:
            values = getattr(self, option)
            if not values:
                raise ConfigError(f"{option} is empty: the space would hold no architecture")
            if len(set(values)) < len(values):
                raise ConfigError(f"{option} names a value twice: {', '.join(map(str, values))}")
        for name in self.backbones:
            check_backbone(name)
            self._check_size(name)
        for name in self.weights if isinstance(self.weights, Mapping) else ():
            if name not in self.backbones:
                raise ConfigError(
                    f"weights are given for {name!r}, which is not among the backbones; "
                    f"{did_you_mean(name, self.backbones)}"
                )
        if max(self.feature_extraction_epochs) == 0 and (
            max(self.fine_tuning_epochs) == 0 or min(self.frozen_shares) == 1
        ):
            raise ConfigError(
                "no genotype would train anything: feature_extraction_epochs is 0 and "
                "fine_tuning_epochs is 0 or frozen_shares 1; allow one of them"
            )

    def _check_size(self, name: str) -> None:
        if self.image_size is not None and not accepts(name, self.image_size):
            raise ConfigError(
                f"image_size {self.image_size} is nothing that {name} accepts: its smallest is "
                f"{smallest_size(name)}; leave image_size out, set it to "
                f"{smallest_size(name, self.image_size)}, or leave the backbone out"
            )

    def suggest(self, trial: Trial) -> Architecture:
        """One categorical choice for each key of the genotype.

        Where fine-tuning trains nothing, the epochs of feature extraction are a parameter of
        another name, which has no 0 among its choices.
        """
        genotype = {
            key: trial.suggest_categorical(key, values)
            for key, values in self._values().items()
            if key != "feature_extraction_epochs"
        }
        key, choices = "feature_extraction_epochs", self.feature_extraction_epochs
        if not tunes(genotype):
            key, choices = "feature_extraction_epochs_alone", tuple(filter(None, choices))
            if not choices:  # nothing to train: the nearest genotype that fine-tunes
                genotype |= self._least_tuning()
                key, choices = "feature_extraction_epochs", self.feature_extraction_epochs
        genotype["feature_extraction_epochs"] = trial.suggest_categorical(key, choices)
        return Architecture(self.name, genotype)

    def sample(self, generator: torch.Generator) -> Architecture:
        """One architecture, uniform over the genotypes."""
        while True:  # every space has genotypes that train something
            genotype = {key: _draw(values, generator) for key, values in self._values().items()}
            if trains(genotype):
                return Architecture(self.name, genotype)

    def mutate(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        """Change one key, uniform over the keys that have another value.

        Raises:
            ConfigError: If the options leave a single architecture.
        """
        genotype = architecture.genotype
        neighbours = {
            key: [
                {**genotype, key: value}
                for value in values
                if value != genotype[key] and trains({**genotype, key: value})
            ]
            for key, values in self._values().items()
        }
        changeable = [key for key, found in neighbours.items() if found]
        if not changeable:
            raise ConfigError(
                f"an architecture of the space {self.name!r} has no neighbour; give one of the "
                "options a second value"
            )
        return Architecture(self.name, _draw(neighbours[_draw(changeable, generator)], generator))

    def build(self, architecture: Architecture, spec: DatasetSpec) -> nn.Module:
        """A `Backbone` with a new head; its body has the weights that the options name."""
        genotype = architecture.genotype
        name = genotype["backbone"]
        return build_backbone(
            name,
            spec,
            self._size_of(name, spec),
            weights=self._weights_of(name),
            hidden_units=genotype["hidden_units"],
            dropout=genotype["dropout"],
        )

    def training_phases(
        self, architecture: Architecture, settings: TrainSettings
    ) -> tuple[Phase, ...]:
        """Feature extraction, fine-tuning, or both in that order.

        Where the settings' total is a single step or epoch, it is one of fine-tuning.
        """
        genotype = architecture.genotype
        common = replace(
            settings,
            weight_decay=genotype["weight_decay"],
            augmentation=augmentation_of(genotype, settings.augmentation),
        )
        epochs = (
            genotype["feature_extraction_epochs"],
            genotype["fine_tuning_epochs"] if tunes(genotype) else 0,
        )
        extraction, tuning = share_length(common, epochs)
        groups = partial(
            fine_tuning_groups,
            num_groups=self.num_layer_groups,
            frozen_share=genotype["frozen_share"],
            decay=genotype["rate_decay"],
            factor=genotype["decay_factor"],
        )
        phases = []
        if extraction is not None:
            rate = genotype["feature_extraction_rate"]
            extraction = replace(extraction, learning_rate=rate)
            phases.append(Phase(FEATURE_EXTRACTION, extraction, head_group))
        if tuning is not None:
            tuning = replace(tuning, learning_rate=genotype["fine_tuning_rate"])
            phases.append(Phase(FINE_TUNING, tuning, groups))
        return tuple(phases)

    def weights_record(self, architecture: Architecture) -> WeightsRecord:
        """Where the body's weights come from, and under which licence."""
        name = architecture.genotype["backbone"]
        weights = self._weights_of(name)
        if weights is None:
            return WeightsRecord(f"{name}: random weights")
        return record_of(name, weights)

    def without_weights(self) -> TorchvisionBackbonesSpace:
        """The same networks before any weights are filled in."""
        return replace(self, weights="none")

    def notices(self) -> tuple[str, ...]:
        """Each licence of weights that forbids commercial use, said once."""
        records = [
            record_of(name, weights)
            for name in self.backbones
            if (weights := self._weights_of(name)) is not None
        ]
        licences = dict.fromkeys(record.licence for record in records if record.is_non_commercial)
        return tuple(f"weights for non-commercial use only: {licence}" for licence in licences)

    def check_images(self, splits: Splits) -> None:
        """Refuse images that a backbone cannot take, and weights as `check_weights_on` does.

        Raises:
            UserError: If one of them cannot be used; the message says why.
        """
        for name in self.backbones:
            size, weights = self._size_of(name, splits.spec), self._weights_of(name)
            if weights is not None:
                check_weights_on(name, weights, size, splits)

    def encode(self, architecture: Architecture) -> Tensor:
        """One digit for each backbone and kind of decay, logarithms of rates, and the rest, `(d,)`.

        d is 16 more than there are backbones.
        """
        genotype = architecture.genotype
        digits = [genotype["backbone"] == name for name in self.backbones]
        digits += [genotype["rate_decay"] == decay for decay in ("none", "linear", "exponential")]
        rates = ("feature_extraction_rate", "fine_tuning_rate", "decay_factor")
        rest = [
            key
            for key in CHOICES.values()
            if key not in (*rates, "backbone", "rate_decay", "hidden_units")
        ]
        numbers = [math.log10(genotype[key]) for key in rates]
        numbers += [float(genotype[key]) for key in rest]
        numbers.append(math.log2(1 + genotype["hidden_units"]))
        return torch.tensor([*map(float, digits), *numbers])

    def describe(self, architecture: Architecture) -> str:
        """Such as "resnet18, linear head, feature extraction 2 epochs at 0.1"."""
        return in_words(architecture.genotype)

    def to_string(self, architecture: Architecture) -> str:
        """`key=value` pairs joined by commas."""
        pairs = architecture.genotype.items()
        return ",".join(f"{key}={as_text(value)}" for key, value in pairs)

    def from_string(self, text: str) -> Architecture:
        """The inverse of `to_string`.

        Raises:
            ValueError: If `text` is not of that form, is outside the options, or trains nothing.
        """
        given = dict(part.partition("=")[::2] for part in text.split(","))
        values = self._values()
        if given.keys() != values.keys():
            odd = sorted(given.keys() ^ values.keys())[0]
            raise ValueError(f"{text!r} must have the keys {', '.join(values)}; see {odd!r}")
        genotype = {}
        for key, allowed in values.items():
            matching = [value for value in allowed if as_text(value) == given[key]]
            if not matching:
                raise ValueError(
                    f"{text!r} is outside the space: its {key} is {given[key]}, not one of "
                    f"{', '.join(map(as_text, allowed))}"
                )
            genotype[key] = matching[0]
        if not trains(genotype):
            raise ValueError(
                f"{text!r} trains nothing: all of the body is frozen or not fine-tuned, and there "
                "are no epochs of feature extraction; give it some"
            )
        return Architecture(self.name, genotype)

    def canonical_form(self, architecture: Architecture) -> str:
        """The genotype without what has no effect on the trained network."""
        return json.dumps(without_idle(architecture.genotype), sort_keys=True)

    def fingerprint(self) -> str:
        """Hash of name, options and the content of files of weights."""
        weights = {
            name: found and identify_weights(name, found)
            for name in self.backbones
            for found in [self._weights_of(name)]
        }
        return content_hash(self.name, {**asdict(self), "weights": weights})

    def _size_of(self, name: str, spec: DatasetSpec) -> int:
        return self.image_size or fitting_size(name, max(spec.image_shape[1:]))

    def _weights_of(self, name: str) -> str | None:
        """As `load_weights` takes them; None for random ones."""
        named = self.weights
        found = named.get(name, _NO_WEIGHTS) if isinstance(named, Mapping) else named
        if found == _NO_WEIGHTS:
            return None
        return found if is_file(found) else found.upper()

    def _values(self) -> dict[str, tuple[Any, ...]]:
        return {key: getattr(self, option) for option, key in CHOICES.items()}

    def _least_tuning(self) -> dict[str, Any]:
        """Of the choices that fine-tune, the one that changes least."""
        return {
            "fine_tuning_epochs": min(filter(None, self.fine_tuning_epochs)),
            "frozen_share": max(share for share in self.frozen_shares if share < 1),
        }


def _draw(values: Any, generator: torch.Generator) -> Any:
    return values[int(torch.randint(len(values), (), generator=generator))]
