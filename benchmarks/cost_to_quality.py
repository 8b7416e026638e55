"""How good is the final pick, by what everything cost: the figure that people decide by.

Regret of the pick, in percentage points of test accuracy below the best of a population, against
all core-seconds that were spent: for this project (calibrating, searching, training the finalists;
distilling, references and proof each in and out), training-free scores alone, and plain Optuna on
full data (random search and TPE with median and Hyperband pruning, successive halving, random
picks). Everything is looked up in populations that were measured once, over many seeds.

    python benchmarks/cost_to_quality.py --work WORK --truth TRUTH     # NAS-Bench-201 by its table
    python benchmarks/cost_to_quality.py --work WORK --truth TRUTH --num-drawn 500
    python benchmarks/cost_to_quality.py CONFIG data.root=DATA --work WORK --num-bank 200
    python benchmarks/cost_to_quality.py CONFIG data.root=DATA --work WORK --build-only

TRUTH is a folder with `nb201_scores_dev.csv` and `nb201_cifar10_dev.csv`; with a configuration, a
bank of trained networks is filled first (see quality_bank.py). Both at once make one table. All
that is measured and simulated stays in WORK: a killed run goes on. Writes
results/benchmarks/cost_to_quality.json and, with --figure, the curves.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from common import RESULTS, parser, publish
from quality_bank import Bank
from quality_optuna import plain_strategies
from quality_ours import Ours, is_single_score, proof_cost
from quality_populations import (
    NO_LABELS,
    SELF_LABELLED,
    SHORT_ALONE,
    TRAINING_FREE,
    Population,
    is_configured,
    of_bank,
    of_tables,
)
from quality_trajectories import KeptTrajectories, Strategy, Trajectory
from rich.console import Console
from scipy.special import stdtrit

from nas_proxy.calibrate.settings import CalibrateSettings
from nas_proxy.errors import UserError
from nas_proxy.study.config import load_config
from nas_proxy.study.console import ConsoleDisplay
from nas_proxy.validate.settings import Reference, ValidateSettings

OURS, RIVAL = "ours, full references", "TPE + Hyperband"
NO_LABELS_ROW = "ours, no labels"
WITHIN = (0.3, 1.0)  # percentage points below the best
NOTES = (
    "Ours: the race is the product's own; as there, its references are no picks, and one that is "
    "among the ten best by score, which are trained in full one after the other, is trained again.",
    "Proposals of every sampler are moved, at no cost, to the nearest architecture of the "
    "population that was not proposed before.",
    "Within a limit: from the cost on from which the mean regret of all seeds stays below it; a "
    "mean begins where the last seed has its first pick.",
    "Every pick is by validation accuracy; the regret is by test accuracy.",
)
_NUM_TRIALS = 100  # of searches without labels
_PER_DECADE = 8  # points of a curve
_TOP = 4.0  # points of accuracy that the figure shows
_TICKS = (0, 0.05, 0.3, 1, 2, 3, 4)
_SHOWN = {  # colour, line and width
    NO_LABELS_ROW: ("#c0392b", "-", 2.5),
    f"{NO_LABELS_ROW}, self-labelled cascade": ("#e67e22", "-", 2.0),
    OURS: ("#c0392b", "--", 1.5),
    "ours, no calibration": ("#e67e22", "-.", 1.5),
    "training-free: rank mean of all": ("#8e44ad", "--", 1.5),
    "short trainings alone": ("#b7950b", ":", 2.0),
    RIVAL: ("#1f618d", "-", 2.5),
    "ASHA": ("#5dade2", "-", 1.5),
    "random picks": ("#7f8c8d", "-", 1.5),
}
NUM_PROVED = ValidateSettings(reference=Reference(table="-")).num_architectures


def main() -> None:
    """Build what is missing, simulate, publish."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    display = ConsoleDisplay(Console(stderr=True))
    populations = list(read_populations(arguments, display))
    if arguments.build_only:
        return
    tables = []
    for population in populations:
        with display.progress(population.name) as progress:
            trajectories = simulate(population, arguments, progress)
        tables.append(table_of(population, trajectories))
    sizes = {name: getattr(arguments, name) for name in ("num_seeds", "num_labels", "num_drawn")}
    publish({**sizes, "populations": tables}, arguments)
    if arguments.figure is not None:
        draw(tables, arguments.figure)


