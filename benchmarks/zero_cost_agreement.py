"""Do the zero-cost scores order architectures as the published ones do, and what do they cost?

Measures every score on NAS-Bench-201 networks of full size with real CIFAR-10 images, and
correlates it by rank with the published column of the same architectures. Published weights,
batches and image orders were drawn at random and are not known; so each score is measured with two
draws of our own weights too: their agreement with one another is about as much as can be expected.
Only architectures that all published suites treat alike are drawn, those without unreachable
operations.

    python benchmarks/zero_cost_agreement.py --data-root DATA --truth TRUTH \
        --out results/benchmarks/zero_cost_agreement.json

TRUTH is a folder with `nb201_scores_dev.csv` and `nb201_cifar10_dev.csv`. Some twenty seconds of
one core for each architecture.
"""

from __future__ import annotations

import csv
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import cifar10_factory, parser, publish

from nas_proxy.errors import required
from nas_proxy.registry import SCORES
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.statistics import ranks
from nas_proxy.train.settings import TrainSettings

# Score, and the column that its authors or NASLib's zero-cost suite published.
PUBLISHED = {
    "num_params": "naslib_params",
    "flops": "naslib_flops",
    "num_layers": None,
    "synflow": "naslib_synflow",
    "log_synflow": "freerea_logsynflow",
    "naswot": "naslib_nwot",
    "jacobian_covariance": "naslib_jacov",
    "grad_norm": "naslib_grad_norm",
    "snip": "naslib_snip",
    "grasp": "naslib_grasp",
    "fisher": "naslib_fisher",
    "zen": "naslib_zen",
    "zico": None,
    "meco": None,
}
SEEDS = (0, 1)  # of the weights
FAILED = -1e8  # what NASLib writes where a score is not finite


def main() -> None:
    """Measure, print the table, write the JSON file."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--truth", type=Path, required=True, help="folder of the tables")
    arguments_parser.add_argument("--num-architectures", type=int, default=60)
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(1)

    rows = random.Random(0).sample(read_rows(arguments.truth), arguments.num_architectures)
    space = NASBench201Space()
    factory = cifar10_factory(
        TrainSettings(num_steps=1), space, data_root=arguments.data_root, device=arguments.device
    )
    evaluator = replace(factory, train_on=None).build()
    values: dict[str, list[list[float]]] = {name: [] for name in PUBLISHED}
    seconds: dict[str, list[float]] = {name: [] for name in PUBLISHED}
    for number, row in enumerate(rows, start=1):
        architecture = space.from_string(row["arch_str"])
        for name in PUBLISHED:
            alone = replace(evaluator, scores={name: SCORES.get(name)()})
            evaluations = [alone.evaluate(architecture, seed) for seed in SEEDS]
            values[name].append([e.signals.get(name, math.nan) for e in evaluations])
            seconds[name].extend(e.core_seconds for e in evaluations)
            for evaluation in evaluations:
                if evaluation.reason:
                    print(f"{name} on {row['arch_str']}: {evaluation.reason}", flush=True)
        print(f"{number} of {len(rows)}", flush=True)

    publish(
        {
            "num_architectures": len(rows),
            "scores": {
                name: {
                    **agreement(np.array(values[name]), rows, column),
                    "core_seconds_per_architecture": round(float(np.mean(seconds[name])), 2),
                }
                for name, column in PUBLISHED.items()
            },
        },
        arguments,
    )


def read_rows(folder: Path) -> list[dict[str, str]]:
    """Architectures with all published scores, and `accuracy` beside them."""
    with (folder / "nb201_cifar10_dev.csv").open() as file:
        accuracies = {row["arch_str"]: row["cifar10_test_200"] for row in csv.DictReader(file)}
    with (folder / "nb201_scores_dev.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = [column for column in PUBLISHED.values() if column is not None]
    found = [
        {**row, "accuracy": accuracies[row["arch_str"]]}
        for row in rows
        if all(row[c] and math.isfinite(float(row[c])) and float(row[c]) != FAILED for c in columns)
    ]
    print(f"{len(found)} of {len(rows)} architectures have every published score", flush=True)
    return found


def agreement(values: np.ndarray, rows: list[dict[str, str]], column: str | None) -> dict[str, Any]:
    """Rank correlations of one score, `(num_architectures, 2)`, where both draws are defined."""
    defined = np.isfinite(values).all(axis=1)
    first, second = values[defined].T

    def correlate(reference: np.ndarray) -> dict[str, float | None]:
        estimate = ranks.estimate(ranks.spearman, first, reference)
        found = vars(required(estimate, "the correlation"))
        return {k: None if v is None else round(v, 3) for k, v in found.items()}

    def column_of(name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in rows])[defined]

    return {
        "published": column,
        "n": int(defined.sum()),
        "spearman_with_published": None if column is None else correlate(column_of(column)),
        "spearman_with_other_weights": correlate(second),
        "spearman_with_accuracy": correlate(column_of("accuracy")),
    }


if __name__ == "__main__":
    main()
