"""Who proposes the next architecture, through Optuna's sampler interface."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_proxy.search.settings import SearchSettings
from nas_proxy.search.thinned import ThinnedTPESampler, Thinner


def make_sampler(
    settings: SearchSettings, seed: int, num_workers: int, thinner: Thinner | None = None
) -> BaseSampler:
    """The sampler that the settings name.

    Args:
        settings: Its name and options.
        seed: Where it starts from.
        num_workers: Of the executor: with several, it proposes while others are not known yet.
        thinner: Of TPE; see `ThinnedTPESampler`.
    """
    if settings.sampler == "random":
        return RandomSampler(seed=seed)
    if settings.sampler == "nsga2":
        return NSGAIISampler(population_size=settings.population_size, seed=seed)
    if settings.sampler == "regularized_evolution":
        return RegularizedEvolutionSampler(
            settings.population_size, settings.tournament_size, seed=seed
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # The constant liar keeps parallel workers from all trying the same promising corner.
        return ThinnedTPESampler(seed=seed, constant_liar=num_workers > 1, thinner=thinner)


class RegularizedEvolutionSampler(BaseSampler):
    """Aging evolution: mutate the best of a few random members of a population of the youngest.

    Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019. A
    mutation changes one parameter of the trial, whatever the search space. Works on one objective.

    Args:
        population_size: The youngest complete trials that are alive; random trials until then.
        tournament_size: Members drawn for each tournament.
        seed: Of all draws.
    """

    def __init__(self, population_size: int, tournament_size: int, *, seed: int) -> None:
        self._population_size = population_size
        self._tournament_size = tournament_size
        self._random = RandomSampler(seed=seed)
        self._rng = np.random.default_rng(seed)
        self._alive: tuple[int, list[FrozenTrial]] | None = None  # for whom, and who

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Every parameter of the living; a trial need not have them all."""
        population = self._population(study, trial)
        return {name: d for member in population for name, d in member.distributions.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parent's parameters with one of them changed; nothing while the population fills.

        What exists only because of the change, such as a further layer, is drawn independently.
        """
        population = self._population(study, trial)
        if not population:
            return {}
        parent = self._tournament(study, population)
        free = {name: d for name, d in parent.distributions.items() if not d.single()}
        if not free:
            return {}
        params = dict(parent.params)
        changed = str(self._rng.choice(sorted(free)))
        while params[changed] == parent.params[changed]:
            params[changed] = self._random.sample_independent(study, trial, changed, free[changed])
        return params

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A uniform draw."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _population(self, study: Study, trial: FrozenTrial) -> list[FrozenTrial]:
        # Once for each proposal: to find the youngest, all trials are looked through.
        if self._alive is None or self._alive[0] != trial.number:
            complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            full = len(complete) >= self._population_size
            self._alive = trial.number, complete[-self._population_size :] if full else []
        return self._alive[1]

    def _tournament(self, study: Study, population: Sequence[FrozenTrial]) -> FrozenTrial:
        size = min(self._tournament_size, len(population))
        members = [population[i] for i in self._rng.choice(len(population), size, replace=False)]
        sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        best: FrozenTrial = max(members, key=lambda member: sign * (member.value or 0.0))
        return best
