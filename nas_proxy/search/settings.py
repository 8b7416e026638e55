"""The configuration section `search`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from nas_proxy.cluster.settings import RaySettings
from nas_proxy.core.extras import is_installed, missing_words
from nas_proxy.errors import did_you_mean, masked, refuse_masked
from nas_proxy.evaluate.executors import executor_kind
from nas_proxy.options import Bound, NonNegativeInt, Options, PositiveFloat, PositiveInt
from nas_proxy.search.pareto import SCORE
from nas_proxy.search.pruner_settings import PrunerOption
from nas_proxy.train.settings import TrainSettings

COSTS = ("num_params", "flops", "latency")  # objectives to be minimised
SamplerName = Literal["tpe", "random", "nsga2", "regularized_evolution"]


def missing_driver(storage: str) -> str:
    """What a database needs that is not installed, a clause; empty if nothing."""
    is_postgresql = re.match(r"postgres(ql)?(\+psycopg)?:", storage) is not None
    if is_postgresql and not is_installed("postgres"):
        return f"is PostgreSQL, and {missing_words('postgres')}"
    return ""


@dataclass(frozen=True, kw_only=True)
class Constraints(Options):
    """Upper limits of a candidate at the search space's full size; None is no limit.

    Attributes:
        num_params: Trainable parameters.
        flops: Floating-point operations for one image, a multiply-add counted as two.
        latency_ms: Milliseconds for one image on the study's device, on a CPU with one thread; the
            median that `nas_proxy.evaluate.latency` measures.
    """

    num_params: PositiveInt | None = None
    flops: PositiveInt | None = None
    latency_ms: PositiveFloat | None = None

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by the names of `COSTS`; latency in seconds."""
        latency = None if self.latency_ms is None else self.latency_ms / 1000
        limits = {"num_params": self.num_params, "flops": self.flops, "latency": latency}
        return {name: limit for name, limit in limits.items() if limit is not None}

    def exceeded(self, sizes: Mapping[str, float]) -> dict[str, float]:
        """Those of the `sizes`, by the names of `COSTS`, that are beyond their limit."""
        limits = self.limits
        return {n: size for n, size in sizes.items() if n in limits and size > limits[n]}


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
        objectives: What is searched for: `score`, which is maximised, and any of `num_params`,
            `flops` and `latency`, which are minimised. With several of them the search looks for
            the Pareto front.
        population_size: Of `nsga2` and `regularized_evolution`.
        tournament_size: Members of the population among which `regularized_evolution` picks the
            parent.
        pruner: Which of Optuna's pruners ends candidates at checkpoints of their training, with one
            objective: its name, or a mapping with options. None: every candidate is trained to its
            end, or as far as a cascade's stages let it go.
        constraints: What candidates must not exceed; those that do are not trained.
        executor: Where candidates are trained. `serial`: in this process. `processes`: worker
            processes. `ray`: slots on the nodes of a cluster, see `ray`.
        num_workers: Candidates that are trained at the same time, unless the executor is `serial`;
            on a CPU one process per core is best. With a pruner twice as many are open at a time
            with every executor, which so finds the same.
        ray: The cluster of `executor: ray`.
        storage: `journal`: a file in the study's folder. Otherwise the URL of a database, such as
            `postgresql://user:password@host/name`, which a dashboard or the driver of another
            machine can join. User and password are not kept: write the URL again to go on.
        guard: Watches the ranking by training a few candidates on full data; off by default.
    """

    n_trials: PositiveInt = 20
    sampler: SamplerName = "tpe"
    objectives: tuple[str, ...] = (SCORE,)
    population_size: PositiveInt = 20
    tournament_size: PositiveInt = 5
    pruner: PrunerOption | None = None
    constraints: Constraints = field(default_factory=Constraints)
    executor: str = "serial"
    num_workers: PositiveInt = 2
    ray: RaySettings = field(default_factory=RaySettings)
    storage: str = "journal"
    guard: GuardSettings = field(default_factory=GuardSettings)

    def __post_init__(self) -> None:
        """Refuse objectives and executors that do not exist, and what the sampler cannot do."""
        refuse_masked("storage", self.storage)
        executor_kind(self.executor)
        if missing := missing_driver(self.storage):
            raise ValueError(f"storage {masked(self.storage)} {missing}")
        for index, name in enumerate(self.objectives):
            if name not in (SCORE, *COSTS):
                raise ValueError(
                    f"unknown objective {name!r}; {did_you_mean(name, (SCORE, *COSTS))}"
                )
            if name in self.objectives[:index]:
                raise ValueError(f"objectives names {name!r} twice; name it once")
        if SCORE not in self.objectives:
            raise ValueError(
                f"objectives {list(self.objectives)} lack score, by which the best are told; add it"
            )
        if self.sampler == "regularized_evolution" and len(self.objectives) > 1:
            raise ValueError(
                "regularized_evolution pursues one objective, but objectives names "
                f"{len(self.objectives)}; use the sampler nsga2, tpe or random"
            )
        if self.pruner is not None and len(self.objectives) > 1:
            raise ValueError(
                f"Optuna's pruners, such as {self.pruner.name}, pursue one objective, but "
                f"objectives names {len(self.objectives)}; leave pruner out (a recipe with stages "
                "ends candidates early with several objectives too)"
            )
        if self.sampler == "nsga2" and self.population_size == 1:
            raise ValueError("population_size is 1, but nsga2 crosses two; make it larger")

    @property
    def costs(self) -> tuple[str, ...]:
        """The objectives beside the score."""
        return tuple(name for name in self.objectives if name != SCORE)

    @property
    def slots_per_device(self) -> int:
        """How many workers of a cluster share one GPU."""
        return self.ray.slots_per_gpu if self.executor == "ray" else 1

    @property
    def needs_latency(self) -> bool:
        """Whether candidates have to be timed."""
        return "latency" in self.objectives or self.constraints.latency_ms is not None
