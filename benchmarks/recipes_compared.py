"""Every recipe that ships, on architectures that none of them has seen.

Recipes learn from a calibration sample of a study: from all of it, from a part, or, where they
need no full training, from none of its references. Then they rank the study's validation
architectures. What several recipes need is measured once; a cascade's architectures stand where its
cuts would have ended them, at the cost of the stages that they would have gone through.

    python benchmarks/recipes_compared.py configs/cifar10_nasbench201.yaml data.root=DATA ...

Recipes that train on the distilled set are left out unless --distilled is given.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import publish, study_parser
from rich.console import Console

from nas_proxy.calibrate.recipes import SINGLE_SCORES, Recipe, recipes_by_name, spelt_out
from nas_proxy.errors import StudyError
from nas_proxy.evaluate.table import read_table
from nas_proxy.scores.cascade import CascadeScore
from nas_proxy.statistics import ranks
from nas_proxy.study.config import load_config
from nas_proxy.study.console import ConsoleDisplay
from nas_proxy.study.context import StudyContext
from nas_proxy.study.measured_recipes import RecipeMeasurements
from nas_proxy.study.pipeline import open_study, run_pipeline
from nas_proxy.study.recipe import ActiveRecipe
from nas_proxy.study.samples import draw_validation
from nas_proxy.types import Architecture, Evaluation

BEST = (0.2, 0.1)
Evaluations = Mapping[Architecture, Evaluation]
Scores = Mapping[Architecture, float]


def main() -> None:
    """Measure, learn, rank, publish."""
    arguments = parse_arguments()
    config = load_config(arguments.config, arguments.overrides)
    display = ConsoleDisplay(Console(stderr=True))
    run_pipeline(config, display, last="distill")
    with open_study(config, display) as study:
        result = Comparison(study, arguments).result()
    arguments.device = config.device
    publish(result, arguments)


def parse_arguments() -> argparse.Namespace:
    """Which study, and from how many labels."""
    made = study_parser(__doc__, out="recipes_compared.json")
    made.add_argument("--num-labels", type=int, nargs="+", default=[48, 24])
    made.add_argument("--distilled", action="store_true", help="those on the distilled set too")
    made.add_argument("--most-steps", type=int, help="recipes with a longer training are left out")
    made.add_argument("--without", nargs="+", default=[], help="names of others that are left out")
    made.add_argument(
        "--most-steps-labelled",
        type=int,
        help="longer trainings are not done on the labelled sample: recipes that learn from it and "
        "train for longer are left out, and rank means of longer ones rank among the judged",
    )
    return made.parse_args()


class Comparison:
    """The recipes of a study, side by side."""

    def __init__(self, study: StudyContext, arguments: argparse.Namespace) -> None:
        config = study.config
        recipes = recipes_by_name(config.space, config.train).values()
        self._recipes = [
            recipe
            for recipe in recipes
            if arguments.distilled or all(part.train_on != "proxy" for part in recipe.parts)
            if arguments.most_steps is None or _num_steps(recipe) <= arguments.most_steps
            if recipe.name not in arguments.without
        ]
        self._study = study
        self._num_labels = arguments.num_labels
        self._most_steps = arguments.most_steps_labelled
        self._measurements = RecipeMeasurements(study, tuple(self._recipes))
        self._sample = study.calibration_sample.architectures
        reference = config.validation.reference
        table = read_table(
            Path(reference.table), config.space, reference.architecture, reference.value
        )
        self._fresh = draw_validation(config, config.validation, table, excluded=self._sample)
        self._truth = {a: table.values[a] for a in self._fresh}

    def result(self) -> dict[str, Any]:
        """All rows."""
        labels = self._study.calibration_sample.of(self._sample)
        found = {r.name: self._measurements.of(r, self._fresh) for r in self._recipes}
        rows = []
        for num in (*self._num_labels, 0):
            sample = self._sample[: num or self._num_labels[-1]]
            known = {a: labels[a] for a in sample} if num else {}
            scores = {
                recipe.name: self._scores(recipe, sample, known, found[recipe.name])
                for recipe in self._recipes
                if num or not recipe.needs_labels
            }
            single = self._best_single(sample, known) if num else "meco_alone"
            for recipe in self._recipes:
                of = scores.get(recipe.name)
                uses_labels = any(p.score.combine == "calibrated" for p in recipe.parts)
                if of is None or uses_labels == (num == 0 and recipe.name != "self_labelled"):
                    continue
                rows.append(
                    {
                        "recipe": recipe.name,
                        "num_labels": num,
                        **self._figures(of, found[recipe.name], recipe),
                        "minus_single": self._minus(of, scores[single]),
                        "single": single,
                        "minus_meco": self._minus(of, scores["meco_alone"]),
                    }
                )
        return {"num_fresh": len(self._fresh), "rows": rows}

    def _scores(
        self,
        recipe: Recipe,
        sample: Sequence[Architecture],
        labels: Mapping[Architecture, float],
        found: Evaluations,
    ) -> tuple[Scores, Mapping[Architecture, int]] | None:
        """Scores of the fresh architectures, and the stage that each reaches."""
        if self._is_too_long(recipe):
            if any(part.score.combine == "calibrated" for part in recipe.parts):
                return None
            sample, labels = self._fresh, {}
        known = self._measurements.of(recipe, sample)
        spelt = spelt_out(recipe, self._study.config.train)
        active = ActiveRecipe(spelt, [known[a] for a in sample] if labels else (), labels)
        try:
            score = active.score(self._study.config.space, [known[a] for a in sample])
        except StudyError as error:
            print(recipe.name, error, flush=True)
            return None
        complete = {a: e for a, e in found.items() if e.complete}
        if isinstance(score, CascadeScore):
            places = {a: score.place(e) for a, e in complete.items()}
            print(recipe.name, len(labels), score.words, flush=True)
            return (
                {a: p.score for a, p in places.items()},
                {a: p.num_stages for a, p in places.items()},
            )
        return {a: score.of(e) for a, e in complete.items()}, dict.fromkeys(complete, 1)

    def _is_too_long(self, recipe: Recipe) -> bool:
        """Whether it trains for longer than the labelled sample is trained."""
        return self._most_steps is not None and _num_steps(recipe) > self._most_steps

    def _best_single(self, sample: Sequence[Architecture], labels: Scores) -> str:
        """The zero-cost score that ranks the labelled sample best."""
        reached = {}
        for recipe in self._recipes:
            if recipe.name.removesuffix("_alone") in SINGLE_SCORES:
                known = self._measurements.of(recipe, sample)
                score = ActiveRecipe(recipe, [known[a] for a in sample], labels).score(
                    self._study.config.space
                )
                kept = [a for a in sample if known[a].complete]
                sides = ([score.of(known[a]) for a in kept], [labels[a] for a in kept])
                reached[recipe.name] = float(ranks.spearman(*map(np.array, sides)))
        return max(reached, key=reached.__getitem__)

    def _figures(
        self, of: tuple[Scores, Mapping[Architecture, int]], found: Evaluations, recipe: Recipe
    ) -> dict[str, Any]:
        scores, stages = of
        kept = list(scores)
        sides = np.array([scores[a] for a in kept]), np.array([self._truth[a] for a in kept])
        costs = [self._cost(found[a], stages[a], recipe) for a in kept]
        best = {
            f"best_{share:.0%}".replace("%", ""): estimate(*(side[part] for side in sides))
            for share in BEST
            for part in [sides[1] >= np.sort(sides[1])[-ranks.num_best(share, len(kept))]]
        }
        return {
            "n": len(kept),
            "spearman": estimate(*sides),
            **best,
            "core_seconds": round(float(np.mean(costs)), 2),
            "reached": {str(n): list(stages.values()).count(n) for n in set(stages.values())},
        }

    def _cost(self, evaluation: Evaluation, num_stages: int, recipe: Recipe) -> float:
        """Core-seconds of the stages that an architecture goes through."""
        if not recipe.stages:
            return self._study.cost(evaluation)
        share = sum(evaluation.stage_seconds[:num_stages]) / sum(evaluation.stage_seconds)
        return share * self._study.cost(evaluation)

    def _minus(
        self,
        first: tuple[Scores, Mapping[Architecture, int]],
        second: tuple[Scores, Mapping[Architecture, int]],
    ) -> dict[str, str]:
        """Differences of Spearman to another recipe, over all and within the best fifth."""
        kept = [a for a in first[0] if a in second[0]]
        sides = np.array([[of[0][a] for a in kept] for of in (first, second)])
        truth = np.array([self._truth[a] for a in kept])
        part = truth >= np.sort(truth)[-ranks.num_best(BEST[0], len(kept))]
        difference = ranks.difference_of(ranks.spearman)
        return {
            "all": str(ranks.estimate(difference, sides, truth)),
            "best_20": str(ranks.estimate(difference, sides[:, part], truth[part])),
        }


def _num_steps(recipe: Recipe) -> int:
    """Of its longest training; 0 without one."""
    steps = [part.train.num_steps or 0 for part in recipe.parts if part.train is not None]
    return max(steps, default=0)


def estimate(scores: Any, truth: Any) -> str:
    """Spearman with its interval."""
    return str(ranks.estimate(ranks.spearman, scores, truth))


if __name__ == "__main__":
    main()
