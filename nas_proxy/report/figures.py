"""The report's figures, drawn from the report alone; a figure without data is left out.

Texts of the report are drawn with `parse_math=False`: a dollar sign in a name is no formula.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import Bbox
from scipy.stats import rankdata

from nas_proxy.core.files import write_atomically
from nas_proxy.report.cost_figure import CostPoint, draw_cost
from nas_proxy.report.drawing import (
    BLUE,
    DPI,
    GREY,
    INK,
    RED,
    SKY,
    Label,
    beyond,
    clip_worst,
    ends,
    new_axes,
    place_labels,
    wrap,
    write_words,
)
from nas_proxy.report.learning_curve import draw_learning_curve, loss_curve
from nas_proxy.report.pareto_figure import costs_of, pareto_figure
from nas_proxy.statistics.ranks import Estimate, num_best

_MAX_OUTLIERS = 5
_MAX_SIGNAL_NAMES = 6  # in the figure of cost, where they stand close together


@dataclass(frozen=True)
class Outlier:
    """An architecture that score and reference disagree about most.

    Attributes:
        number: Its label in the scatter plot, from 1.
        description: The architecture in words.
        score: Of the proxy.
        reference: Value of the reference.
        score_rank: Among all architectures that have both values; 1 is best.
        reference_rank: Likewise.
        num_ranked: How many these are.
    """

    number: int
    description: str
    score: float
    reference: float
    score_rank: int
    reference_rank: int
    num_ranked: int


def write_figures(report: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what the report has data for.

    Args:
        report: As `study.stages.report.collect` builds it.
        folder: Where to; made if it does not exist.

    Returns:
        The files, in the order in which a person wants to see them.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
    """
    figures: dict[str, Callable[[dict[str, Any]], Figure | None]] = {
        "rank_scatter.png": _rank_scatter,
        "rank_comparison.png": _rank_comparison,
        "cost.png": _cost,
        "uncertainty.png": _uncertainty,
        "optimisation_history.png": _optimisation_history,
        "guard.png": _guard,
        "learning_curve.png": _learning_curve,
    }
    for cost in costs_of(report["search"]):
        figures[f"pareto_{cost}.png"] = partial(pareto_figure, cost=cost)
    written = []
    for name, draw in figures.items():
        figure = draw(report)
        if figure is not None:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
            write_atomically(folder / name, buffer.getvalue())
            written.append(folder / name)
    return written


def rank_outliers(report: dict[str, Any]) -> list[Outlier]:
    """The architectures whose two ranks lie furthest apart, the furthest first.

    Ranks less than a tenth of the sample apart are no outliers.
    """
    points = ranked_points(report)
    if not points:
        return []
    scores, reference = np.array([[point["score"], point["reference"]] for point in points]).T
    score_ranks = rankdata(-scores, method="min")
    reference_ranks = rankdata(-reference, method="min")
    apart = np.abs(score_ranks - reference_ranks)
    furthest = np.argsort(-apart, kind="stable")[:_MAX_OUTLIERS]
    return [
        Outlier(
            number=number,
            description=points[index]["description"],
            score=float(scores[index]),
            reference=float(reference[index]),
            score_rank=int(score_ranks[index]),
            reference_rank=int(reference_ranks[index]),
            num_ranked=len(points),
        )
        for number, index in enumerate(furthest, start=1)
        if apart[index] > len(points) / 10
    ]


