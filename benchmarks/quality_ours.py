"""This project as a strategy of benchmarks/cost_to_quality.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import optuna
from optuna.trial import TrialState
from quality_bank import part_names
from quality_optuna import WithinPopulation, tpe
from quality_populations import Population, is_raced
from quality_trajectories import Trajectory

from nas_proxy.calibrate.race import Race, best_standing
from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.calibrate.settings import CalibrateSettings
from nas_proxy.evaluate.cascade import cost_until
from nas_proxy.reproducibility import content_hash
from nas_proxy.scores.cascade import CascadeScore, own_labels
from nas_proxy.scores.combine import Score, make_score
from nas_proxy.types import Architecture, Evaluation
from nas_proxy.validate.settings import Reference, ValidateSettings

_CONTROLS = ValidateSettings(reference=Reference(table="-")).controls


@dataclass(frozen=True)
class Ours:
    """This project: calibrate a recipe, search with it, train the finalists in full.

    The race is the product's own, on evaluations that the population holds. A part that several
    recipes read is paid for once in the calibration, and again in the search. Without calibration
    the recipe is the only one that takes part; the reference sample among which its rank mean
    ranks is paid for too.

    Attributes:
        recipes: Whether a recipe takes part.
        num_labels: Size of the calibration sample.
        threshold: That a recipe's bound must reach; the best is taken where none does.
        num_trials: Of the search, proposed by TPE; None: all of the population are scored.
        num_finalists: So many of the best by score are trained in full, one after the other; of
            these the best by validation accuracy is picked.
        label_rung: At the end of which rung the labels are read, counted from the last.
        calibrates: Whether labels are paid for; otherwise a recipe ranks that needs none.
    """

    recipes: Callable[[Recipe], bool] = is_raced
    num_labels: int = CalibrateSettings.num_architectures
    threshold: float = CalibrateSettings.threshold
    num_trials: int | None = None
    num_finalists: int = 10
    label_rung: int = -1
    calibrates: bool = True

    def identity(self, population: Population) -> str:
        """Of the recipes that take part, what they measure, and all options."""
        recipes = [r for r in population.recipes if self.recipes(r)]
        parts = [
            [name, a.id, e.core_seconds, dict(e.signals)]
            for name in sorted({name for recipe in recipes for name in part_names(recipe)})
            for a, e in population.parts[name].items()
        ]
        options = {k: v for k, v in vars(self).items() if k != "recipes"}
        names = [r.name for r in recipes]
        return content_hash("ours", options, names, parts, population.identity)

    def __call__(self, population: Population, seed: int) -> Trajectory:
        """Calibrate, search, train the finalists."""
        trajectory = Trajectory()
        recipes = tuple(filter(self.recipes, population.recipes))
        if any(part.train_on == "proxy" for recipe in recipes for part in recipe.parts):
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
            (recipe,) = recipes
            score = _uncalibrated(population, recipe, seed, trajectory)
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
            if isinstance(score, CascadeScore) and evaluation.complete:
                evaluation = cost_until(evaluation, score.place(evaluation).num_stages)
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
    sample = _sample(population, num_labels, seed)
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


def _uncalibrated(
    population: Population, recipe: Recipe, seed: int, trajectory: Trajectory
) -> Score:
    """The score of a recipe without labels, by a reference sample, which labels a cascade."""
    sample = _sample(population, recipe.num_reference, seed)
    known = list(_measured(population, recipe, sample).values())
    if known:
        trajectory.spend("reference sample", math.fsum(e.core_seconds for e in known))
    if not recipe.stages:
        return make_score(recipe.score, known)
    labels = own_labels(recipe.cascade.scores, known)
    return CascadeScore(recipe.cascade, known, labels, population.features)


def _sample(population: Population, num: int, seed: int) -> list[Architecture]:
    everything = list(population.candidates)
    order = np.random.default_rng(seed).permutation(len(everything))
    return [everything[i] for i in order[:num]]


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


def is_single_score(recipe: Recipe) -> bool:
    """Whether it is one training-free score alone."""
    return recipe.train_on == "nothing" and recipe.score.combine == "single"
