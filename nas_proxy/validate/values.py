"""The values of a validation: what is judged, on what, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from nas_proxy.core.notebook import grid
from nas_proxy.core.results import StoredResult
from nas_proxy.statistics.needed import Needed
from nas_proxy.statistics.ranks import Estimate
from nas_proxy.types import Architecture
from nas_proxy.validate.coverage import Uncertainty

Kind = Literal["proxy", "control", "signal", "ceiling"]
Outcome = Literal["better", "worse", "open"]


@dataclass(frozen=True)
class Ranking:
    """One way to rank the validation's architectures.

    Attributes:
        name: What it is, in words.
        kind: `proxy` is what is judged; `control` must be beaten; `signal` is for information;
            `ceiling` is the reference itself, once more.
        scores: Higher is better; architectures whose evaluation failed are missing.
        seconds_per_architecture: Mean wall-clock seconds of one process.
        one_off_seconds: What it costs before the first architecture: distilling, the score's
            reference sample.
        failures: Reason and how often.
        predictions: What it expects of the reference; None if it only ranks.
        deviations: The standard deviations that it states for its predictions.
        to_unit: Turns a reference into the unit of predictions and deviations; None if they are in
            the reference's own.
    """

    name: str
    kind: Kind
    scores: Mapping[Architecture, float]
    seconds_per_architecture: float
    one_off_seconds: float = 0.0
    failures: Mapping[str, int] | None = None
    predictions: Mapping[Architecture, float] | None = None
    deviations: Mapping[Architecture, float] | None = None
    to_unit: Callable[[float], float] | None = None


@dataclass(frozen=True)
class Slice:
    """Agreement in the best part of the architectures.

    Attributes:
        fraction: How large the part is.
        n: Architectures in it by reference, with all that are tied with the last of it.
        spearman: Rho within it.
        k: How many make up the fraction of those that the ranking has a value for.
        precision: Share of the k best by score that are among the k best by reference.
    """

    fraction: float
    n: int
    spearman: Estimate | None
    k: int
    precision: Estimate | None


@dataclass(frozen=True)
class RankRow:
    """The agreement of one ranking with the reference; None where a figure is not defined.

    Attributes:
        name: See `Ranking`.
        kind: See `Ranking`.
        n: Architectures that both sides have a value for.
        num_failed: Evaluations that failed, over all architectures.
        failures: Their reasons.
        spearman: Rho over these.
        kendall: Tau-b over the same.
        precision_at_k: See `ranks.precision_at`.
        regret_at_k: See `ranks.regret_at`; in the unit of the reference.
        n_best: Architectures in the best part, with all that are tied with the last of it.
        spearman_best: Rho within the best part by reference.
        kendall_best: Tau-b within the same.
        difference: Rho of the judged ranking minus rho of this row, on the architectures they
            share; None for the judged one itself.
        n_difference: How many these are.
        seconds_per_architecture: See `Ranking`.
        one_off_seconds: See `Ranking`.
        partial_spearman: Rho at equal sizes; see `ranks.partial_spearman`.
        n_partial: Architectures whose sizes are known too.
        ndcg: Of as many as make up the best part; see `ranks.ndcg_at`.
        regret_at_1: What the one architecture that it would pick lacks to the best.
        slices: One for each of `rank_report.SLICES`.
        uncertainty: Whether its stated deviations are right; None if it states none.
        spearman_failures_last: Rho over all architectures with a reference, those whose evaluation
            failed tied behind all others; None if none failed.
        outcome: Of a control, whether the judged ranking is better than it, worse, or cannot be
            told apart, with Holm's correction over all controls; None of what is no control or
            cannot be compared.
    """

    name: str
    kind: Kind
    n: int
    num_failed: int
    failures: Mapping[str, int]
    spearman: Estimate | None
    kendall: Estimate | None
    precision_at_k: Estimate | None
    regret_at_k: Estimate | None
    n_best: int
    spearman_best: Estimate | None
    kendall_best: Estimate | None
    difference: Estimate | None
    n_difference: int
    seconds_per_architecture: float
    one_off_seconds: float
    partial_spearman: Estimate | None
    n_partial: int
    ndcg: Estimate | None
    regret_at_1: Estimate | None
    slices: tuple[Slice, ...]
    uncertainty: Uncertainty | None
    spearman_failures_last: Estimate | None
    outcome: Outcome | None = None

    @property
    def figures(self) -> tuple[Estimate | None, ...]:
        """Those by which rankings are told apart at a glance."""
        return self.spearman, self.kendall, self.spearman_best, self.regret_at_1

    @property
    def worst_case(self) -> tuple[Estimate | None, int]:
        """What a reading goes by, and its n: Spearman, or that with failures last if it is lower.

        Lower by the lower end of its interval.
        """
        found, last = self.spearman, self.spearman_failures_last
        if found is None or last is None or _low(last) >= _low(found):
            return found, self.n
        return last, self.n + self.num_failed


def _shown(found: Estimate | None) -> str:
    return "–" if found is None else str(found)


def _low(found: Estimate) -> float:
    return -1.0 if found.low is None else found.low


@dataclass(frozen=True)
class Difference:
    """Two rankings on the architectures that both of them, and the reference, have.

    Attributes:
        first: Name of one.
        second: Name of the other.
        n: How many architectures these are.
        spearman: Rho of the first minus rho of the second.
        num_to_tell: How many architectures would tell them apart if these do not; None if they do.
    """

    first: str
    second: str
    n: int
    spearman: Estimate | None
    num_to_tell: Needed | None


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """Where a validation that stops when its verdict is settled has stopped.

    Attributes:
        look: Number of the look, from 1.
        num_looks: How many there could be at most.
        num_used: Architectures that were drawn and looked at.
        max_architectures: How many could have been.
        confidence: Of every interval of the report, so high that the chance that any of the looks
            misses is that of one look at 95 %.
        threshold: What Spearman was held against.
        outcome: `reached` and `missed` are settled; `open`: all were used.
        seconds_saved: What the references that were not trained would have cost.
    """

    look: int
    num_looks: int
    num_used: int
    max_architectures: int
    confidence: float
    threshold: float
    outcome: Literal["reached", "missed", "open"]
    seconds_saved: float = 0.0

    @property
    def num_saved(self) -> int:
        """References that were not trained."""
        return self.max_architectures - self.num_used


@dataclass(frozen=True)
class RankReport(StoredResult):
    """The validator's result.

    Attributes:
        judged: The ranking that all this is about, the proxy's.
        rows: What it is compared with: the controls, then the single signals.
        reference_name: What the reference is, in words.
        reference_seconds_per_architecture: 0 for a table.
        num_architectures: Drawn uniformly; of a sequential validation as many as it used.
        best_fraction: The best part.
        k: Of precision and regret.
        verdict: The headline: what the ranking is worth, and what it beats.
        comparisons: One sentence for each control.
        sizes: What `partial_spearman` holds equal, in words.
        size_words: Whether the proxy knows more than size; empty if sizes are not known.
        next_level: The next better reading's lower bound, if the interval leaves it open.
        num_more_architectures: How many more than there are would settle that.
        differences: Every two rankings, those with the judged one first.
        ceiling: One seed of the reference against another; None if there is no other.
        ceiling_words: What follows from it, or that it is not known.
        stopping: Where it stopped; None if all architectures were to be used.
    """

    FORMAT: ClassVar[int] = 2

    judged: RankRow
    rows: tuple[RankRow, ...]
    reference_name: str
    reference_seconds_per_architecture: float
    num_architectures: int
    best_fraction: float
    k: int
    verdict: str
    comparisons: tuple[str, ...]
    sizes: tuple[str, ...]
    size_words: str
    next_level: float | None
    num_more_architectures: Needed | None
    differences: tuple[Difference, ...]
    ceiling: RankRow | None
    ceiling_words: str
    stopping: Stopping | None = None

    @property
    def all_rows(self) -> tuple[RankRow, ...]:
        """The judged ranking and what it is compared with; not the ceiling."""
        return (self.judged, *self.rows)

    def _repr_html_(self) -> str:
        """The verdict, and a row for each ranking, in a notebook."""
        best = f"best {100 * self.best_fraction:g} %"
        head = (
            "",
            "n",
            "Spearman",
            "Kendall",
            f"Spearman, {best}",
            "regret of its pick",
            "outcome",
        )
        rows = [
            (row.name, str(row.n), *map(_shown, row.figures), row.outcome or "")
            for row in self.all_rows
        ]
        return grid(f"Judged by {self.reference_name}", head, rows, sentence=self.verdict)


@dataclass(frozen=True)
class Sample:
    """The architectures of a validation and what the reference says of them.

    Attributes:
        architectures: Drawn uniformly.
        reference: Higher is better; failed ones are missing.
        sizes: Sizes of the architectures by their names in words, such as parameters.
    """

    architectures: Sequence[Architecture]
    reference: Mapping[Architecture, float]
    sizes: Mapping[str, Mapping[Architecture, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """One architecture of a validation with all that was found out about it.

    Attributes:
        architecture: Which one.
        architecture_id: Its id, for whoever searches the file for it.
        description: The same in words.
        reference: None if it failed.
        sizes: By their names in words; None where one is not known.
        scores: By the names of the rankings; None where the evaluation failed.
        prediction: What the judged ranking expects of the reference; None if it only ranks.
        deviation: The standard deviation that it states for that.
    """

    architecture: Architecture
    architecture_id: str
    description: str
    reference: float | None
    sizes: Mapping[str, float | None]
    scores: Mapping[str, float | None]
    prediction: float | None = None
    deviation: float | None = None


@dataclass(frozen=True)
class Points(StoredResult):
    """Every architecture of a validation, for the figures and for whoever wants to recompute.

    Attributes:
        points: In the order of drawing.
    """

    FORMAT: ClassVar[int] = 2

    points: tuple[Point, ...]
