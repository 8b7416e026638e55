"""Can the ranking be trusted? Every figure of README's headline table, from one study.

Runs the study of a configuration, or continues it, and reads what its validation found on the
architectures that had no part in the recipe. Then trains some of these on the distilled set, at the
same steps and fidelity as the recipe trains on the full data, and compares the two.

    python benchmarks/rank_fidelity.py configs/cifar10_nasbench201.yaml data.root=DATA ...

with the same overrides as for `nas-proxy run`; writes results/benchmarks/rank_fidelity.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from common import publish, study_parser
from rich.console import Console

from nas_proxy.evaluate.executors import evaluate_all
from nas_proxy.evaluate.log import EvaluationLog, merged
from nas_proxy.scores.combine import RankMean, SingleSignal
from nas_proxy.scores.signals import trained_among, zero_cost_among
from nas_proxy.statistics import ranks
from nas_proxy.statistics.ranks import Estimate
from nas_proxy.study.config import load_config
from nas_proxy.study.console import ConsoleDisplay
from nas_proxy.study.context import StudyContext
from nas_proxy.study.knowledge_distillation import recipe_factory
from nas_proxy.study.pipeline import open_study, run_pipeline
from nas_proxy.types import Architecture, Evaluation
from nas_proxy.validate.values import Point, Points, RankReport

STREAM, DISTILLED = "full stream", "distilled set"

Scores = Mapping[str, float]  # by the id of an architecture


def main() -> None:
    """Run the study, judge, publish."""
    arguments = parse_arguments()
    config = load_config(arguments.config, arguments.overrides)
    display = ConsoleDisplay(Console(stderr=True))
    run_pipeline(config, display)
    points = Points.read(config.layout.points).points
    with open_study(config, display) as study:
        proof = Proof(study, points)
        result = {
            "study": config.study_name,
            "seed": config.seed,
            "recipe": study.recipe.recipe.name,
            "calibrated_on": len(study.recipe.references),
            "rows": proof.rows(),
            "distilled_against_stream": proof.distilled_against_stream(arguments.num_distilled),
        }
    arguments.device = config.device
    publish(result, arguments)


def parse_arguments() -> argparse.Namespace:
    """Which study, and how many trainings more."""
    made = study_parser(__doc__, out="rank_fidelity.json")
    made.add_argument("--num-distilled", type=int, default=60)
    return made.parse_args()


class Proof:
    """The figures of a validated study.

    Args:
        study: The study.
        points: What its validation wrote of every architecture.
    """

    def __init__(self, study: StudyContext, points: Sequence[Point]) -> None:
        self._study = study
        self._reference = {
            p.architecture_id: p.reference for p in points if p.reference is not None
        }
        self._rankings: dict[str, Scores] = {
            name: {
                p.architecture_id: score for p in points if (score := p.scores[name]) is not None
            }
            for name in points[0].scores
        }

    def rows(self) -> list[dict[str, Any]]:
        """Every ranking's figures, the recipe's first, with what they cost."""
        folder = self._study.layout.stage("validate")
        found = []
        for row in RankReport.read(folder / "rank_report.json").all_rows:
            scores = self._rankings.get(row.name, {})
            found.append(
                {
                    "ranking": row.name,
                    "n": row.n,
                    "seconds_per_architecture": row.seconds_per_architecture,
                    "spearman": _figures(row.spearman),
                    "spearman_best_20": self._within_best(scores, 0.2),
                    "spearman_best_10": self._within_best(scores, 0.1),
                    "regret_of_pick": self._figure(ranks.regret_at(1), scores),
                    "recipe_minus_this": _figures(row.difference),
                }
            )
        return found

    def distilled_against_stream(self, num_architectures: int) -> list[dict[str, Any]]:
        """The same training on both, by each signal alone and combined as the recipe does.

        Args:
            num_architectures: The first of the validation's.
        """
        on_stream = self._recipe_evaluations()
        chosen = list(on_stream)[:num_architectures]
        recipe = self._study.recipe.recipe
        trained, zero_cost = (f(recipe.score.signals) for f in (trained_among, zero_cost_among))
        twin = replace(recipe, train_on="proxy")
        on_distilled = dict(zip(chosen, self._train(twin, trained, chosen), strict=True))
        without_training = {
            a: replace(e, signals={n: e.signals[n] for n in zero_cost}, core_seconds=0.0)
            for a, e in on_stream.items()
            if e.complete
        }
        usable = [a for a in chosen if a in without_training and on_distilled[a].complete]
        sides = {
            STREAM: [on_stream[a] for a in usable],
            DISTILLED: [merged([on_distilled[a], without_training[a]]) for a in usable],
        }
        combinations = [*((signal,) for signal in trained), trained, recipe.score.signals]
        return [self._compare(signals, sides) for signals in dict.fromkeys(combinations)]

    def _compare(
        self, signals: tuple[str, ...], sides: Mapping[str, Sequence[Evaluation]]
    ) -> dict[str, Any]:
        scores = {}
        for name, evaluations in sides.items():
            score = (
                SingleSignal(signals[0]) if len(signals) == 1 else RankMean(signals, evaluations)
            )
            scores[name] = {e.architecture.id: score.of(e) for e in evaluations}
        return {
            "signals": list(signals),
            "n": len(scores[STREAM]),
            **{name: self._figure(ranks.spearman, found) for name, found in scores.items()},
            "distilled_minus_stream": self._difference(scores[DISTILLED], scores[STREAM]),
        }

    def _recipe_evaluations(self) -> dict[Architecture, Evaluation]:
        log = EvaluationLog(self._study.layout.stage_log("validate", "proxy"))
        known = {e.architecture.id: e for e in log}
        return {known[i].architecture: known[i] for i in self._reference if i in known}

    def _train(
        self, recipe: Any, signals: tuple[str, ...], architectures: Sequence[Architecture]
    ) -> list[Evaluation]:
        study = self._study
        log = EvaluationLog(study.layout.folder / "rank_fidelity" / "distilled.jsonl")
        with study.display.progress("training on the distilled set") as progress:
            return evaluate_all(
                study.executor,
                recipe_factory(study, recipe, signals),
                architectures,
                study.config.seed,
                log,
                progress,
            )

    def _within_best(self, scores: Scores, fraction: float) -> dict[str, Any] | None:
        values = sorted(self._reference.values(), reverse=True)
        threshold = values[max(1, round(fraction * len(values))) - 1]
        best = {i: s for i, s in scores.items() if self._reference.get(i, -np.inf) >= threshold}
        return self._figure(ranks.spearman, best)

    def _figure(self, statistic: ranks.Statistic, scores: Scores) -> dict[str, Any] | None:
        shared = [i for i in scores if i in self._reference]
        found = ranks.estimate(
            statistic,
            np.array([scores[i] for i in shared]),
            np.array([self._reference[i] for i in shared]),
        )
        return _plain(found, len(shared))

    def _difference(self, first: Scores, second: Scores) -> dict[str, Any] | None:
        shared = [i for i in first if i in second and i in self._reference]
        found = ranks.estimate(
            ranks.spearman_difference,
            np.array([[side[i] for i in shared] for side in (first, second)]),
            np.array([self._reference[i] for i in shared]),
        )
        return _plain(found, len(shared))


def _plain(found: Estimate | None, n: int) -> dict[str, Any] | None:
    return None if found is None else {**vars(found), "n": n}


def _figures(found: Estimate | None) -> dict[str, Any] | None:
    return None if found is None else vars(found)


if __name__ == "__main__":
    main()
