"""The configuration section `validate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from nas_proxy.options import Bound, NonNegativeInt, Options, PositiveInt
from nas_proxy.train.settings import TrainSettings

# `ranks.MIN_FOR_INTERVAL`, said again: reading a configuration must not load SciPy.
MIN_FOR_INTERVAL = 10
# Lower end of Spearman's interval from which a ranking is called one that can be trusted.
TRUSTED_FROM = 0.7


@dataclass(frozen=True, kw_only=True)
class Reference(Options):
    """What the ranking is held against: a benchmark's table, or our own full-data training.

    Attributes:
        table: CSV file of accuracies that others measured.
        architecture: Its column with architectures in the search space's string form.
        value: Its column with accuracies.
        train: How to train on all search-training images; judged by the test split.
    """

    table: str | None = None
    architecture: str = "architecture"
    value: str = "test_accuracy"
    train: TrainSettings | None = None

    def __post_init__(self) -> None:
        """Refuse a reference that is missing or said twice."""
        if (self.table is None) == (self.train is None):
            raise ValueError("give exactly one of table and train")


@dataclass(frozen=True, kw_only=True)
class RepeatedReference(Reference):
    """A reference whose own noise can be known.

    Attributes:
        second_value: Another column of the table, with the accuracies of another seed; how well
            one seed ranks as the other is the noise ceiling.
    """

    second_value: str | None = None

    def __post_init__(self) -> None:
        """Refuse a second column that is none."""
        super().__post_init__()
        if self.second_value is not None and self.table is None:
            raise ValueError(
                "second_value is a column of a table; with train, ask for "
                "validate.ceiling_architectures"
            )
        if self.second_value == self.value:
            raise ValueError(
                f"second_value must be another column than value, got {self.value!r} for both"
            )


@dataclass(frozen=True, kw_only=True)
class ValidateSettings(Options):
    """How the ranking is judged.

    Attributes:
        reference: What it is held against.
        num_architectures: Drawn uniformly for the validation; every figure rests on them.
        controls: Zero-cost scores that the proxy must beat.
        ceiling_architectures: How many of them the reference trains with a
            second seed: how well one seed ranks as the other is the noise ceiling, beyond which no
            ranking can be expected. 0 leaves it unknown.
        best_fraction: The best part of the architectures, by reference, that is looked at alone.
        k: Of precision@k and regret@k.
    """

    reference: RepeatedReference
    num_architectures: Annotated[int, Bound(ge=5)] = 72
    controls: tuple[str, ...] = ("num_params", "flops", "log_synflow", "naswot")
    ceiling_architectures: NonNegativeInt = 0
    best_fraction: Annotated[float, Bound(gt=0, le=1)] = 0.2
    k: PositiveInt = 5

    def __post_init__(self) -> None:
        """Refuse a k or a noise ceiling that the sample cannot answer."""
        if self.k >= self.num_architectures:
            raise ValueError(
                f"k ({self.k}) must be smaller than num_architectures ({self.num_architectures})"
            )
        num_again, fewest = self.ceiling_architectures, MIN_FOR_INTERVAL
        if num_again and not fewest <= num_again <= self.num_architectures:
            raise ValueError(
                f"ceiling_architectures ({num_again}) must be 0, or from {fewest}, below which it "
                f"has no interval, to num_architectures ({self.num_architectures})"
            )
        if num_again and self.reference.train is None:
            raise ValueError(
                "ceiling_architectures trains the reference again; with a table, name the column "
                "of another seed in validate.reference.second_value"
            )
