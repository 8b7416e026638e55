"""Does a validation that stops when its verdict is settled keep its promises? What does it save?

Populations are known entirely: bivariate normal values, columns of a benchmark's table, and its
reference with noise. Samples are drawn from them again and again, and looked at as a sequential
validation looks. `shipped` is the way in which `nas_proxy.statistics.sequential` spends the chance
of error; beside it the two of every textbook at the same error, which depend on the maximum.

    python benchmarks/sequential_coverage.py --truth TABLE.csv --out OUT.json
"""

from __future__ import annotations

import csv
import math
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import parser, publish
from interval_coverage import REFERENCE, Draw, normal, rows_of
from scipy import stats

from nas_proxy.statistics import ranks
from nas_proxy.statistics.intervals import normal_quantile
from nas_proxy.statistics.ranks import Values
from nas_proxy.statistics.sequential import (
    ERROR,
    look_confidences,
    look_sizes,
    spending_confidences,
)

THRESHOLD = 0.7
MAXIMUM = 72
RHOS = (0.5, 0.7, 0.85, 0.93, 0.97)
_BATCH = 50  # samples at once


def main() -> None:
    """Simulate and publish."""
    made = parser(__doc__, data=False)
    made.add_argument("--truth", type=Path, required=True, help="a benchmark's table as CSV")
    made.add_argument("--num-redraws", type=int, default=4000)
    arguments = made.parse_args()
    result: dict[str, Any] = {"num_redraws": arguments.num_redraws, "max": MAXIMUM}
    result["sequential"] = _rows(arguments)
    publish(result, arguments)


def _rows(arguments: Namespace) -> list[dict[str, Any]]:
    """Every population under every way to spend the chance of error."""
    sizes = look_sizes(MAXIMUM)
    ways = {
        "shipped": look_confidences(sizes),
        "Pocock": spending_confidences(sizes, pocock(MAXIMUM), ERROR),
        "O'Brien-Fleming": spending_confidences(sizes, obrien(MAXIMUM), ERROR),
    }
    found = []
    for name, threshold, draw, true in _populations(arguments):
        scores, reference = draw(arguments.num_redraws, MAXIMUM)
        looks = [fisher_parts(scores[:, :size], reference[:, :size]) for size in sizes]
        for way, confidences in ways.items():
            row = {"population": name, "spearman": round(true, 3)}
            row |= {"threshold": round(threshold or true, 3)}
            row |= {"num_looks": len(sizes), "spending": way}
            found.append(row | _judged(looks, sizes, confidences, threshold or true, true))
    return found


def _judged(
    looks: Sequence[tuple[Values, Values]],
    sizes: Sequence[int],
    confidences: Sequence[float],
    threshold: float,
    true: float,
) -> dict[str, Any]:
    """What comes out on all samples."""
    pairs = zip(looks, sizes, confidences, strict=True)
    ends = np.stack([intervals(*parts, size, sure) for parts, size, sure in pairs])
    above, below = ends[:, 0] >= threshold, ends[:, 1] < threshold
    done = above | below
    last = np.where(done.any(axis=0), done.argmax(axis=0), len(sizes) - 1)
    each = np.arange(ends.shape[-1])
    low, high, used = ends[last, 0, each], ends[last, 1, each], np.array(sizes)[last]
    return {
        "reaches": _percent(above[last, each]),
        "misses": _percent(below[last, each]),
        "mean_n": round(float(used.mean()), 1),
        "median_n": int(np.median(used)),
        "n_of_90_percent": int(np.quantile(used, 0.9)),
        "holds": _percent((low <= true) & (true <= high)),
    }


def intervals(middle: Values, error: Values, n: int, confidence: float) -> Values:
    """Lower and upper ends, `(2, num_samples)`, as `ranks.spearman` gives them.

    Args:
        middle: Fisher's z of each sample, `(num_samples,)`.
        error: Its error, likewise.
        n: Members of each sample.
        confidence: Of the intervals.
    """
    half = stats.t.ppf((1 + confidence) / 2, n - 2) * np.maximum(error, 0.7 / math.sqrt(n - 3))
    ends: Values = np.tanh(np.stack([middle - half, middle + half]))
    return ends