def parse_arguments() -> argparse.Namespace:
    """Which populations, and how many seeds."""
    made = parser(__doc__, data=False)
    made.add_argument("config", type=Path, nargs="?", help="study of a bank")
    made.add_argument("overrides", nargs="*", metavar="key=value")
    made.add_argument("--work", type=Path, required=True, help="folder of all that is kept")
    made.add_argument("--num-bank", type=int, default=200, help="architectures of the bank")
    made.add_argument("--architectures", type=Path, help="of the bank, one on each line, not drawn")
    made.add_argument("--num-again", type=int, default=0, help="of it, trained with a second seed")
    made.add_argument("--table", type=Path, help="CSV file to write the bank's test accuracies to")
    made.add_argument("--num-rungs", type=int, default=6, help="reports of a full training there")
    made.add_argument("--build-only", action="store_true", help="fill the bank, simulate nothing")
    made.add_argument("--truth", type=Path, help="folder of NAS-Bench-201's tables")
    made.add_argument("--num-table", type=int, default=1000, help="architectures of the table")
    made.add_argument("--num-timed", type=int, default=8, help="of these, whose steps are timed")
    made.add_argument(
        "--evaluations",
        nargs="*",
        default=[],
        metavar="WAY=FILE",
        help="evaluations.jsonl of what was measured of the table's, such as stream_360=FILE",
    )
    made.add_argument("--num-seeds", type=int, default=20)
    made.add_argument("--num-drawn", type=int, help="each seed has so many drawn architectures")
    made.add_argument("--num-candidates", type=int, default=200, help="of searches on full data")
    made.add_argument("--num-labels", type=int, default=48, help="references of a calibration")
    made.add_argument("--threshold", type=float, default=CalibrateSettings.threshold)
    made.add_argument("--figure", type=Path, help="PNG or SVG file of the curves")
    made.set_defaults(out=RESULTS / "cost_to_quality.json")
    arguments = made.parse_args()
    if arguments.truth is None and arguments.config is None:
        made.error("give --truth, or the configuration of a bank, or both")
    if wrong := [each for each in arguments.evaluations if "=" not in each]:
        made.error(f"--evaluations {wrong[0]}: write WAY=FILE, such as stream_360=FILE")
    return arguments


def read_populations(arguments: argparse.Namespace, display: ConsoleDisplay) -> list[Population]:
    """The populations that were asked for; a bank is filled first."""
    found = []
    if arguments.truth is not None and not arguments.build_only:
        logs = {way: Path(file) for way, file in (e.split("=", 1) for e in arguments.evaluations)}
        found.append(
            of_tables(
                arguments.truth,
                logs,
                arguments.num_table,
                arguments.num_timed,
                arguments.work / "step_seconds.json",
            )
        )
    if arguments.config is not None:
        folder = arguments.work / "bank"
        own = [f"results={folder / 'study'}", "search.executor=serial"]
        overrides = [*arguments.overrides, *own, "tracking.enabled=false"]
        try:
            config = load_config(arguments.config, overrides)
            bank = Bank(folder, config, arguments.num_rungs, arguments.architectures)
            bank.build(arguments.num_bank, arguments.num_again, display)
        except UserError as error:
            raise SystemExit(str(error)) from error
        if arguments.table is not None:
            bank.write_table(arguments.num_bank, arguments.table)
        found.append(of_bank(bank, arguments.num_bank))
    return found


def strategies_of(population: Population, arguments: argparse.Namespace) -> dict[str, Strategy]:
    """Every strategy that the population can answer."""
    ours = Ours(num_labels=arguments.num_labels, threshold=arguments.threshold)
    found: dict[str, Strategy] = {
        OURS: ours,
        f"{OURS}, 20 trials": replace(ours, num_trials=20),
    }
    if any(map(is_single_score, population.recipes)):
        found["training-free: the best score"] = replace(ours, recipes=is_single_score)
    if population.rungs_are_trainings:
        cheap = replace(ours, label_rung=0)
        found[f"ours, references of {population.rungs[0]} epochs"] = cheap
    if any(map(is_configured, population.recipes)):
        found["ours, no calibration"] = Ours(recipes=is_configured, calibrates=False)
    names = {recipe.name for recipe in population.recipes}
    if NO_LABELS in names:
        found |= _without_labels(next(name for name in TRAINING_FREE if name in names))
    return found | plain_strategies(arguments.num_candidates)


