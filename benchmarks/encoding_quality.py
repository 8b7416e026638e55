"""What should a calibrated score learn from: one-hot choices, graph features, or both?

On NAS-Bench-201's published accuracies on CIFAR-10, with published zero-cost scores and without:
nothing is trained. From so many architectures with their validation accuracy after 200 epochs,
drawn at random, a model predicts the others, of which those that are the same network as a known
one are left out; it is judged by their test accuracy. Every architecture here is development data:
the figures choose defaults, and prove nothing about them.

    python benchmarks/encoding_quality.py --truth TRUTH --out OUT.json

TRUTH is a folder with `nb201_scores_dev.csv` and `nb201_cifar10_dev.csv`. Some ten minutes of
one core.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import parser, publish

from nas_proxy.scores.calibrated import CalibratedScore, Encode
from nas_proxy.search_spaces.nasbench201 import OPERATIONS, NASBench201Space
from nas_proxy.statistics import ranks
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status

# Signals, and their published columns; complete but for networks that their input does not reach.
SCORES = {"naswot": "freerea_naswot", "log_synflow": "freerea_logsynflow", "flops": "flops_m"}
BEST = {"spearman": 1.0, "best_20": 0.2, "best_10": 0.1}
REGRESSORS = ("single_kernel", "gaussian_process")
NOTES = (
    "All architectures are development data: they chose features, kernels and priors.",
    "The interval holds 95 % of the random splits; it is not one of the mean.",
    "Published scores: NASWOT and log-SynFlow of FreeREA, and the benchmark's FLOPs.",
)


@dataclass(frozen=True)
class Known:
    """One architecture with everything that is published of it.

    Attributes:
        evaluation: With the zero-cost scores as signals.
        label: Validation accuracy.
        truth: Test accuracy.
        form: The same for genotypes of one network.
    """

    evaluation: Evaluation
    label: float
    truth: float
    form: str


def main() -> None:
    """Predict, print the table, write the JSON file."""
    arguments = parse_arguments(__doc__, num_splits=30)
    torch.set_num_threads(1)
    space = NASBench201Space()
    known = read(space, arguments.truth)[: arguments.num_architectures]
    encodings, seconds = encodings_of(space, [each.evaluation.architecture for each in known])
    jobs = [
        (known, num_labels, arguments.num_splits, signals, encoding, encode)
        for num_labels in arguments.num_labels
        for signals in ((), tuple(SCORES))
        for encoding, encode in {"none": None, **encodings}.items()
        if signals or encode
    ]
    with ProcessPoolExecutor(arguments.num_workers, mp_context=get_context("fork")) as pool:
        found = list(pool.map(compare, *zip(*jobs, strict=True)))
    rows = [row for pair in found for row in pair]
    publish(
        {
            "notes": NOTES,
            "num_architectures": len(known),
            "num_splits": arguments.num_splits,
            "graph_core_seconds_per_architecture": round(seconds, 4),
            "rows": rows,
        },
        arguments,
    )


def parse_arguments(description: str | None, *, num_splits: int) -> argparse.Namespace:
    """Where the tables are, and how many splits, labels, architectures and processes."""
    made = parser(description, data=False)
    made.add_argument("--truth", type=Path, required=True, help="folder of the tables")
    made.add_argument("--num-splits", type=int, default=num_splits)
    made.add_argument("--num-labels", type=int, nargs="+", default=[24, 48, 100])
    made.add_argument("--num-architectures", type=int, default=1000)
    made.add_argument("--num-workers", type=int, default=1)
    return made.parse_args()


def read(space: NASBench201Space, folder: Path) -> list[Known]:
    """All architectures with the three scores."""
    with (folder / "nb201_scores_dev.csv").open() as file:
        scores = {row["arch_str"]: row for row in csv.DictReader(file)}
    with (folder / "nb201_cifar10_dev.csv").open() as file:
        rows = [{**row, **scores[row["arch_str"]]} for row in csv.DictReader(file)]
    found = []
    for row in rows:
        signals = {name: float(row[column] or "nan") for name, column in SCORES.items()}
        if all(map(math.isfinite, signals.values())):
            architecture = space.from_string(row["arch_str"])
            fidelity = Fidelity("", 0, 0, 32)
            evaluation = Evaluation(architecture, fidelity, 0, Status.COMPLETE, signals=signals)
            label, truth = float(row["cifar10_valid_200"]), float(row["cifar10_test_200"])
            found.append(Known(evaluation, label, truth, space.canonical_form(architecture)))
    return found


def one_hot(architecture: Architecture) -> torch.Tensor:
    """One digit for each operation on each edge."""
    genotype = architecture.genotype
    return torch.tensor([float(own == name) for own in genotype for name in OPERATIONS])


def encodings_of(
    space: NASBench201Space, architectures: Sequence[Architecture]
) -> tuple[dict[str, Encode], float]:
    """The three encodings, and the core-seconds that tracing an architecture takes."""
    started = time.process_time()
    graph = {a: space.features(a) for a in architectures}
    seconds = (time.process_time() - started) / len(architectures)
    digits = {a: one_hot(a) for a in architectures}
    both = {a: torch.cat([graph[a], digits[a]]) for a in architectures}
    encodings: dict[str, Encode] = {
        "one_hot": digits.__getitem__,
        "graph": graph.__getitem__,
        "both": both.__getitem__,
    }
    return encodings, seconds


def compare(
    known: Sequence[Known],
    num_labels: int,
    num_splits: int,
    signals: tuple[str, ...],
    encoding: str,
    encode: Encode | None,
) -> list[dict[str, Any]]:
    """One row for each regressor: the same splits for all."""
    figures: dict[str, list[list[float]]] = {name: [] for name in REGRESSORS}
    seconds = dict.fromkeys(REGRESSORS, 0.0)
    for seed in range(num_splits):
        order = np.random.default_rng(seed).permutation(len(known))
        sample = [known[index] for index in order[:num_labels]]
        forms = {each.form for each in sample}
        others = [known[i] for i in order[num_labels:] if known[i].form not in forms]
        references = {each.evaluation.architecture: each.label for each in sample}
        for name in REGRESSORS:
            started = time.process_time()
            score = CalibratedScore(
                signals, [each.evaluation for each in sample], references, encode, name
            )
            predicted = score.predict_all([each.evaluation for each in others])
            seconds[name] += time.process_time() - started
            figures[name].append(agreements([p.mean for p in predicted], others))
    return [
        {
            "num_labels": num_labels,
            "signals": list(signals),
            "encoding": encoding,
            "regressor": name,
            **{
                figure: summary([split[number] for split in figures[name]])
                for number, figure in enumerate(BEST)
            },
            "core_seconds": round(seconds[name] / num_splits, 3),
        }
        for name in REGRESSORS
    ]


def agreements(predicted: Sequence[float], others: Sequence[Known]) -> list[float]:
    """Spearman's rho over all, and within the best parts by test accuracy."""
    truth, scores = np.array([each.truth for each in others]), np.array(predicted)
    found = []
    for share in BEST.values():
        best = truth >= np.quantile(truth, 1 - share)
        found.append(float(ranks.spearman(scores[best], truth[best])))
    return found


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean over the splits, its standard error, and what 95 % of them lie between."""
    low, high = np.nanquantile(values, [0.025, 0.975])
    error = np.nanstd(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    found = {"mean": np.nanmean(values), "standard_error": error, "low": low, "high": high}
    return {name: round(float(value), 3) for name, value in found.items()}


if __name__ == "__main__":
    main()
