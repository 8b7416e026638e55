"""Ranking recipes at 32 pixels on a GPU: correlation with the benchmark's table against seconds.

Each recipe trains the same architectures of NAS-Bench-201's table on real images, side by side; the
table holds the test accuracy after 200 epochs. What time allows counts: n stands in each row.

    python benchmarks/gpu_ranking.py --part prepared/cifar10_part.safetensors --out OUT.json
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gpu_common import PartFactory, Table, gpu_parser, read_part, settings_of

from nas_proxy.data.augment import Augmentation
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.statistics import ranks
from nas_proxy.train.settings import TrainSettings

# The sign that makes high good.
SIGNALS = {"val_loss": -1, "val_accuracy": 1, "train_loss_mean": -1, "train_loss_tail": -1}
SHAPES = {"90 steps, 1 cell": (90, 1), "180 steps, 1 cell": (180, 1), "90 steps, 5 cells": (90, 5)}


def recipes(size: str) -> dict[str, TrainSettings]:
    """Steps and cells; all else is the same."""
    if size == "tiny":
        return {"2 steps, 1 cell": settings_of(size, num_steps=2, space_fidelity={"num_cells": 1})}
    return {
        name: settings_of(
            size,
            num_steps=num_steps,
            space_fidelity={"num_cells": num_cells},
            augmentation=Augmentation(crop=0.125, flip=True),
            norm_statistics="recalibrated",
        )
        for name, (num_steps, num_cells) in SHAPES.items()
    }


def rows(
    found: dict[str, list[dict[str, float]]], seconds: dict[str, list[float]], truth: list[float]
) -> list[dict[str, Any]]:
    """A row for each recipe and signal."""
    made = []
    for name, signals in found.items():
        for signal, sign in SIGNALS.items():
            estimate = ranks.estimate(
                ranks.spearman,
                sign * np.array([each[signal] for each in signals]),
                np.array(truth[: len(signals)]),
                num_resamples=2000,
                rng=np.random.default_rng(0),
            )
            made.append(
                {
                    "recipe": name,
                    "signal": signal,
                    "n": len(signals),
                    "spearman": str(estimate),
                    "seconds_per_architecture": round(float(np.mean(seconds[name])), 3),
                }
            )
    return made


def main() -> None:
    """Train architecture by architecture with all recipes; publish now and then."""
    made = gpu_parser(__doc__, seconds=70)
    made.add_argument("--cuda-graph", action="store_true")
    arguments = made.parse_args()
    part = read_part(arguments.part)
    num = 3 if arguments.size == "tiny" else len(part.table)
    space = NASBench201Space()
    evaluators = {
        name: PartFactory(
            file=arguments.part,
            space=space,
            settings=settings,
            device=arguments.device,
            spec=part.splits.spec,
            num_images=len(part.splits.search_train),
            cuda_graph=arguments.cuda_graph,
        ).build()
        for name, settings in recipes(arguments.size).items()
    }
    table = Table(arguments)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in evaluators}
    seconds: dict[str, list[float]] = {name: [] for name in evaluators}
    truth: list[float] = []
    failed: list[str] = []
    for number, (text, accuracy) in enumerate(list(part.table.items())[:num], start=1):
        if table.seconds_left <= 0:
            break
        evaluations = {n: e.evaluate(space.from_string(text), 0) for n, e in evaluators.items()}
        failed += [e.reason for e in evaluations.values() if not e.complete]
        if all(e.complete for e in evaluations.values()):
            truth.append(accuracy)
            for name, evaluation in evaluations.items():
                found[name].append(dict(evaluation.signals))
                seconds[name].append(evaluation.seconds)
        if number % 5 == 0:
            table.rows = rows(found, seconds, truth)
            table.write(failed=failed)
    table.rows = rows(found, seconds, truth)
    table.write(failed=failed)


if __name__ == "__main__":
    main()
