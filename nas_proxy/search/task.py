"""What a search is given, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nas_proxy.evaluate.executors import EvaluatorFactory
from nas_proxy.interfaces import SearchSpace
from nas_proxy.scores.combine import Score
from nas_proxy.search.guard import Guard, TrialRecord
from nas_proxy.search.settings import SearchSettings
from nas_proxy.types import Architecture, Evaluation, Progress, no_progress

TrialLog = Callable[[TrialRecord, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Rung:
    """A point of an evaluation at which it is decided whether it goes on.

    Attributes:
        step: What Optuna is told of it, the `rung` of an evaluation that got so far.
        factory: Evaluates from the rung before up to this one.
        score: Of an evaluation that got so far.
    """

    step: int
    factory: EvaluatorFactory
    score: Score


@dataclass(frozen=True)
class Pruning:
    """How evaluations are divided so that a pruner can end them.

    Attributes:
        rungs: In their order; the task's own factory evaluates from the last one to the end.
        joined: The evaluation of several jobs, from that of all before and that of the last one.
        discard_state: Told of each architecture that needs what lies between two jobs no more.
    """

    rungs: tuple[Rung, ...]
    joined: Callable[[Evaluation, Evaluation], Evaluation]
    discard_state: Callable[[Architecture], None] = lambda _: None


@dataclass(frozen=True)
class SearchTask:
    """What a search needs beside its executor.

    Attributes:
        space: What is searched.
        factory: How candidates are evaluated.
        score: What is maximised, alone or among the objectives of the settings.
        settings: How.
        study_name: Optuna's.
        seed: Of the sampler and of every evaluation.
        sizes: What an architecture costs to use, by the names of `settings.COSTS`: what the
            constraints and the objectives ask for. Raises an `EvaluationError` if that cannot be
            measured. It answers the same each time, also in a continued search.
        facts: What else is to stand in Optuna of a trial that was evaluated, by name.
        on_trial: Told each finished trial: its number, evaluation and score (None if it failed or
            was pruned), and Optuna's user attributes of it.
        progress: Told after every trial.
        guard: Watches the ranking; it may end the search.
        pruning: Where the pruner of the settings may end a candidate; None without one.
        driver: Who asks, where a database may hold the trials of several: trials of others teach
            the sampler and are otherwise left alone. Empty where there is one.
    """

    space: SearchSpace
    factory: EvaluatorFactory
    score: Score
    settings: SearchSettings
    study_name: str
    seed: int
    sizes: Callable[[Architecture], Mapping[str, float]]
    facts: Callable[[Evaluation], Mapping[str, float]] = lambda _: {}
    on_trial: TrialLog = lambda *_: None
    progress: Progress = no_progress
    guard: Guard | None = None
    pruning: Pruning | None = None
    driver: str = ""


@dataclass
class SearchOutcome:
    """What a search did.

    Attributes:
        trials: Optuna's number, evaluation and score of every architecture, in the order in which
            they were told.
        attributes: Optuna's user attributes of each of them, by number.
        num_duplicates: Proposals that were known already and not trained again.
        num_infeasible: Proposals that a constraint or the space ruled out before training.
        stopped: Why the guard ended the search early; empty if it did not.
        choices: Optuna's parameters of every trial, by number.
        importances: See `choice_importances`.
    """

    trials: list[TrialRecord] = field(default_factory=list)
    attributes: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    num_duplicates: int = 0
    num_infeasible: int = 0
    stopped: str = ""
    choices: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    importances: Mapping[str, float] = field(default_factory=dict)
