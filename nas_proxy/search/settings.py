"""The configuration section `search`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from nas_proxy.evaluate.executors import ExecutorName
from nas_proxy.options import Bound, NonNegativeInt, Options, PositiveInt
from nas_proxy.train.settings import TrainSettings

SamplerName = Literal["tpe", "random", "nsga2", "regularized_evolution"]


@dataclass(frozen=True, kw_only=True)
class Constraints(Options):
    """Upper limits of a candidate at the search space's full size; None is no limit.

    Attributes:
        num_params: Trainable parameters.
        flops: Floating-point operations for one image, a multiply-add counted as two.
    """

    num_params: PositiveInt | None = None
    flops: PositiveInt | None = None


@dataclass(frozen=True, kw_only=True)
class GuardSettings(Options):
    """How the ranking is watched while the search runs; see `nas_proxy.search.guard`.

    Attributes:
        every: Check after so many trials, again and again; None: never.
        num_best: Of the best candidates so far, how many are trained on full data at each check;
            those that were trained at an earlier one cost nothing more.
        num_random: Candidates drawn among the trials since the last check, likewise.
        threshold: Spearman with full-data training that the ranking is to keep.
        action: What follows when the upper end of the 95 % interval is below it. `warn`: it is
            said. `stop`: the search ends with what it has. `recalibrate`: another recipe is looked
            for.
        train: The full-data training.
    """

    every: PositiveInt | None = None
    num_best: NonNegativeInt = 2
    num_random: PositiveInt = 2
    threshold: Annotated[float, Bound(ge=-1, le=1)] = 0.5
    action: Literal["warn", "stop", "recalibrate"] = "warn"
    train: TrainSettings | None = None

    def __post_init__(self) -> None:
        """Refuse a guard that does not know how to train."""
        if self.every is not None and self.train is None:
            raise ValueError(
                "every is set but train is not; say how candidates are trained on full data, such "
                "as train: {num_epochs: 20}"
            )


@dataclass(frozen=True, kw_only=True)
class SearchSettings(Options):
    """How the space is searched.

    Attributes:
        n_trials: Different architectures to evaluate. A larger number continues a finished search.
        sampler: Who proposes architectures.
        population_size: Of `nsga2` and `regularized_evolution`.
        tournament_size: Members of the population among which `regularized_evolution` picks the
            parent.
        constraints: What candidates must not exceed; those that do are not trained.
        executor: `serial`: in this process. `processes`: spawned workers.
        num_workers: Processes; on a CPU one per core is best.
        storage: `journal`: a file in the study's folder. Otherwise a database URL for Optuna.
        guard: Watches the ranking by training a few candidates on full data; off by default.
    """

    n_trials: PositiveInt = 20
    sampler: SamplerName = "tpe"
    population_size: PositiveInt = 20
    tournament_size: PositiveInt = 5
    constraints: Constraints = field(default_factory=Constraints)
    executor: ExecutorName = "serial"
    num_workers: PositiveInt = 2
    storage: str = "journal"
    guard: GuardSettings = field(default_factory=GuardSettings)
