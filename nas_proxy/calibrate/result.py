"""What a calibration found, as `calibration.json` holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from nas_proxy.core.results import StoredResult
from nas_proxy.statistics.ranks import Estimate
from nas_proxy.types import Architecture

Outcome = Literal["chosen", "trusted", "open", "below", "beaten", "failed"]


@dataclass(frozen=True)
class StandingRow:
    """Where a recipe stands when the race is over; see `race.Standing`.

    Attributes:
        recipe: Its name.
        settings: The recipe, as a configuration spells it.
        outcome: See `race.Standing`, as for what follows.
        reason: The outcome in words.
        n: Architectures that it was judged on.
        spearman: Against the references; None if it ranks nothing.
        seconds_per_architecture: Mean cost.
        num_failed: Evaluations that failed.
        bound: What was held against the threshold.
        bound_confidence: Its confidence.
        difference: Rho of the best recipe minus rho of this one.
    """

    recipe: str
    settings: Mapping[str, Any]
    outcome: Outcome
    reason: str
    n: int
    spearman: Estimate | None
    seconds_per_architecture: float
    num_failed: int
    bound: float | None
    bound_confidence: float
    difference: Estimate | None


@dataclass(frozen=True)
class CalibrationPoint:
    """An architecture of the sample.

    Attributes:
        architecture: Which one.
        architecture_id: Its id, for whoever searches the file for it.
        reference: After full training.
        scores: By the names of the recipes; None where a recipe has none.
    """

    architecture: Architecture
    architecture_id: str
    reference: float
    scores: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class CalibrationResult(StoredResult):
    """How every recipe ranks, and which can be trusted at little cost.

    Attributes:
        verdict: What came out, one sentence.
        trusted: Whether a recipe's bound reaches the threshold.
        chosen: Name of that recipe, else of the nearest; None if none could be judged.
        threshold: What the lower bound has to reach.
        reference_name: What the ranking was compared with, in words.
        num_architectures: On how many.
        num_asked: How many the sample has.
        seconds: What references and recipes cost, of one process.
        frontier: Path of the figure.
        standings: Every recipe, the cheapest first.
        points: Every architecture that was used.
    """

    FORMAT: ClassVar[int] = 2

    verdict: str
    trusted: bool
    chosen: str | None
    threshold: float
    reference_name: str
    num_architectures: int
    num_asked: int
    seconds: float
    frontier: str
    standings: tuple[StandingRow, ...]
    points: tuple[CalibrationPoint, ...]

    @property
    def chosen_standing(self) -> StandingRow | None:
        """That of the recipe with the name `chosen`."""
        return next((s for s in self.standings if s.recipe == self.chosen), None)