def _without_labels(training_free: str) -> dict[str, Strategy]:
    """Ours for users who buy no full training before the finalists', and what it is read beside.

    Args:
        training_free: Name of the recipe that averages ranks of scores.
    """
    short, labelled, free, alone = (
        Ours(
            recipes=lambda recipe, name=name: recipe.name == name,
            calibrates=False,
            num_trials=_NUM_TRIALS,
        )
        for name in (NO_LABELS, SELF_LABELLED, training_free, SHORT_ALONE)
    )
    return {
        NO_LABELS_ROW: short,
        f"{NO_LABELS_ROW}, 1 finalist": replace(short, num_finalists=1),
        f"{NO_LABELS_ROW}, self-labelled cascade": labelled,
        f"training-free: rank mean, {_NUM_TRIALS} trials": free,
        "training-free: rank mean of all": replace(free, num_trials=None),
        "short trainings alone": alone,
    }


def simulate(
    population: Population, arguments: argparse.Namespace, progress: Any
) -> dict[str, list[Trajectory]]:
    """Trajectories of every strategy, one for each seed, with the parts of ours in and out.

    Where each seed draws its own architectures, accuracies are moved so that the best of these is
    as good as the best of all.
    """
    strategies, num_seeds = strategies_of(population, arguments), arguments.num_seeds
    kept = KeptTrajectories(arguments.work / "trajectories.jsonl")
    found: dict[str, list[Trajectory]] = {name: [] for name in strategies}
    num_drawn = arguments.num_drawn or len(population.candidates)
    drawn = [population.drawn(num_drawn, seed) for seed in range(num_seeds)]
    for seed, own in enumerate(drawn):
        shift = population.best - own.best
        for number, (name, strategy) in enumerate(strategies.items()):
            progress(seed * len(strategies) + number, num_seeds * len(strategies), name)
            one = kept.of(strategy, own, seed)
            found[name].append(replace(one, tests=[test + shift for test in one.tests]))
    ours = found[OURS]
    found["ours, references known"] = [t.without("calibration: full trainings") for t in ours]
    if "distilling" in ours[0].spent:
        found["ours, distilled set known"] = [t.without("distilling") for t in ours]
    recipes = {recipe.name: recipe for recipe in population.recipes}
    found[f"{OURS} and proof"] = [
        t.and_(proof=proof_cost(own, recipes[t.chosen], seed, NUM_PROVED))
        for seed, (own, t) in enumerate(zip(drawn, ours, strict=True))
    ]
    return found


def table_of(
    population: Population, trajectories: Mapping[str, Sequence[Trajectory]]
) -> dict[str, Any]:
    """Everything that is published of one population."""
    rows = [row_of(name, found, population.best) for name, found in trajectories.items()]
    rival = next(row for row in rows if row["strategy"] == RIVAL)
    for row in rows:
        for limit, cost in row["core_seconds_to_within"].items():
            theirs = rival["core_seconds_to_within"][limit]
            known = cost is not None and theirs is not None
            row["times_the_rival"][limit] = round(cost / theirs, 4) if known else None
        if row is not rival:
            row["minus_the_rival"] = _minus(trajectories[row["strategy"]], trajectories[RIVAL])
    return {
        "population": population.name,
        "num_architectures": len(population.candidates),
        "best_test_accuracy": round(population.best, 2),
        "median_test_accuracy": round(
            float(np.median([c.test for c in population.candidates.values()])), 2
        ),
        "core_seconds_of_a_full_training": round(
            float(np.mean([c.cost for c in population.candidates.values()])), 2
        ),
        "recipes": [recipe.name for recipe in population.recipes],
        "rival": RIVAL,
        "notes": [*population.notes, *NOTES],
        "strategies": rows,
    }


def row_of(name: str, found: Sequence[Trajectory], best: float) -> dict[str, Any]:
    """A strategy's curve and what follows from it.

    The regret at a cost is that of the pick that was known then; the curve begins where every seed
    has one.
    """
    begin = max(t.costs[0] for t in found)
    costs = np.unique(np.concatenate([[c for c in t.costs if c >= begin] for t in found]))
    regrets = np.stack([best - t.at(costs) for t in found])  # (num_seeds, num_costs)
    means = regrets.mean(axis=0)
    end = max(t.costs[-1] for t in found)
    count = max(2, round(_PER_DECADE * np.log10(end / begin)) + 1) if end > begin else 1
    grid = np.geomspace(begin, end, count).clip(begin, end)
    return {
        "strategy": name,
        "num_seeds": len(found),
        "core_seconds_to_within": {str(limit): _reached(costs, means, limit) for limit in WITHIN},
        "times_the_rival": {},
        "curve": [
            {"core_seconds": round(float(cost), 1), **_mean(best - _at(found, cost))}
            for cost in grid
        ],
        "spent": {
            what: round(float(np.mean([t.spent.get(what, 0.0) for t in found])), 1)
            for what in found[0].spent
        },
        "chosen": dict(Counter(t.chosen for t in found if t.chosen).most_common()),
    }


