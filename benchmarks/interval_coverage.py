"""Do intervals hold what they promise? Old and new ones side by side, over redraws of full tables.

A population is known entirely: bivariate normal values, and columns of a benchmark's table. Samples
are drawn from it again and again; counted is how often an interval of 95 % holds what the
population says. `before` is the percentile bootstrap that nas_proxy had, written out here; `now` is
what `nas_proxy.statistics` gives. A few sections count false claims instead.

    python benchmarks/interval_coverage.py --truth TABLE.csv --out OUT.json
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

from nas_proxy.calibrate.settings import bound_confidence, round_sizes
from nas_proxy.statistics import ranks
from nas_proxy.statistics.intervals import jackknife, p_value
from nas_proxy.statistics.ranks import Estimate, Statistic, Values, estimate

RHOS = (0.0, 0.5, 0.8, 0.93, 0.97, 0.99)
COLUMNS = ("cifar10_valid_12", "cifar10_valid_200")
REFERENCE = "cifar10_test_200"
THRESHOLD, NUM_RECIPES, SAMPLE = 0.7, 10, 48
K, BEST = 5, 0.2
NUM_CONTROLS = 6
Draw = Callable[[int, int], tuple[Values, Values]]  # samples and n -> scores and reference, (r, n)


def main() -> None:
    """Simulate and publish."""
    made = parser(__doc__, data=False)
    made.add_argument("--truth", type=Path, required=True, help="a benchmark's table as CSV")
    made.add_argument("--num-redraws", type=int, default=1000)
    made.add_argument("--num-resamples", type=int, default=200, help="of the bootstrap")
    arguments = made.parse_args()
    rng = np.random.default_rng(0)
    result: dict[str, Any] = {"num_redraws": arguments.num_redraws, "reference": REFERENCE}
    result["num_resamples"] = arguments.num_resamples
    simulation = Simulation(arguments, rng)
    for section in (
        simulation.few,
        simulation.correlations,
        simulation.other_figures,
        simulation.best_part,
        simulation.controls,
        simulation.race,
    ):
        result[section.__name__] = section()
        print(section.__name__, "done", flush=True)
    publish(result, arguments)


def normal(rho: float, rng: np.random.Generator) -> Draw:
    """Bivariate normal values whose Spearman is `rho`."""
    pearson = pearson_of(rho)

    def draw(num: int, n: int) -> tuple[Values, Values]:
        reference, noise = rng.normal(size=(2, num, n))
        return pearson * reference + math.sqrt(1 - pearson**2) * noise, reference

    return draw


def pearson_of(rho: float) -> float:
    """Pearson's correlation of normal values with that Spearman."""
    return 2 * math.sin(math.pi / 6 * rho)


def rows_of(scores: Values, reference: Values, rng: np.random.Generator) -> Draw:
    """Rows of a table, each at most once in a sample."""

    def draw(num: int, n: int) -> tuple[Values, Values]:
        chosen = np.stack([rng.permutation(len(reference))[:n] for _ in range(num)])
        return scores[chosen], reference[chosen]

    return draw


class Bootstrap:
    """The percentile bootstrap over architectures, as it was.

    Args:
        num_resamples: For each sample.
        rng: Of the resamples.
    """

    def __init__(self, num_resamples: int, rng: np.random.Generator) -> None:
        self._num_resamples = num_resamples
        self._rng = rng

    def ends(self, statistic: Statistic, scores: Values, reference: Values) -> tuple[float, float]:
        """Of one sample; NaN where most resamples do not define the statistic."""
        n = reference.shape[-1]
        drawn = self._rng.integers(0, n, (self._num_resamples, n))
        found = statistic(scores[..., drawn], reference[drawn])
        found = found[np.isfinite(found)]
        if len(found) < self._num_resamples / 2:
            return math.nan, math.nan
        low, high = np.quantile(found, [0.025, 0.975])
        return float(low), float(high)


class Count:
    """How often intervals held a true value.

    Args:
        true: The value.
    """

    def __init__(self, true: float) -> None:
        self._true = true
        self._num, self._below, self._above, self._points = 0, 0, 0, 0

    def add(self, low: float, high: float) -> None:
        """Count one interval; NaN is none."""
        if math.isnan(low):
            return
        self._num += 1
        self._below += self._true < low
        self._above += self._true > high
        self._points += low == high

    def row(self) -> dict[str, Any]:
        """In percent: held, the truth lay below it, above it, and it was a point."""
        if not self._num:
            return {"num": 0}
        below, above = (100 * each / self._num for each in (self._below, self._above))
        return {
            "num": self._num,
            "holds": round(100 - below - above, 1),
            "truth_below": round(below, 1),
            "truth_above": round(above, 1),
            "is_a_point": round(100 * self._points / self._num, 1),
        }


