"""Should a calibrated score choose among many signals, or learn from all of them?

On NAS-Bench-201's published accuracies on CIFAR-10, with published zero-cost scores and the
accuracy after twelve epochs as the signal of a short training: nothing is trained. From so many
architectures with their validation accuracy after 200 epochs, a model predicts the others by test
accuracy, as in `encoding_quality.py`. Selection is forward, at most three signals, by Spearman's
rho plus nDCG of out-of-fold predictions of the labelled architectures.

    python benchmarks/signal_selection.py --truth TRUTH --out OUT.json

Every architecture here is development data: the figures choose defaults, and prove nothing about
them. Some minutes of one core for each hundred splits and pool.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import publish
from encoding_quality import BEST, Known, agreements, encodings_of, parse_arguments, summary
from encoding_quality import read as read_known

from nas_proxy.scores.calibrated import CalibratedScore, Encode
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.statistics import ranks

# Registered scores, whose directions are known, and their published columns.
ZERO_COST = {
    **{"naswot": "freerea_naswot", "log_synflow": "freerea_logsynflow", "flops": "flops_m"},
    **{"num_params": "params_m", "fisher": "naslib_fisher", "grad_norm": "naslib_grad_norm"},
    **{"grasp": "naslib_grasp", "jacobian_covariance": "naslib_jacov", "snip": "naslib_snip"},
    **{"synflow": "naslib_synflow", "zen": "naslib_zen"},
}
TRAINED = {"val_accuracy": "cifar10_valid_12"}
THREE = ("naswot", "log_synflow", "flops")
MAX_CHOSEN = 3
LEAST_GAIN = 0.003  # of the criterion, below which no further signal is taken


def main() -> None:
    """Predict, print the table, write the JSON file."""
    arguments = parse_arguments(__doc__, num_splits=20)
    torch.set_num_threads(1)
    space = NASBench201Space()
    known = read(space, arguments.truth)[: arguments.num_architectures]
    encodings, _ = encodings_of(space, [each.evaluation.architecture for each in known])
    encode = encodings["graph"]
    everything = (*ZERO_COST, *TRAINED)
    plans: list[tuple[str, tuple[str, ...], bool]] = [
        ("no signal", (), False),
        ("three zero-cost scores", THREE, False),
        ("all zero-cost scores", tuple(ZERO_COST), False),
        ("zero-cost scores, selected", tuple(ZERO_COST), True),
        ("the short training and three zero-cost scores", (*THREE, *TRAINED), False),
        ("everything", everything, False),
        ("everything, selected", everything, True),
    ]
    jobs = [
        (known, num_labels, arguments.num_splits, *plan, encode)
        for num_labels in arguments.num_labels
        for plan in plans
    ]
    with ProcessPoolExecutor(arguments.num_workers, mp_context=get_context("fork")) as pool:
        rows = list(pool.map(predicted, *zip(*jobs, strict=True)))
    publish(
        {"num_architectures": len(known), "num_splits": arguments.num_splits, "rows": rows},
        arguments,
    )


def read(space: NASBench201Space, folder: Path) -> list[Known]:
    """All architectures that have every signal."""
    columns = {**ZERO_COST, **TRAINED}
    found: dict[str, dict[str, str]] = {}
    for name in ("nb201_scores_dev.csv", "nb201_cifar10_dev.csv"):
        with (folder / name).open() as file:
            for row in csv.DictReader(file):
                found.setdefault(row["arch_str"], {}).update(row)
    complete = []
    for each in read_known(space, folder):
        row = found[space.to_string(each.evaluation.architecture)]
        signals = {name: float(row[column] or "nan") for name, column in columns.items()}
        if all(map(math.isfinite, signals.values())):
            complete.append(replace(each, evaluation=replace(each.evaluation, signals=signals)))
    return complete


def predicted(
    known: Sequence[Known],
    num_labels: int,
    num_splits: int,
    name: str,
    pool: tuple[str, ...],
    selects: bool,
    encode: Encode,
) -> dict[str, Any]:
    """One way to choose signals, over all splits."""
    figures, used = [], Counter[str]()
    for seed in range(num_splits):
        order = np.random.default_rng(seed).permutation(len(known))
        sample = [known[index] for index in order[:num_labels]]
        forms = {each.form for each in sample}
        others = [known[i] for i in order[num_labels:] if known[i].form not in forms]
        signals = selected(sample, pool, encode) if selects else pool
        used.update(signals)
        score = fitted(sample, signals, encode)
        means = [p.mean for p in score.predict_all([each.evaluation for each in others])]
        figures.append(agreements(means, others))
    return {
        "num_labels": num_labels,
        "signals": name,
        **{figure: summary([f[i] for f in figures]) for i, figure in enumerate(BEST)},
        **({"most_often": dict(used.most_common(4))} if selects else {}),
    }


def selected(sample: Sequence[Known], pool: Sequence[str], encode: Encode) -> tuple[str, ...]:
    """At most three signals, each the one that helps most beside those before it."""
    chosen: tuple[str, ...] = ()
    reached = criterion(sample, chosen, encode)
    while len(chosen) < MAX_CHOSEN:
        tried = {s: criterion(sample, (*chosen, s), encode) for s in pool if s not in chosen}
        best = max(tried, key=tried.__getitem__)
        if tried[best] < reached + LEAST_GAIN:
            break
        chosen, reached = (*chosen, best), tried[best]
    return chosen


def criterion(sample: Sequence[Known], signals: tuple[str, ...], encode: Encode) -> float:
    """Spearman's rho plus nDCG of the best fifth, of out-of-fold predictions."""
    found = fitted(sample, signals, encode).out_of_fold()
    scores = np.array([found[each.evaluation.architecture].mean for each in sample])
    labels = np.array([each.label for each in sample])
    gain = ranks.ndcg_at(max(3, len(sample) // 5))(scores, labels)
    return float(ranks.spearman(scores, labels) + gain)


def fitted(sample: Sequence[Known], signals: tuple[str, ...], encode: Encode) -> CalibratedScore:
    """The product's own calibrated score."""
    references = {each.evaluation.architecture: each.label for each in sample}
    return CalibratedScore(signals, [each.evaluation for each in sample], references, encode)


if __name__ == "__main__":
    main()