def _minus(found: Sequence[Trajectory], rivals: Sequence[Trajectory]) -> dict[str, float | None]:
    """Regret minus the rival's where both have a pick first, seed by seed."""
    cost = max(t.costs[0] for t in (*found, *rivals))
    ends = _mean(_at(rivals, cost) - _at(found, cost), least=-np.inf)
    return {"core_seconds": round(cost, 1), **ends}


def _at(found: Sequence[Trajectory], cost: float) -> np.ndarray:
    return np.array([t.at(np.array([cost]))[0] for t in found])


def _mean(regrets: np.ndarray, least: float = 0.0) -> dict[str, float | None]:
    """With the 95 % interval of the mean by Student's t, from `least` on; one seed has none."""
    mean, n = float(regrets.mean()), len(regrets)
    if n == 1:
        return {"regret": round(mean, 3), "low": None, "high": None}
    half = float(stdtrit(n - 1, 0.975) * regrets.std(ddof=1) / np.sqrt(n))
    ends = {"low": max(least, mean - half), "high": mean + half}
    return {"regret": round(mean, 3), **{name: round(end, 3) for name, end in ends.items()}}


def _reached(costs: np.ndarray, means: np.ndarray, limit: float) -> float | None:
    """The cost from which on the mean regret stays within `limit`; None if it does not."""
    outside = np.flatnonzero(means > limit)
    first = outside[-1] + 1 if len(outside) else 0
    return None if first == len(costs) else round(float(costs[first]), 1)


def draw(tables: Sequence[Mapping[str, Any]], file: Path) -> None:
    """The curves of every population, a dot where the first pick is.

    Cost is on a logarithmic axis, regret on that of its square root, which parts what is small.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(8.5 * len(tables), 5.6), layout="constrained")
    for axes, table in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables, strict=True):
        rows = {row["strategy"]: row for row in table["strategies"]}
        last = max(row["curve"][-1]["core_seconds"] for row in rows.values())
        for name, style in _SHOWN.items():
            if name in rows:
                _draw_curve(axes, name, rows[name]["curve"], last, style)
        for limit in WITHIN:
            axes.axhline(limit, color="black", linewidth=0.6, linestyle=(0, (1, 3)))
        axes.set_xscale("log")
        axes.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), np.square))
        axes.set_ylim(0, _TOP)
        axes.set_yticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
        axes.set_xlabel("core-seconds, everything counted")
        axes.set_ylabel("points of test accuracy below the best")
        axes.set_title(f"{table['population']}, {table['num_architectures']} architectures")
        hours = axes.secondary_xaxis("top", functions=(lambda s: s / 3600, lambda h: h * 3600))
        hours.set_xlabel("core-hours")
        for each, words in ((axes.xaxis, "{x:,.0f}"), (hours.xaxis, "{x:,g}")):
            each.set_major_locator(LogLocator(subs=(1, 3)))
            each.set_major_formatter(words)
        axes.spines["right"].set_visible(False)
        axes.legend(fontsize=9, frameon=False, loc="upper right")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _draw_curve(
    axes: Any,
    name: str,
    points: Sequence[Mapping[str, float]],
    last: float,
    style: tuple[str, str, float],
) -> None:
    colour, line, width = style
    curve = [*points, {**points[-1], "core_seconds": last}]
    x = [point["core_seconds"] for point in curve]
    y = [point["regret"] for point in curve]
    options = {"color": colour, "linewidth": width, "drawstyle": "steps-post", "label": name}
    axes.plot(x, y, line, marker="o", markersize=5, markevery=[0], **options)
    if name in (RIVAL, NO_LABELS_ROW) and curve[0]["low"] is not None:
        low, high = ([point[end] for point in curve] for end in ("low", "high"))
        axes.fill_between(x, low, high, step="post", color=colour, alpha=0.12, linewidth=0)


if __name__ == "__main__":
    main()
