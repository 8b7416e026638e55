"""The configuration section `validate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from nas_proxy.options import Bound, NonNegativeInt, Options, PositiveInt
from nas_proxy.train.settings import TrainSettings


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
class ValidateSettings(Options):
    """How the ranking is judged.

    Attributes:
        reference: What it is held against.
        num_architectures: Drawn uniformly for the validation; the headline rests on them.
        num_stratified: Drawn beside them, evenly from the best eighth, the next eighth, the next
            quarter and the worse half of a larger sample by its score; they sharpen the figures
            within the best part and count in no other.
        controls: Zero-cost scores that the proxy must beat.
        best_fraction: The best part of the architectures, by reference, that is looked at alone.
        k: Of precision@k and regret@k.
        num_resamples: Of the bootstrap.
    """

    reference: Reference
    num_architectures: Annotated[int, Bound(ge=5)] = 60
    num_stratified: NonNegativeInt = 12
    controls: tuple[str, ...] = ("num_params", "flops", "log_synflow", "naswot")
    best_fraction: Annotated[float, Bound(gt=0, le=1)] = 0.2
    k: PositiveInt = 5
    num_resamples: Annotated[int, Bound(ge=100)] = 2000

    def __post_init__(self) -> None:
        """Refuse a k that the sample cannot answer."""
        if self.k >= self.num_architectures:
            raise ValueError(
                f"k ({self.k}) must be smaller than num_architectures ({self.num_architectures})"
            )
