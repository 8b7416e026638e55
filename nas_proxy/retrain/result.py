"""What full training made of each network, and what that says of the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from nas_proxy.compress.result import CompressionResult
from nas_proxy.core.results import StoredResult
from nas_proxy.evaluate.log import period_of
from nas_proxy.export.folder import ExportedFile
from nas_proxy.knowledge_distillation.record import DistillationRecord
from nas_proxy.retrain.contenders import Contender, Role
from nas_proxy.statistics.accuracy import SeedMean, difference, over_seeds, percent
from nas_proxy.statistics.base_rate import BaseRate, base_rate
from nas_proxy.statistics.ranks import Estimate
from nas_proxy.types import Architecture, Evaluation

Outcome = Literal["better", "worse", "open", "unknown"]
_NUM_POINTS = 100  # of a loss curve: means over as many pieces of the training


@dataclass(frozen=True)
class SeedAccuracy(SeedMean):
    """An accuracy over seeds with Student's 95 % interval.

    Attributes:
        low: Lower end; None with fewer than three seeds, or where all reach the same.
        high: Upper end.
    """

    low: float | None = None
    high: float | None = None

    @classmethod
    def around(cls, figure: SeedMean) -> SeedAccuracy:
        """The mean with its interval."""
        found = over_seeds(figure)
        return cls(figure.mean, figure.standard_error, figure.values, found.low, found.high)


@dataclass(frozen=True)
class Curves:
    """Learning curves, means over the complete seeds.

    Attributes:
        train_loss: Steps, each with the mean loss since the last one.
        val_accuracy: Steps, each with the search-validation accuracy after it.
    """

    train_loss: tuple[tuple[int, float], ...]
    val_accuracy: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class ModelFiles:
    """The folder of a network that was exported.

    Attributes:
        folder: Its name.
        files: What was written, and what is missing.
        chosen_seed: Position of the exported training among the complete ones.
        single_test_accuracy: Of this very network, with Wilson's interval over test images.
    """

    folder: str
    files: tuple[ExportedFile, ...]
    chosen_seed: int
    single_test_accuracy: Estimate


@dataclass(frozen=True, kw_only=True)
class RetrainRow:
    """A network with what full training made of it.

    Attributes:
        role: See `Contender`, as for the next ones.
        architecture: What was trained.
        architecture_id: Its id, for whoever searches the file for it.
        description: In words.
        score: See `Contender`.
        search_rank: See `Contender`.
        share_below: See `Contender`.
        chosen_from: See `Contender`.
        num_params: Parameters.
        flops: For one image; a multiply-add is two. None if they cannot be counted.
        val_accuracy: On the search-validation images; None if every training failed.
        test_accuracy: On the test images; None likewise.
        train_seconds: Of each complete training.
        failures: Why trainings failed.
        curves: None if every training failed.
        phases: Name and steps of each phase of a training, in order; empty if every one failed.
        model: Its files, if it was exported.
        base_rate: What `test_accuracy` must be read against; None where classes are alike in size.
        unix_seconds: When its first training began and its last one ended; None if that is not
            known.
    """

    role: Role
    architecture: Architecture
    architecture_id: str
    description: str
    score: float | None
    search_rank: int | None
    share_below: float | None
    chosen_from: str
    num_params: float
    flops: float | None
    val_accuracy: SeedAccuracy | None
    test_accuracy: SeedAccuracy | None
    train_seconds: tuple[float, ...]
    failures: tuple[str, ...]
    curves: Curves | None
    phases: tuple[tuple[str, int], ...]
    model: ModelFiles | None = None
    base_rate: BaseRate | None = None
    unix_seconds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Comparison:
    """The best network against another.

    Attributes:
        role: The other's.
        description: The other in words.
        difference: The best one's mean test accuracy minus the other's.
        outcome: What that says of the best one.
    """

    role: Role
    description: str
    difference: Estimate
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class RetrainResult(StoredResult):
    """What full training made of everything, as `retrain.json` holds it.

    Attributes:
        verdict: What came out, in two sentences.
        num_seeds: Trainings of each network.
        rows: The search's best, the recommended one first; those of them that failed; what they
            are compared with.
        knowledge_distillation: What all networks learned beside the labels; None: nothing.
        compressed: Smaller versions of the recommended network; None if nobody asked.
        comparisons: Of the recommended network.
        test_images: How many there are.
        hardware: What everything ran on, in words.
    """

    FORMAT: ClassVar[int] = 1

    verdict: str
    num_seeds: int
    rows: tuple[RetrainRow, ...]
    knowledge_distillation: DistillationRecord | None
    compressed: CompressionResult | None
    comparisons: tuple[Comparison, ...]
    test_images: int
    hardware: str

    @property
    def champion(self) -> RetrainRow:
        """The recommended network."""
        return self.rows[0]


@dataclass(frozen=True, eq=False)
class TrainedContender:
    """A contender with its trainings.

    Attributes:
        contender: Which network.
        sizes: Its `num_params`, and `flops` if they can be counted.
        class_names: Of the images, in label order.
        trainings: One for each seed, measured on the search-validation images.
        tests: The complete ones of them, measured on the test images; empty before the one look.
    """

    contender: Contender
    sizes: Mapping[str, float]
    class_names: Sequence[str]
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
    def base_rate(self) -> BaseRate | None:
        """What that accuracy must be read against; None where classes are alike in size."""
        return base_rate([test.confusion for test in self.tests], self.class_names)

    @property
    def failures(self) -> list[str]:
        """Why trainings failed."""
        return [training.reason for training in self.trainings if not training.complete]

    @property
    def curves(self) -> Curves:
        """Loss and accuracy on the way; at least one training is complete."""
        complete = self.complete
        losses = np.array([training.train_losses for training in complete]).mean(axis=0)
        pieces = np.array_split(losses, min(_NUM_POINTS, len(losses)))
        ends = np.cumsum([len(piece) for piece in pieces])
        percentages = sorted(
            int(name.partition("@")[2])
            for name in complete[0].signals
            if name.startswith("val_accuracy@")
        )
        steps = [max(1, len(losses) * percentage // 100) for percentage in percentages]
        signals = [f"val_accuracy@{percentage}" for percentage in percentages]
        points = zip([*steps, len(losses)], [*signals, "val_accuracy"], strict=True)
        return Curves(
            train_loss=tuple(
                (int(end), float(piece.mean())) for end, piece in zip(ends, pieces, strict=True)
            ),
            val_accuracy=tuple((step, self._mean(signal)) for step, signal in points),
        )

    def _mean(self, signal: str) -> float:
        return float(np.mean([training.signals[signal] for training in self.complete]))

    def row(self, model: ModelFiles | None = None) -> RetrainRow:
        """All of it for the result; accuracies and curves are None where every training failed.

        Args:
            model: Its files, if it was exported.
        """
        contender, complete = self.contender, self.complete
        return RetrainRow(
            role=contender.role,
            architecture=contender.architecture,
            architecture_id=contender.architecture.id,
            description=contender.description,
            score=contender.score,
            search_rank=contender.search_rank,
            share_below=contender.share_below,
            chosen_from=contender.chosen_from,
            num_params=self.sizes["num_params"],
            flops=self.sizes.get("flops"),
            val_accuracy=SeedAccuracy.around(self.val_accuracy) if complete else None,
            test_accuracy=SeedAccuracy.around(self.test_accuracy) if complete else None,
            train_seconds=tuple(training.signals["train_seconds"] for training in complete),
            failures=tuple(self.failures),
            curves=self.curves if complete else None,
            phases=complete[0].phases if complete else (),
            model=model,
            base_rate=self.base_rate,
            unix_seconds=period_of(self.trainings),
        )


def best_first(trained: Sequence[TrainedContender]) -> list[TrainedContender]:
    """Those with a complete training, by their mean accuracy on the search-validation images."""
    complete = [each for each in trained if each.complete]
    return sorted(complete, key=lambda each: -each.val_accuracy.mean)


def comparison(best: TrainedContender, other: TrainedContender) -> Comparison:
    """The best network's mean test accuracy minus another's, and what that says."""
    found = difference(best.test_accuracy, other.test_accuracy)
    contender = other.contender
    return Comparison(contender.role, contender.description, found, outcome_of(found))


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
    if best.base_rate is not None:
        first = f"{first} {best.base_rate.words}"
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
        if not found.value:
            return "they cannot be told apart by these seeds"
        return f"{points} {'less' if found.value >= 0 else 'more'}, by too few seeds to tell"
    if outcome == "open":
        return f"they cannot be told apart (difference {_points(found)})"
    return f"{_points(found)} {'less' if outcome == 'better' else 'more'}"


def _points(found: Estimate) -> str:
    """The size of a difference, whichever side is ahead, with its interval in order."""
    ends = (found.low or 0.0, found.high or 0.0)
    low, high = ends if found.value >= 0 else (-ends[1], -ends[0])
    return f"{100 * abs(found.value):.1f} [{100 * low:.1f}, {100 * high:.1f}] points"