def ranked_points(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The architectures that both sides have a value for, with the proxy's in `score`."""
    if not report["validation"] or not report["points"]:
        return []
    name = report["validation"]["rows"][0]["name"]
    return [
        {**point, "score": point["scores"][name]}
        for point in report["points"]
        if point["scores"].get(name) is not None and point["reference"] is not None
    ]


def _rank_scatter(report: dict[str, Any]) -> Figure | None:
    points = ranked_points(report)
    if len(points) < 2:
        return None
    validation = report["validation"]
    figure, axes = new_axes(5.2)
    scores, reference = np.array([[point["score"], point["reference"]] for point in points]).T
    x, y = clip_worst(scores), clip_worst(reference)
    uniform = np.array([point["drawn"] == "uniform" for point in points])
    for chosen, label, marker, color in (
        (uniform, "drawn uniformly", "o", BLUE),
        (~uniform, "drawn over the strata of the score", "D", RED),
    ):
        if chosen.any():
            axes.scatter(
                x[chosen], y[chosen], s=34, alpha=0.85, linewidths=0.6, edgecolors="white",
                zorder=3, label=f"{label} ({chosen.sum()})", marker=marker, color=color,
            )  # fmt: skip
    axes.margins(0.06, 0.08)
    _shade_best(axes, report)
    proxy = validation["rows"][0]
    rho = f"Spearman {Estimate(**proxy['spearman'])}" if proxy["spearman"] else "No Spearman"
    write_words(
        axes,
        f"{rho}, n = {proxy['n']}",
        x=f"score of the proxy (higher is better{beyond(scores, x, 'left')})",
        y=f"{validation['reference_name']}{beyond(reference, y, 'lower')}",
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    labels = [
        Label(max(found.score, x.min()), max(found.reference, y.min()), str(found.number), True)
        for found in rank_outliers(report)
    ]
    place_labels(axes, labels, dots=[Bbox([dot, dot]) for dot in np.column_stack([x, y])])
    return figure


def _shade_best(axes: Axes, report: dict[str, Any]) -> None:
    """The band of the best part by reference; its border is that of `rank_report`."""
    uniform = [p["reference"] for p in report["points"] if p["drawn"] == "uniform"]
    ordered = sorted((value for value in uniform if value is not None), reverse=True)
    fraction = report["validation"]["best_fraction"]
    low, high = axes.get_ylim()
    if ordered:
        axes.axhspan(
            ordered[num_best(fraction, len(ordered)) - 1], high, color=SKY, alpha=0.16,
            lw=0, zorder=0, label=f"best {100 * fraction:.0f} % by reference",
        )  # fmt: skip
    axes.set_ylim(low, high)


def _rank_comparison(report: dict[str, Any]) -> Figure | None:
    rows = _rows(report, "proxy", "control", "signal")
    if not rows:
        return None
    rows = sorted(rows, key=lambda row: row["spearman"]["value"])
    figure, axes = new_axes(1.5 + 0.42 * len(rows))
    for position, row in enumerate(rows):
        estimate, strong = Estimate(**row["spearman"]), row["kind"] == "proxy"
        low, high = ends(estimate)
        color = BLUE if strong else GREY
        axes.hlines(position, low, high, color=color, lw=2.6 if strong else 1.6, zorder=2)
        if strong:
            axes.axvspan(low, high, color=BLUE, alpha=0.08, lw=0, zorder=0)
        axes.plot(
            estimate.value, position, "o", ms=9 if strong else 7, mec=color, mew=1.4, zorder=3,
            mfc="white" if row["kind"] == "signal" else color,
        )  # fmt: skip
        axes.annotate(
            str(estimate), (1.02, position), xycoords=("axes fraction", "data"), va="center",
            fontsize=9, color=INK if strong else GREY, weight="bold" if strong else "normal",
        )  # fmt: skip
    axes.axvline(0, color=GREY, lw=1, zorder=1)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(range(len(rows)), [wrap(row["name"], 30) for row in rows], parse_math=False)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if row["kind"] == "proxy" else "normal")
        tick.set_color(GREY if row["kind"] == "signal" else INK)
    write_words(
        axes, "Which ranking agrees best with the reference?", x="Spearman with 95 % interval", y=""
    )
    return figure


def _cost(report: dict[str, Any]) -> Figure | None:
    rows = _rows(report, "proxy", "control", "signal")
    if not rows:
        return None
    signals = [row for row in rows if row["kind"] == "signal"]
    nameless = sorted(signals, key=lambda row: -row["spearman"]["value"])[_MAX_SIGNAL_NAMES:]
    numbers = sorted({row["n"] for row in rows})
    n = " to ".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))
    return draw_cost(
        [
            CostPoint(
                "" if row in nameless else row["name"],
                row["seconds_per_architecture"],
                Estimate(**row["spearman"]),
                strong=row["kind"] == "proxy",
                hollow=row["kind"] == "signal",
            )
            for row in rows
        ],
        title=f"What a ranking costs, and what it is worth (n = {n})",
        reference_seconds=report["validation"]["reference_seconds_per_architecture"],
    )


