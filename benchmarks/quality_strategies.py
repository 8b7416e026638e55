"""The strategies of benchmarks/cost_to_quality.py, each from a seed to what it picks at what cost.

Those on full data are plain Optuna, written as its documentation does: `study.optimize`, an
objective that reports after every rung and asks whether to stop, Optuna's own samplers and pruners.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from quality_bank import CONFIGURED, part_names
from quality_populations import Population

from nas_proxy.calibrate.race import Race, best_standing
from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.calibrate.settings import CalibrateSettings
from nas_proxy.interfaces import SearchSpace
from nas_proxy.scores.combine import Score, SingleSignal, make_score
from nas_proxy.types import Architecture, Evaluation
from nas_proxy.validate.settings import Reference, ValidateSettings

_CONTROLS = ValidateSettings(reference=Reference(table="-")).controls


@dataclass
class Trajectory:
    """What a strategy would hand over if it were stopped.

    Attributes:
        costs: Core-seconds, rising.
        tests: Test accuracy in % of the pick from that cost on.
        spent: Core-seconds by what they were spent on, at the end.
        chosen: The recipe, where there is one.
    """

    costs: list[float] = field(default_factory=list)
    tests: list[float] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)
    chosen: str = ""

    def spend(self, what: str, seconds: float) -> None:
        """Pay."""
        self.spent[what] = self.spent.get(what, 0.0) + seconds

    def pick(self, test: float) -> None:
        """Note the architecture that is the best known now."""
        self.costs.append(sum(self.spent.values()))
        self.tests.append(test)

    def at(self, costs: np.ndarray) -> np.ndarray:
        """Test accuracy of the pick at each of the `costs`, `(n,)`; none is below the first."""
        return np.array(self.tests)[np.searchsorted(self.costs, costs, side="right") - 1]

    def without(self, what: str) -> Trajectory:
        """The same where something that is paid for before the first pick was there already."""
        costs = [cost - self.spent.get(what, 0.0) for cost in self.costs]
        spent = {name: seconds for name, seconds in self.spent.items() if name != what}
        return replace(self, costs=costs, spent=spent)

    def and_(self, **more: float) -> Trajectory:
        """The same where more was paid for, by what, before the first pick."""
        costs = [cost + sum(more.values()) for cost in self.costs]
        return replace(self, costs=costs, spent={**self.spent, **more})


Strategy = Callable[[Population, int], Trajectory]
Sampler = Callable[[int], optuna.samplers.BaseSampler]
Pruner = Callable[[Population], optuna.pruners.BasePruner]


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
        pruner: For the rungs of a population.
        num_candidates: After which it ends; all of the population at most.
    """

    sampler: Sampler
    pruner: Pruner
    num_candidates: int

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
            pruner=self.pruner(population),
        )
        num_candidates = min(self.num_candidates, len(population.candidates))
        study.optimize(objective, n_trials=num_candidates, callbacks=[note])
        return trajectory


@dataclass(frozen=True)
class Ours:
    """This project: calibrate a recipe, search with it, train the finalists in full.

    The race is the product's own, on evaluations that the population holds. A part that several
    recipes read is paid for once in the calibration, and again in the search.

    Attributes:
        recipes: Whether a recipe takes part.
        num_labels: Size of the calibration sample.
        threshold: That a recipe's bound must reach; the best is taken where none does.
        num_trials: Of the search, proposed by TPE; None: all of the population are scored.
        num_finalists: So many of the best by score are trained in full, one after the other; of
            these the best by validation accuracy is picked.
        label_rung: At the end of which rung the labels are read, counted from the last.
        calibrates: Whether labels are paid for; otherwise the study's own recipe ranks.
    """

    recipes: Callable[[Recipe], bool] = lambda recipe: recipe.name != CONFIGURED
    num_labels: int = CalibrateSettings.num_architectures
    threshold: float = CalibrateSettings.threshold
    num_trials: int | None = None
    num_finalists: int = 10
    label_rung: int = -1
    calibrates: bool = True

    def __call__(self, population: Population, seed: int) -> Trajectory:
        """Calibrate, search, train the finalists."""
        trajectory = Trajectory()
        recipes = tuple(filter(self.recipes, population.recipes))
        if any(recipe.train_on == "proxy" for recipe in recipes):
            trajectory.spend("distilling", population.distilling)
        if self.calibrates:
            names = tuple(recipe.name for recipe in recipes)
            found = _calibrated(
                population, names, self.num_labels, self.threshold, self.label_rung, seed
            )
            recipe, score = found.recipe, found.score
            for what, seconds in found.spent.items():
                trajectory.spend(what, seconds)
        else:
            recipe, score = recipes[0], SingleSignal(recipes[0].score.signals[0])
        trajectory.chosen = recipe.name
        scores = self._search(population, recipe, score, seed, trajectory)
        best = -np.inf, 0.0
        for architecture in sorted(scores, key=scores.__getitem__, reverse=True)[
            : self.num_finalists
        ]:
            candidate = population.candidates[architecture]
            trajectory.spend("finalists", candidate.cost)
            best = max(best, (candidate.reports[-1], candidate.test))
            trajectory.pick(best[1])
        return trajectory

    def _search(
        self,
        population: Population,
        recipe: Recipe,
        score: Score,
        seed: int,
        trajectory: Trajectory,
    ) -> dict[Architecture, float]:
        def scored(architecture: Architecture) -> float | None:
            evaluation = population.evaluation(recipe, architecture)
            trajectory.spend("search", evaluation.core_seconds)
            return score.of(evaluation) if evaluation.complete else None

        if self.num_trials is None:
            found = {a: scored(a) for a in population.candidates}
        else:
            found = _proposed(population, scored, self.num_trials, seed)
        return {a: value for a, value in found.items() if value is not None}


