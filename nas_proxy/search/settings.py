"""The configuration section `search`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nas_proxy.evaluate.executors import ExecutorName
from nas_proxy.options import Options, PositiveInt

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
    """

    n_trials: PositiveInt = 20
    sampler: SamplerName = "tpe"
    population_size: PositiveInt = 20
    tournament_size: PositiveInt = 5
    constraints: Constraints = field(default_factory=Constraints)
    executor: ExecutorName = "serial"
    num_workers: PositiveInt = 2
    storage: str = "journal"