def ends(found: Estimate | None) -> tuple[float, float]:
    """Of an estimate; NaN where it has none."""
    if found is None or found.low is None or found.high is None:
        return math.nan, math.nan
    return found.low, found.high


class Simulation:
    """All sections of the table.

    Args:
        arguments: How many redraws and resamples, and the table.
        rng: Draws samples.
    """

    def __init__(self, arguments: Namespace, rng: np.random.Generator) -> None:
        self._num = arguments.num_redraws
        self._rng = rng
        self._bootstrap = Bootstrap(arguments.num_resamples, rng)
        with arguments.truth.open() as file:
            rows = list(csv.DictReader(file))
        self._columns = {
            name: np.array([float(row[name]) for row in rows]) for name in (*COLUMNS, REFERENCE)
        }

    def few(self) -> list[dict[str, Any]]:
        """Spearman below ten architectures, where there is no interval any more."""
        return [
            self._compare(ranks.spearman, "spearman", f"normal, {rho:g}", normal(rho, self._rng), n)
            for rho in (0.8, 0.93)
            for n in (6, 8)
        ]

    def correlations(self) -> list[dict[str, Any]]:
        """Spearman and Kendall."""
        found = []
        for name, draw in self._populations().items():
            for n in (10, 20, 60, 100):
                found.append(self._compare(ranks.spearman, "spearman", name, draw, n))
            found.append(self._compare(ranks.kendall, "kendall", name, draw, 40))
        return found

    def other_figures(self) -> list[dict[str, Any]]:
        """Precision, regret and nDCG; the truth is what samples of that size have on average."""
        n, found = 60, []
        statistics = {
            f"precision@{K}": ranks.precision_at(K),
            "precision@12": ranks.precision_at(12),
            f"regret@{K}": ranks.regret_at(K),
            "regret@1": ranks.regret_at(1),
        }
        for name, draw in self._populations().items():
            for words, statistic in statistics.items():
                found.append(self._compare(statistic, words, name, draw, n))
            found.append(self._ndcg(name, draw, n))
        return found

    def best_part(self) -> list[dict[str, Any]]:
        """Spearman within the best 20 %: 60 and 12 by strata of the score against 72 at random.

        The truth is that of the best 20 % of the population. `shift` is how far the mean of all
        samples lies above it.
        """
        found = []
        for name, draw in self._populations().items():
            true = self._true_within_best(draw)
            counts, values = {"before": Count(true), "now": Count(true)}, {"before": [], "now": []}
            for scores, reference in zip(*draw(self._num, 96), strict=True):
                everyone, uniform = with_strata(scores, self._rng), np.arange(72)
                for kind, drawn, first in (("before", everyone, 60), ("now", uniform, 72)):
                    best = drawn[reference[drawn] >= border(reference[:first])]
                    x, y = scores[best], reference[best]
                    values[kind].append(float(ranks.spearman(x, y)))
                    told = self._bootstrap.ends(ranks.spearman, x, y)
                    counts[kind].add(*(told if kind == "before" else ends(of(x, y))))
            for kind in counts:
                shift = round(float(np.nanmean(values[kind])) - true, 3)
                row = {"population": name, "figure": "within the best 20 %", "kind": kind}
                found.append({**row, "true": round(true, 3), "shift": shift, **counts[kind].row()})
        return found

    def controls(self) -> list[dict[str, Any]]:
        """Six controls as good as the proxy: how often one of them is called beaten."""
        n, found = 60, []
        for rho in (0.5, 0.8, 0.93):
            for shared in (0.0, 0.5):
                told = {"before": 0, "now": 0}
                for _ in range(self._num):
                    scores, reference = self._equals(rho, shared, NUM_CONTROLS + 1, n)
                    pairs = [np.stack([scores[0], other]) for other in scores[1:]]
                    old = (self._bootstrap.ends(DIFFERENCE, pair, reference) for pair in pairs)
                    told["before"] += any(low > 0 for low, _ in old)
                    told["now"] += beats_one(pairs, reference)
                share = {kind: round(100 * num / self._num, 1) for kind, num in told.items()}
                found.append({"spearman": rho, "shared_noise": shared, "n": n, **share})
        return found

    def race(self) -> list[dict[str, Any]]:
        """Ten recipes whose Spearman is the threshold: how often one of them is called trusted."""
        sizes = round_sizes(SAMPLE)
        confidence = bound_confidence(NUM_RECIPES, len(sizes))
        found = []
        for shared in (0.0, 0.5):
            told = {"before": 0, "now": 0}
            for _ in range(self._num):
                scores, reference = self._equals(THRESHOLD, shared, NUM_RECIPES, SAMPLE)
                looks = [(each[:size], reference[:size]) for size in sizes for each in scores]
                # No interval of a figure below the threshold begins above it.
                looks = [look for look in looks if ranks.spearman(*look) > THRESHOLD]
                old = (self._bootstrap.ends(ranks.spearman, *look)[0] for look in looks)
                told["before"] += any(low >= THRESHOLD for low in old)
                new = (estimate(ranks.spearman, *look, confidence=confidence) for look in looks)
                told["now"] += any(ends(each)[0] >= THRESHOLD for each in new)
            share = {kind: round(100 * num / self._num, 1) for kind, num in told.items()}
            found.append({"threshold": THRESHOLD, "shared_noise": shared, "n": SAMPLE, **share})
        return found

    def _populations(self) -> dict[str, Draw]:
        made = {f"normal, {rho:g}": normal(rho, self._rng) for rho in RHOS}
        for name in COLUMNS:
            made[name] = rows_of(self._columns[name], self._columns[REFERENCE], self._rng)
        return made

    def _compare(
        self, statistic: Statistic, words: str, population: str, draw: Draw, n: int
    ) -> dict[str, Any]:
        if words in ("spearman", "kendall"):
            true = self._true(statistic, draw)
        else:
            true = float(np.mean([statistic(*draw(200, n)) for _ in range(20)]))
        before, now = Count(true), Count(true)
        for scores, reference in zip(*draw(self._num, n), strict=True):
            before.add(*self._bootstrap.ends(statistic, scores, reference))
            now.add(*ends(estimate(statistic, scores, reference)))
        row = {"population": population, "figure": words, "n": n, "true": round(true, 3)}
        return {**row, "before": before.row(), "now": now.row()}

    def _ndcg(self, population: str, draw: Draw, n: int) -> dict[str, Any]:
        """What the jackknife would give, which is why there is no interval."""
        statistic = ranks.ndcg_at(12)
        true = float(np.mean([statistic(*draw(200, n)) for _ in range(20)]))
        before, jack = Count(true), Count(true)
        for scores, reference in zip(*draw(self._num, n), strict=True):
            before.add(*self._bootstrap.ends(statistic, scores, reference))
            left_out = statistic.left_out(scores, reference)
            jack.add(*jackknife(float(statistic(scores, reference)), left_out))
        row = {"population": population, "figure": "nDCG@12", "n": n, "true": round(true, 3)}
        return {**row, "before": before.row(), "jackknife": jack.row(), "now": {"num": 0}}

    def _true(self, statistic: Statistic, draw: Draw) -> float:
        """Of the population: all rows of a table, or many samples of normal values."""
        num = len(self._columns[REFERENCE])
        return float(np.mean([statistic(*draw(1, num)) for _ in range(20)]))

    def _true_within_best(self, draw: Draw) -> float:
        num = len(self._columns[REFERENCE])
        found = []
        for _ in range(40):
            (scores,), (reference,) = draw(1, num)
            best = reference >= border(reference)
            found.append(float(ranks.spearman(scores[best], reference[best])))
        return float(np.mean(found))

    def _equals(self, rho: float, shared: float, num: int, n: int) -> tuple[Values, Values]:
        """Scores `(num, n)` that are all as good, and whose noises have so much in common."""
        pearson = pearson_of(rho)
        reference, common = self._rng.normal(size=(2, n))
        own = self._rng.normal(size=(num, n))
        noise = math.sqrt(shared) * common + math.sqrt(1 - shared) * own
        return pearson * reference + math.sqrt(1 - pearson**2) * noise, reference