def fisher_parts(scores: Values, reference: Values) -> tuple[Values, Values]:
    """Fisher's z of Spearman and its error by leaving each member out, for many samples at once.

    Args:
        scores: `(num_samples, n)`.
        reference: Likewise.
    """
    batches = max(1, len(scores) // _BATCH)
    pairs = zip(np.array_split(scores, batches), np.array_split(reference, batches), strict=True)
    found = [_parts(*pair) for pair in pairs]
    middle, error = (np.concatenate(each) for each in zip(*found, strict=True))
    return middle, error


def _parts(scores: Values, reference: Values) -> tuple[Values, Values]:
    n = scores.shape[-1]
    whole, fewer = (1 - 12 / (m * (m * m - 1)) for m in (n, n - 1))
    middle = np.arctanh(np.clip(ranks.spearman(scores, reference), -whole, whole))
    # Ranks among the others, `(num_samples, left out, kept)`: sorting is not needed again.
    x, y = _ranks_without_each(scores), _ranks_without_each(reference)
    rho = (x * y).sum(axis=-1) / np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    z = np.arctanh(np.clip(rho, -fewer, fewer))
    spread = ((z - z.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    return middle, np.sqrt((n - 1) / n * spread)


def _ranks_without_each(values: Values) -> Values:
    """Centred ranks of all members but one; 0 stands for the one that is left out."""
    n = values.shape[-1]
    above = (np.sign(values[:, None, :] - values[:, :, None]) + 1) / 2  # of each by the left out
    centred = stats.rankdata(values, axis=-1)[:, None, :] - above - n / 2
    centred[:, np.arange(n), np.arange(n)] = 0
    return centred


def _populations(arguments: Namespace) -> list[tuple[str, float | None, Draw, float]]:
    """Name, threshold (None: what is true), samples, and Spearman of the population."""
    rng = np.random.default_rng(0)
    with arguments.truth.open() as file:
        rows = list(csv.DictReader(file))
    reference = np.array([float(row[REFERENCE]) for row in rows])
    columns = {
        name: np.array([float(row[name]) for row in rows])
        for name in ("flops_m", "cifar10_valid_12")
    }
    noise = rng.normal(size=len(reference))
    for rho in (0.7, 0.93):
        columns[f"reference with noise, {rho:g}"] = _noisy(reference, noise, rho)
    found: list[tuple[str, float | None, Draw, float]] = [
        (f"normal, {rho:g}", THRESHOLD, normal(rho, rng), rho)
        for rho in (0.5, 0.7, 0.85, 0.93, 0.97)
    ]
    for name, values in columns.items():
        true = float(ranks.spearman(values, reference))
        threshold = THRESHOLD if name.endswith("0.93") else None
        found.append((name, threshold, rows_of(values, reference, rng), true))
    return found


def _noisy(reference: Values, noise: Values, rho: float) -> Values:
    """The reference's ranks with as much noise as brings Spearman to rho."""
    own = stats.rankdata(reference) / len(reference)
    few, much = 0.0, 10.0
    for _ in range(50):
        middle = (few + much) / 2
        enough = ranks.spearman(own + middle * noise, reference) < rho
        few, much = (few, middle) if enough else (middle, much)
    mixed: Values = own + few * noise
    return mixed


def pocock(maximum: int) -> Callable[[int], float]:
    """Lan and DeMets' function that spends about as much at every look."""
    return lambda size: math.log(1 + (math.e - 1) * size / maximum)


def obrien(maximum: int) -> Callable[[int], float]:
    """The one that spends hardly anything before the end."""
    bound = -normal_quantile(ERROR / 2)
    return lambda size: 2 * float(stats.norm.sf(bound / math.sqrt(size / maximum))) / ERROR


def _percent(told: Any) -> float:
    return round(100 * float(np.mean(told)), 2)


if __name__ == "__main__":
    main()