def _uncertainty(report: dict[str, Any]) -> Figure | None:
    rows = (report["validation"] or {"rows": []})["rows"]
    found = rows[0]["uncertainty"] if rows else None
    if not found:
        return None
    figure, axes = new_axes(5.4)
    expected = [entry["expected"] for entry in found["coverage"]]
    observed = [Estimate(**entry["observed"]) for entry in found["coverage"]]
    axes.plot([0, 1], [0, 1], color=GREY, lw=1.2, ls="--", label="as it should be")
    low, high = zip(*(ends(estimate) for estimate in observed), strict=True)
    axes.fill_between(expected, low, high, color=BLUE, alpha=0.14, lw=0, label="95 % interval")
    values = [estimate.value for estimate in observed]
    axes.plot(expected, values, "o-", color=BLUE, lw=1.8, ms=6, label="found", zorder=3)
    axes.text(0.04, 0.93, "too cautious", color=GREY, fontsize=9.5)
    axes.text(0.96, 0.04, "too sure of itself", color=GREY, fontsize=9.5, ha="right")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    write_words(
        axes,
        f"Is the score as sure of itself as it may be? (n = {found['n']})",
        x="share of the references that its intervals should hold",
        y="share that they hold",
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _learning_curve(report: dict[str, Any]) -> Figure | None:
    """The best candidate's losses; reports from before they were kept have none."""
    training = report["search"].get("best_training")
    if training is None:
        return None
    curve = loss_curve(training["train_losses"], [tuple(phase) for phase in training["phases"]])
    return draw_learning_curve(curve, wrap(f"Training of the best: {training['description']}", 70))


def _optimisation_history(report: dict[str, Any]) -> Figure | None:
    trials = report["search"]["trials"]
    scored = [trial for trial in trials if trial["score"] is not None]
    if not scored:
        return None
    figure, axes = new_axes(3.9)
    x = np.array([trial["trial"] for trial in scored])
    scores = np.array([trial["score"] for trial in scored], dtype=np.float64)
    y = clip_worst(scores, reach=6)
    axes.scatter(
        x, y, s=26, color=GREY, alpha=0.8, linewidths=0, zorder=3, label="score of a trial"
    )
    last = max(trial["trial"] for trial in trials)
    best = np.maximum.accumulate(y)
    axes.step([*x, last], [*best, best[-1]], where="post", color=BLUE, lw=2.2, label="best so far")
    failed = [trial["trial"] for trial in trials if trial["score"] is None]
    axes.margins(0.03, 0.12)
    if failed:
        axes.plot(
            failed, [0.03] * len(failed), "x", color=RED, ms=7, mew=1.8, ls="",
            transform=axes.get_xaxis_transform(), label=f"failed ({len(failed)})", clip_on=False,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    words = "Score of each trial of the search"
    write_words(axes, words, x="trial", y=f"score (higher is better{beyond(scores, y, 'lower')})")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _guard(report: dict[str, Any]) -> Figure | None:
    found = report["search"].get("guard") or {"checks": []}
    sides = (("random", "random candidates", BLUE, "o"), ("everyone", "all checked", GREY, "D"))
    figure, axes = new_axes(3.9)
    for key, label, color, marker in sides:
        checks = [check for check in found["checks"] if check[key] is not None]
        x = [check["num_trials"] for check in checks]
        estimates = [Estimate(**check[key]) for check in checks]
        if checks:
            low, high = zip(*map(ends, estimates), strict=True)
            if key == "random" and len(x) > 1:  # two bands upon one another would hide both
                axes.fill_between(x, low, high, color=color, alpha=0.14, lw=0, zorder=1)
            else:
                axes.vlines(x, low, high, color=color, lw=1.4, alpha=0.7, zorder=2)
            values = [estimate.value for estimate in estimates]
            axes.plot(x, values, marker=marker, color=color, lw=1.8, ms=6, label=label, zorder=3)
    if not axes.lines:
        return None
    axes.axhline(found["threshold"], color=RED, lw=1.4, ls="--", label="threshold", zorder=2)
    axes.margins(0.04, 0.1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    write_words(
        axes,
        "Does the score still rank, among the candidates of the search?",
        x="trials",
        y="Spearman with full-data training, 95 % interval",
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _rows(report: dict[str, Any], *kinds: str) -> list[dict[str, Any]]:
    """The rankings of these kinds that have a Spearman."""
    rows = (report["validation"] or {"rows": []})["rows"]
    return [row for row in rows if row["kind"] in kinds and row["spearman"]]
