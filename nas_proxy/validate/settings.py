"""The configuration section `validate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from nas_proxy.options import Bound, NonNegativeInt, Options, PositiveInt
from nas_proxy.train.settings import TrainSettings

# `ranks.MIN_FOR_INTERVAL` and `sequential.FIRST_LOOK`, said again: reading a configuration must not
# load SciPy.
MIN_FOR_INTERVAL = 10
FIRST_LOOK = 12
NUM_ARCHITECTURES = 72  # where the configuration says nothing

Stop = Literal["settled", "never"]
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
class AtMost(Options):
    """A number of architectures that need not all be used.

    Attributes:
        max: Beyond it nothing is trained, whatever is settled.
    """

    max: Annotated[int, Bound(ge=FIRST_LOOK)]


@dataclass(frozen=True, kw_only=True)
class BestPart(Options):
    """Which of the best architectures are looked at alone.

    Attributes:
        best_fraction: The best part of the architectures, by reference.
        k: Of precision@k and regret@k.
    """

    best_fraction: Annotated[float, Bound(gt=0, le=1)] = 0.2
    k: PositiveInt = 5


@dataclass(frozen=True, kw_only=True)
class ValidateSettings(BestPart):
    """How the ranking is judged.

    Attributes:
        reference: What it is held against.
        num_architectures: Drawn uniformly for the validation; every figure rests on them. A number:
            all of them. `{max: 100}`: as many of these, in the order of drawing, as settle the
            verdict; see `stop`. None becomes 72 where the reference is a table, which costs
            nothing, and `{max: 72}` where it is trained.
        stop: When no further reference is trained. `settled`: when the verdict is, which takes
            `num_architectures: {max: ...}`; the interval of Spearman lies above the threshold or
            below it, at a confidence that allows for all looks. `never`: before all are used. None
            becomes the one that `num_architectures` means.
        controls: Zero-cost scores that the proxy must beat.
        distilled_set: Whether a recipe that trains on the full data is held against the same
            training on the distilled set too, by its validation loss and by its mean training loss.
        ceiling_architectures: How many of them the reference trains with a
            second seed: how well one seed ranks as the other is the noise ceiling, beyond which no
            ranking can be expected. 0 leaves it unknown. Of a sequential validation that used
            fewer: all of these.
    """

    reference: RepeatedReference
    num_architectures: Annotated[int, Bound(ge=5)] | AtMost | None = None
    stop: Stop | None = None
    controls: tuple[str, ...] = ("num_params", "flops", "log_synflow", "naswot")
    distilled_set: bool = False
    ceiling_architectures: NonNegativeInt = 0

    def __post_init__(self) -> None:
        """Spell out what is left open; refuse a k or a noise ceiling that the sample cannot answer.

        The options are frozen for whoever reads them, and written here alone.
        """
        if self.num_architectures is None:
            object.__setattr__(self, "num_architectures", self._meant())
        meant: Stop = "settled" if isinstance(self.num_architectures, AtMost) else "never"
        if self.stop not in (None, meant):
            raise ValueError(_contradiction(self.max_architectures, meant))
        object.__setattr__(self, "stop", meant)
        self._check_sizes()

    def _meant(self) -> int | AtMost:
        """What an open number of architectures is, for this reference and this rule."""
        stop = self.stop or ("never" if self.reference.train is None else "settled")
        return AtMost(max=NUM_ARCHITECTURES) if stop == "settled" else NUM_ARCHITECTURES

    @property
    def max_architectures(self) -> int:
        """How many are drawn; a sequential validation may use fewer."""
        number = self.num_architectures
        return number.max if isinstance(number, AtMost) else number or NUM_ARCHITECTURES

    @property
    def is_sequential(self) -> bool:
        """Whether it stops when the verdict is settled."""
        return self.stop == "settled"

    def _check_sizes(self) -> None:
        fewest = FIRST_LOOK if self.is_sequential else self.max_architectures
        if self.k >= fewest:
            what = "the first look's architectures" if self.is_sequential else "num_architectures"
            raise ValueError(f"k ({self.k}) must be smaller than {what} ({fewest})")
        num_again = self.ceiling_architectures
        if num_again and not MIN_FOR_INTERVAL <= num_again <= self.max_architectures:
            raise ValueError(
                f"ceiling_architectures ({num_again}) must be 0, or from {MIN_FOR_INTERVAL}, below "
                f"which it has no interval, to num_architectures ({self.max_architectures})"
            )
        if num_again and self.reference.train is None:
            raise ValueError(
                "ceiling_architectures trains the reference again; with a table, name the column "
                "of another seed in validate.reference.second_value"
            )


def _contradiction(number: int, meant: Stop) -> str:
    """What to write instead of a number of architectures and a rule that do not go together."""
    if meant == "never":
        return (
            f"stop is settled, but num_architectures is {number}, which asks for all of them; "
            f"write num_architectures: {{max: {number}}}, or stop: never"
        )
    return (
        f"stop is never, but num_architectures is {{max: {number}}}, which may use fewer; write "
        f"num_architectures: {number}, or stop: settled"
    )
