"""The known failure of distilled sets, beside the recipe that mends it, on the same architectures.

Naive: a few distilled images of each class, hard labels, candidates ranked by their validation
accuracy after training on them. Mended: the recipe of a finished study. Both rank the first
architectures of that study's validation, which had no part in the recipe.

    python benchmarks/known_failure.py configs/cifar10_nasbench201.yaml data.root=DATA ...

with the overrides of the study; writes results/benchmarks/known_failure.json and a picture beside
it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import publish, study_parser
from matplotlib.figure import Figure
from rich.console import Console

from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.evaluate.executors import evaluate_all
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.scores.combine import ScoreSettings
from nas_proxy.statistics import ranks
from nas_proxy.study.config import load_config
from nas_proxy.study.console import ConsoleDisplay
from nas_proxy.study.knowledge_distillation import recipe_factory
from nas_proxy.study.pipeline import open_study, run_pipeline
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture
from nas_proxy.validate.values import Points, RankReport

SIGNAL = "val_accuracy"
NAIVE_CONFIG = ["calibrate=null", "validate=null", "recipe=configured"]


def main() -> None:
    """Distil a small set, train on it, compare with the study, draw."""
    arguments = parse_arguments()
    study = load_config(arguments.config, arguments.overrides)
    points = Points.read(study.layout.points).points
    points = points[: arguments.num_architectures]
    report = RankReport.read(study.layout.rank_report)
    recipe_name = report.judged.name
    drawn = [p.architecture for p in points]
    naive = f"{arguments.images_per_class} distilled images per class, hard labels, {SIGNAL}"
    sides: dict[str, Mapping[str, float | None]] = {
        naive: train_naively(arguments, drawn),
        recipe_name: {p.architecture_id: p.scores[recipe_name] for p in points},
    }
    reference = {p.architecture_id: p.reference for p in points if p.reference is not None}
    result = {
        "reference": report.reference_name,
        "rankings": [judged(name, scores, reference) for name, scores in sides.items()],
    }
    draw(sides, reference, result, arguments.out.with_suffix(".png"))
    arguments.device = study.device
    publish(result, arguments)


def parse_arguments() -> argparse.Namespace:
    """Which study, and how naive."""
    made = study_parser(__doc__, out="known_failure.json")
    made.add_argument("--num-architectures", type=int, default=40)
    made.add_argument("--images-per-class", type=int, default=10)
    made.add_argument("--num-steps", type=int, default=200)
    return made.parse_args()


def train_naively(
    arguments: argparse.Namespace, architectures: Sequence[Architecture]
) -> dict[str, float]:
    """Validation accuracy after training on a small distilled set, by the architecture's id."""
    overrides = [
        *(each for each in arguments.overrides if not each.startswith(("calibrate", "validate"))),
        *NAIVE_CONFIG,
        f"distill.images_per_class={arguments.images_per_class}",
        "study_name=known_failure",
    ]
    config = load_config(arguments.config, overrides)
    display = ConsoleDisplay(Console(stderr=True))
    run_pipeline(config, display, last="distill")
    recipe = Recipe(
        name="naive",
        train_on="proxy",
        train=TrainSettings(
            num_steps=arguments.num_steps,
            batch_size=50,
            space_fidelity=dict(config.space.reduced_fidelity),
            num_val_images=4000,
        ),
        score=ScoreSettings(signals=(SIGNAL,)),
    )
    log = EvaluationLog(config.layout.folder / "naive.jsonl")
    with open_study(config, display) as study, display.progress("training naively") as progress:
        factory = recipe_factory(study, recipe)
        done = evaluate_all(
            study.executor, factory, architectures, study.config.seed, log, progress
        )
    return {e.architecture.id: e.signals[SIGNAL] for e in done if e.complete}


def judged(
    name: str, scores: Mapping[str, float | None], reference: Mapping[str, float]
) -> dict[str, Any]:
    """Spearman with its interval on the architectures that have both."""
    shared = [i for i, score in scores.items() if score is not None]
    found = ranks.estimate(
        ranks.spearman,
        np.array([scores[i] for i in shared], dtype=np.float64),
        np.array([reference[i] for i in shared]),
    )
    return {"name": name, "n": len(shared), "spearman": None if found is None else vars(found)}


def draw(
    sides: Mapping[str, Mapping[str, float | None]],
    reference: Mapping[str, float],
    result: Mapping[str, Any],
    path: Path,
) -> None:
    """Two panels: the rank by each side against the rank by full training."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, scores, ranking in zip(panels, sides.values(), result["rankings"], strict=True):
        shared = [i for i, score in scores.items() if score is not None]
        x, y = (np.argsort(np.argsort([of[i] for i in shared])) + 1 for of in (scores, reference))
        axes.plot([1, len(shared)], [1, len(shared)], color="#8c959f", linestyle="--", linewidth=1)
        axes.plot(x, y, "o", color="#0969da")
        estimate = ranks.Estimate(**ranking["spearman"])
        axes.set_title(f"{ranking['name']}\nSpearman {estimate}, n = {len(shared)}", fontsize=9)
        axes.set_xlabel("rank by the proxy (right is better)")
    panels[0].set_ylabel("rank by full training (up is better)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