@dataclass(frozen=True)
class _Calibration:
    recipe: Recipe
    score: Score
    spent: Mapping[str, float]


@cache
def _calibrated(
    population: Population,
    names: tuple[str, ...],
    num_labels: int,
    threshold: float,
    label_rung: int,
    seed: int,
) -> _Calibration:
    """The race of the recipes with these names; several strategies begin with the same one."""
    recipes = tuple(recipe for recipe in population.recipes if recipe.name in names)
    order = np.random.default_rng(seed).permutation(len(population.candidates))
    everything = list(population.candidates)
    sample = [everything[i] for i in order[:num_labels]]
    race = _race(population, recipes, len(sample), threshold)
    rung = range(len(population.rungs))[label_rung]
    costs = Trajectory()
    references: dict[Architecture, float] = {}
    paid: set[tuple[str, Architecture]] = set()
    for size in race.rounds():
        for architecture in sample[len(references) : size]:
            costs.spend("calibration: full trainings", population.cost_until(architecture, rung))
            references[architecture] = population.candidates[architecture].reports[rung]
        needed = {
            (name, architecture)
            for recipe in race.running
            for name in part_names(recipe)
            for architecture in sample[:size]
        }
        new = [population.parts[name][a].core_seconds for name, a in needed - paid]
        costs.spend("calibration: recipes", math.fsum(new))
        paid |= needed
        found = {r.name: _measured(population, r, sample[:size]) for r in race.running}
        if race.judge(references, found):
            break
    best = best_standing(race.standings())
    recipe = recipes[0] if best is None else best.recipe
    known = list(_measured(population, recipe, list(references)).values())
    score = make_score(recipe.score, known, references, population.features)
    return _Calibration(recipe, score, costs.spent)


def _race(
    population: Population, recipes: tuple[Recipe, ...], num_labels: int, threshold: float
) -> Race:
    settings = CalibrateSettings(
        reference=Reference(table="-"),
        num_architectures=num_labels,
        recipes=recipes,
        threshold=threshold,
    )
    return Race(settings, num_labels, population.features, lambda e: e.core_seconds)


def _measured(
    population: Population, recipe: Recipe, sample: Sequence[Architecture]
) -> dict[Architecture, Evaluation]:
    return {a: population.evaluation(recipe, a) for a in sample}


def _proposed(
    population: Population,
    scored: Callable[[Architecture], float | None],
    num_trials: int,
    seed: int,
) -> dict[Architecture, float | None]:
    """Scores of what TPE proposes."""
    sampler = WithinPopulation(tpe(seed), population, seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    found: dict[Architecture, float | None] = {}
    for _ in range(min(num_trials, len(population.candidates))):
        trial = study.ask()
        architecture = population.space.suggest(trial)
        value = found[architecture] = scored(architecture)
        if value is None:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, value)
    return found


def proof_cost(population: Population, recipe: Recipe, seed: int, num: int) -> float:
    """Core-seconds of a validation: full trainings, the recipe and its training-free controls."""
    order = np.random.default_rng([seed, 1]).permutation(len(population.candidates))
    everything = list(population.candidates)
    names = {*part_names(recipe), *(f"score_{signal}" for signal in _CONTROLS)}
    total = 0.0
    for architecture in (everything[i] for i in order[:num]):
        total += population.candidates[architecture].cost
        total += sum(population.parts[name][architecture].core_seconds for name in names)
    return total


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's default sampler."""
    return optuna.samplers.TPESampler(seed=seed)


def chance(seed: int) -> optuna.samplers.BaseSampler:
    """Uniform proposals."""
    return optuna.samplers.RandomSampler(seed=seed)


PRUNERS: Mapping[str, Pruner] = {
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

    def plain(sampler: Sampler, pruner: str) -> Strategy:
        return PlainOptuna(sampler, PRUNERS[pruner], num_candidates)

    return {
        "random picks": plain(chance, "none"),
        "random + median": plain(chance, "median"),
        "random + Hyperband": plain(chance, "Hyperband"),
        "ASHA": plain(chance, "successive halving"),
        "TPE + median": plain(tpe, "median"),
        "TPE + Hyperband": plain(tpe, "Hyperband"),
    }


def is_single_score(recipe: Recipe) -> bool:
    """Whether it is one training-free score alone."""
    return recipe.train_on == "nothing" and recipe.score.combine == "single"
