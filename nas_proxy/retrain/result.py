"""What full training made of each network, and what that says of the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nas_proxy.retrain.contenders import Contender
from nas_proxy.statistics.accuracy import SeedMean, difference, over_seeds, percent
from nas_proxy.statistics.ranks import Estimate
from nas_proxy.types import Evaluation

Outcome = Literal["better", "worse", "open", "unknown"]


@dataclass(frozen=True, eq=False)
class TrainedContender:
    """A contender with its trainings.

    Attributes:
        contender: Which network.
        sizes: Its `num_params` and `flops`.
        trainings: One for each seed, measured on the search-validation images.
        tests: The complete ones of them, measured on the test images; empty before the one look.
    """

    contender: Contender
    sizes: Mapping[str, float]
    trainings: Sequence[Evaluation]
    tests: Sequence[Evaluation] = ()

    @property
    def complete(self) -> list[Evaluation]:
        """The trainings that did not fail."""
        return [training for training in self.trainings if training.complete]

    @property
    def chosen(self) -> Evaluation:
        """The training that the search-validation images like best, of equal ones by loss."""
        return max(self.complete, key=lambda e: (e.signals["val_accuracy"], -e.signals["val_loss"]))

    @property
    def val_accuracy(self) -> SeedMean:
        """Over seeds; at least one training is complete."""
        return SeedMean.of([training.signals["val_accuracy"] for training in self.complete])

    @property
    def test_accuracy(self) -> SeedMean:
        """Over seeds; at least one network was measured."""
        return SeedMean.of([test.signals["test_accuracy"] for test in self.tests])

    @property
    def failures(self) -> list[str]:
        """Why trainings failed."""
        return [training.reason for training in self.trainings if not training.complete]

    def to_json(self) -> dict[str, Any]:
        """JSON values; accuracies are None where every training failed."""
        found = bool(self.complete)
        return {
            **asdict(self.contender),
            "architecture": self.contender.architecture.to_json(),
            "architecture_id": self.contender.architecture.id,
            **self.sizes,
            "val_accuracy": _with_interval(self.val_accuracy) if found else None,
            "test_accuracy": _with_interval(self.test_accuracy) if found else None,
            "train_seconds": [e.signals["train_seconds"] for e in self.complete],
            "failures": self.failures,
        }


def best_first(trained: Sequence[TrainedContender]) -> list[TrainedContender]:
    """Those with a complete training, by their mean accuracy on the search-validation images."""
    complete = [each for each in trained if each.complete]
    return sorted(complete, key=lambda each: -each.val_accuracy.mean)


def comparison(best: TrainedContender, other: TrainedContender) -> dict[str, Any]:
    """The best network's mean test accuracy minus another's, and what that says."""
    found = difference(best.test_accuracy, other.test_accuracy)
    return {
        "role": other.contender.role,
        "description": other.contender.description,
        "difference": asdict(found),
        "outcome": outcome_of(found),
    }


def outcome_of(found: Estimate) -> Outcome:
    """Whether the interval of a difference is above zero, below it, around it, or missing."""
    if found.low is None or found.high is None:
        return "unknown"
    if found.low > 0:
        return "better"
    return "worse" if found.high < 0 else "open"


def verdict(best: TrainedContender, others: Sequence[TrainedContender]) -> str:
    """What came out, in two sentences."""
    accuracy = best.test_accuracy
    seeds = len(accuracy.values)
    of_seeds = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    first = (
        f"The retrained network ({best.contender.description}; "
        f"{best.sizes['num_params']:,.0f} parameters) reaches "
        f"{percent(over_seeds(accuracy))} test accuracy ({of_seeds})."
    )
    compared = [
        f"{_named(other)} reaches {100 * other.test_accuracy.mean:.1f} %: "
        + _in_words(difference(accuracy, other.test_accuracy))
        for other in others
        if other.complete
    ]
    if not compared:
        return first
    sentence = "; ".join(compared)
    return f"{first} {sentence[0].upper()}{sentence[1:]}."


def _named(other: TrainedContender) -> str:
    if other.contender.role == "median":
        return "the architecture of median score"
    # Its size comes in steps, and small networks lie between two of them.
    return f"ResNet-18 with {other.sizes['num_params']:,.0f} parameters"


def _in_words(found: Estimate) -> str:
    points = f"{100 * abs(found.value):.1f} points"
    outcome = outcome_of(found)
    if outcome == "unknown":
        return f"{points} {'less' if found.value >= 0 else 'more'}, by one seed"
    if outcome == "open":
        return f"they cannot be told apart (difference {_points(found)})"
    return f"{_points(found)} {'less' if outcome == 'better' else 'more'}"


def _points(found: Estimate) -> str:
    """The size of a difference, whichever side is ahead, with its interval in order."""
    ends = (found.low or 0.0, found.high or 0.0)
    low, high = ends if found.value >= 0 else (-ends[1], -ends[0])
    return f"{100 * abs(found.value):.1f} [{100 * low:.1f}, {100 * high:.1f}] points"


def _with_interval(figure: SeedMean) -> dict[str, Any]:
    found = over_seeds(figure)
    return {**asdict(figure), "low": found.low, "high": found.high}
