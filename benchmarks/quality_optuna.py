"""Plain Optuna on full data, for benchmarks/cost_to_quality.py, as its documentation writes it.

That is `study.optimize` with an objective that reports after every rung and asks whether to stop,
Optuna's own samplers and its own pruners.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from quality_populations import Population
from quality_trajectories import Strategy, Trajectory

from nas_proxy.interfaces import SearchSpace
from nas_proxy.reproducibility import content_hash
from nas_proxy.types import Architecture

Sampler = Callable[[int], optuna.samplers.BaseSampler]


class WithinPopulation(optuna.samplers.BaseSampler):
    """A sampler whose proposals are moved, at no cost, to the nearest that can be looked up.

    Nearest is the architecture of the population that differs in the fewest parameters and was not
    proposed before; chance decides among several.

    Args:
        base: Who proposes.
        population: What can be looked up.
        seed: Of chance.
    """

    def __init__(
        self, base: optuna.samplers.BaseSampler, population: Population, seed: int
    ) -> None:
        self._base = base
        self._generator = np.random.default_rng([seed, 2])
        self._distributions = _distributions(population.space)
        names = tuple(self._distributions)
        self._left = np.array([_params(a, names) for a in population.candidates], dtype=object)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Every parameter of the space."""
        return self._distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """All of them, so that they make an architecture of the population."""
        drawn = [
            self._base.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        ]
        differing = (self._left != np.array(drawn, dtype=object)).sum(axis=1)
        index = self._generator.choice(np.flatnonzero(differing == differing.min()))
        found = dict(zip(search_space, self._left[index].tolist(), strict=True))
        self._left = np.delete(self._left, index, axis=0)
        return found

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Of a parameter that is not in every architecture: there is none in these spaces."""
        raise NotImplementedError(param_name)


def _distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    trial = optuna.create_study().ask()
    space.suggest(trial)
    return dict(trial.distributions)


def _params(architecture: Architecture, names: Sequence[str]) -> tuple[Any, ...]:
    """The values of an architecture's parameters, in the order in which they are suggested."""
    genotype = architecture.genotype
    return (
        tuple(genotype[name] for name in names) if isinstance(genotype, dict) else tuple(genotype)
    )


@dataclass(frozen=True)
class PlainOptuna:
    """Full-data training of each candidate, stopped early as Optuna's pruner says.

    Attributes:
        sampler: From a seed.
        pruner: One of `PRUNERS`.
        num_candidates: After which it ends; all of the population at most.
    """

    sampler: Sampler
    pruner: str
    num_candidates: int

    def identity(self, population: Population) -> str:
        """Of all three, and what trainings give."""
        options = [self.sampler.__name__, self.pruner, self.num_candidates]
        return content_hash("plain", options, population.identity)

    def __call__(self, population: Population, seed: int) -> Trajectory:
        """Search until as many were tried."""
        trajectory = Trajectory()

        def objective(trial: optuna.Trial) -> float:
            candidate = population.candidates[population.space.suggest(trial)]
            trial.set_user_attr("test", candidate.test)
            paid = 0.0
            for rung, step in enumerate(population.rungs):
                cost = population.cost_until(candidate.architecture, rung)
                trajectory.spend("full trainings", cost - paid)
                paid = cost
                trial.report(candidate.reports[rung], step)
                if trial.should_prune():
                    raise optuna.TrialPruned
            return candidate.reports[-1]

        def note(study: optuna.Study, trial: FrozenTrial) -> None:
            if trial.state == TrialState.COMPLETE:
                trajectory.pick(study.best_trial.user_attrs["test"])

        study = optuna.create_study(
            study_name=f"plain-{seed}",  # Hyperband draws its brackets from it
            direction="maximize",
            sampler=WithinPopulation(self.sampler(seed), population, seed),
            pruner=PRUNERS[self.pruner](population),
        )
        num_candidates = min(self.num_candidates, len(population.candidates))
        study.optimize(objective, n_trials=num_candidates, callbacks=[note])
        return trajectory


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's default sampler."""
    return optuna.samplers.TPESampler(seed=seed)


def chance(seed: int) -> optuna.samplers.BaseSampler:
    """Uniform proposals."""
    return optuna.samplers.RandomSampler(seed=seed)


PRUNERS: Mapping[str, Callable[[Population], optuna.pruners.BasePruner]] = {
    "none": lambda _: optuna.pruners.NopPruner(),
    "median": lambda _: optuna.pruners.MedianPruner(),
    "Hyperband": lambda population: optuna.pruners.HyperbandPruner(
        min_resource=population.rungs[0], max_resource=population.rungs[-1]
    ),
    "successive halving": lambda population: optuna.pruners.SuccessiveHalvingPruner(
        min_resource=population.rungs[0]
    ),
}


def plain_strategies(num_candidates: int) -> dict[str, Strategy]:
    """All that train on full data."""
    return {
        "random picks": PlainOptuna(chance, "none", num_candidates),
        "random + median": PlainOptuna(chance, "median", num_candidates),
        "random + Hyperband": PlainOptuna(chance, "Hyperband", num_candidates),
        "ASHA": PlainOptuna(chance, "successive halving", num_candidates),
        "TPE + median": PlainOptuna(tpe, "median", num_candidates),
        "TPE + Hyperband": PlainOptuna(tpe, "Hyperband", num_candidates),
    }