DIFFERENCE = ranks.spearman_difference


def of(scores: Values, reference: Values) -> Estimate | None:
    """Spearman with its interval."""
    return estimate(ranks.spearman, scores, reference)


def border(reference: Values) -> float:
    """The reference of the last one of the best part."""
    return float(np.sort(reference)[-ranks.num_best(BEST, len(reference))])


def with_strata(scores: Values, rng: np.random.Generator) -> np.ndarray:
    """Positions of the first 60 and of 12 of the 36 others, three from each stratum of the score.

    The strata are the best eighth, the next eighth, the next quarter and the worse half.
    """
    order = 60 + np.argsort(-scores[60:96])
    parts = np.split(order, [round(share * 36) for share in (1 / 8, 1 / 4, 1 / 2)])
    return np.concatenate([np.arange(60), *(rng.permutation(part)[:3] for part in parts)])


def beats_one(pairs: Sequence[Values], reference: Values) -> bool:
    """Whether any control is called beaten, with Holm's correction over all of them."""
    tests = []
    for pair in pairs:
        found = estimate(DIFFERENCE, pair, reference)
        if found is not None and found.high is not None:
            tests.append((p_value(found.value, found.high, len(reference)), found.value))
    for left, (p, value) in zip(range(len(tests), 0, -1), sorted(tests), strict=True):
        if p > 0.05 / left:
            return False
        if value > 0:
            return True
    return False


if __name__ == "__main__":
    main()
