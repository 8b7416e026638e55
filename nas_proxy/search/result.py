"""What a search found, as `search.json` holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nas_proxy.core.results import StoredResult
from nas_proxy.evaluate.latency import Latency
from nas_proxy.knowledge_distillation.record import DistillationRecord
from nas_proxy.search.guard import GuardResult
from nas_proxy.types import Architecture

Choice = None | bool | int | float | str


@dataclass(frozen=True)
class TrialRow:
    """One trial.

    Attributes:
        trial: Optuna's number.
        score: Higher is better; None if the evaluation failed, or was pruned.
        objectives: Value of each objective by its name, the score's too; none without a score.
        latency: As it was measured; None if nobody asked for it.
        architecture: What was evaluated.
        architecture_id: Its id, for whoever searches the file for it.
        description: The same in words.
        signals: Name to value; none if it failed.
        seconds: Of one process.
        reason: Why it failed; empty if it did not.
        stage_seconds: Those of each stage of a cascade that was begun; their number is the stage
            reached. Empty without a cascade.
        num_params: Of the network at full size; None if it cannot be built, or was not counted.
        flops: For one image; None likewise.
        started_unix_seconds: When its evaluation began; None if that is not known.
        choices: What was chosen, by Optuna's names of the parameters.
        pruned_after: How far it got that a pruner ended, in words; empty if none did. Its signals
            are those of the checkpoints until there, its seconds those that were paid.
        same_as: Id of the architecture that is the same network, whose evaluation it took; empty
            where it was evaluated itself.
    """

    trial: int
    score: float | None
    objectives: Mapping[str, float]
    latency: Latency | None
    architecture: Architecture
    architecture_id: str
    description: str
    signals: Mapping[str, float]
    seconds: float
    reason: str = ""
    stage_seconds: tuple[float, ...] = ()
    num_params: float | None = None
    flops: float | None = None
    started_unix_seconds: float | None = None
    choices: Mapping[str, Choice] = field(default_factory=dict)
    pruned_after: str = ""
    same_as: str = ""

    @property
    def failed(self) -> bool:
        """Whether it has no score, and no pruner is why."""
        return self.score is None and not self.pruned_after


@dataclass(frozen=True)
class BestTraining:
    """How the best candidate was trained.

    Attributes:
        description: The candidate in words.
        train_losses: At each step, `(num_steps,)`.
        phases: Name and steps of each phase, in order.
    """

    description: str
    train_losses: tuple[float, ...]
    phases: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class SearchResult(StoredResult):
    """Every trial, and what stands out among them.

    Attributes:
        recipe: Name of the recipe that candidates were trained and ranked by.
        recipe_settings: The recipe, as a configuration spells it.
        knowledge_distillation: What candidates learned beside the labels; None: nothing.
        signals: Those that the score is made of.
        trials: In the order of their numbers.
        best: The ten networks of the highest score, the best first; fewer if fewer have one.
        best_training: Of the best one; None where nothing was trained.
        pareto_front: What no other trial beats in all objectives at once, the best score first.
        knee: Number of the front's knee; None without a front.
        num_failed: Trials without a score that no pruner ended.
        num_duplicates: Proposals that were known already and not trained again.
        num_infeasible: Proposals that a constraint or the space ruled out before training.
        stopped: Why the guard ended the search early; empty if it did not.
        guard: What the guard found; None if it never looked.
        importances: Of each choice for a score among the best, by PED-ANOVA, the largest first;
            empty where there are too few trials to tell.
        num_pruned: Trials that a pruner ended.
        num_same: Trials that took the evaluation of another, which is the same network.
    """

    FORMAT: ClassVar[int] = 1

    recipe: str
    recipe_settings: Mapping[str, Any]
    knowledge_distillation: DistillationRecord | None
    signals: tuple[str, ...]
    trials: tuple[TrialRow, ...]
    best: tuple[TrialRow, ...]
    best_training: BestTraining | None
    pareto_front: tuple[TrialRow, ...]
    knee: int | None
    num_failed: int
    num_duplicates: int
    num_infeasible: int
    stopped: str = ""
    guard: GuardResult | None = None
    importances: Mapping[str, float] = field(default_factory=dict)
    num_pruned: int = 0
    num_same: int = 0
