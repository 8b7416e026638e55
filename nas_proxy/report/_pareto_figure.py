"""The Pareto front as a picture: score against one cost, and what stands on the front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from nas_proxy.report._drawing import (
    BLUE,
    GREY,
    RED,
    SKY,
    Label,
    beyond,
    clip_worst,
    new_axes,
    place_labels,
    write_words,
)
from nas_proxy.report.values import StudyReport
from nas_proxy.search.pareto import SCORE
from nas_proxy.search.result import SearchResult, TrialRow

_Values = NDArray[np.float64]
_WORDS = {
    "num_params": "parameters",
    "flops": "FLOPs for one image",
    "latency": "latency for one image",
}
_MAX_NUMBERS = 12  # of the front: more would not fit, and its ends and the knee are named alone


@dataclass(frozen=True)
class ParetoPoint:
    """A trial.

    Attributes:
        cost: What it costs to use.
        score: Where it is drawn; higher is better.
        number: Its place on the front, from 1; None if it is not on it.
        knee: Whether it is the knee.
        spread: Lower and upper quartile of a measured cost; None without.
    """

    cost: float
    score: float
    number: int | None = None
    knee: bool = False
    spread: tuple[float, float] | None = None


def cost_in_words(name: str) -> str:
    """What an objective that is minimised is, for people."""
    return _WORDS[name]


def amount(name: str, value: float) -> str:
    """A cost as a person reads it: `12.3 k`, `4.5 M`, `3.21 ms`."""
    units = (
        ((1, " s"), (1e-3, " ms"), (1e-6, " µs"))
        if name == "latency"
        else ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"), (1, ""))
    )
    size, unit = next(((s, u) for s, u in units if abs(value) >= s), units[-1])
    return f"{value / size:.3g}{unit}"


def costs_of(search: SearchResult) -> list[str]:
    """The objectives of a search beside its score."""
    front = search.pareto_front
    return [name for name in front[0].objectives if name != SCORE] if front else []


def pareto_figure(report: StudyReport, cost: str) -> Figure:
    """The trials of a report, of which some are on the front; `cost` is one of `costs_of`."""
    search = report.search
    places = {trial.trial: number for number, trial in enumerate(search.pareto_front, 1)}
    trials = [trial for trial in search.trials if trial.objectives]
    scores = np.array([trial.score for trial in trials], dtype=np.float64)
    shown = clip_worst(scores, reach=6)
    points = [
        ParetoPoint(
            cost=trial.objectives[cost],
            score=score,
            number=places.get(trial.trial),
            knee=trial.trial == search.knee,
            spread=_spread(trial) if cost == "latency" else None,
        )
        for trial, score in zip(trials, shown.tolist(), strict=True)
    ]
    constraints = report.config["search"]["constraints"]
    limit = constraints.get("latency_ms" if cost == "latency" else cost)
    return draw_pareto(
        points,
        cost=cost,
        title=f"Score against {cost_in_words(cost)}: the Pareto front",
        y=f"score (higher is better{beyond(scores, shown, 'lower')})",
        limit=limit / 1000 if limit is not None and cost == "latency" else limit,
    )


def _spread(trial: TrialRow) -> tuple[float, float] | None:
    return None if trial.latency is None else (trial.latency.low, trial.latency.high)


def draw_pareto(
    points: Sequence[ParetoPoint], *, cost: str, title: str, y: str, limit: float | None
) -> Figure:
    """Every trial as a dot, the front above the rest, and a line for the best score at each cost.

    Args:
        points: At least one of them on the front.
        cost: Name of the objective on the horizontal axis.
        title: Of the figure.
        y: What the vertical axis is.
        limit: What constraints allowed of this cost, a line; None if nothing was ruled out.
    """
    figure, axes = new_axes(5.0)
    x = _on_log_axis(np.array([point.cost for point in points]))
    scores = np.array([point.score for point in points])
    front = np.array([point.number is not None for point in points])
    knee = np.array([point.knee for point in points])
    _show_amounts(axes, cost, x if limit is None else np.append(x, limit))
    axes.margins(y=0.12)
    _dots(axes, x, scores, ~front, f"dominated ({(~front).sum()})", color=GREY, s=22, alpha=0.45)
    order = np.argsort(x, kind="stable")
    best = np.maximum.accumulate(scores[order])
    corners = np.repeat([*x[order], axes.get_xlim()[1]], 2)[1:-1], np.repeat(best, 2)
    axes.plot(*corners, color=SKY, lw=1.8, label="best score at that cost", zorder=1)
    lines = [Bbox([a, b]) for a, b in pairwise(np.column_stack(corners))]
    _dots(axes, x, scores, front & ~knee, f"on the front ({front.sum()})", color=BLUE, s=52)
    _dots(axes, x, scores, knee, "knee", color=RED, s=90, marker="D")
    for point in points:
        if point.number is not None and point.spread is not None:
            color, (low, high) = RED if point.knee else BLUE, point.spread
            axes.hlines(point.score, low, high, color=color, lw=1.2, zorder=2)
            lines.append(Bbox([[low, point.score], [high, point.score]]))
    if limit is not None:
        axes.axvline(limit, color=RED, lw=1.4, ls="--", label="limit of the search", zorder=1)
    write_words(axes, title, x=f"{cost_in_words(cost)} (lower is better)", y=y)
    ncols = 4 if limit is None else 3
    figure.legend(loc="outside lower center", ncols=ncols, frameon=False, fontsize=9)
    labels = [
        Label(at, point.score, f"{point.number}: knee" if point.knee else f"{point.number}", True)
        for at, point in zip(x, points, strict=True)
        if point.knee or _is_named(point, int(front.sum()))
    ]
    dots = [Bbox([dot, dot]) for dot in np.column_stack([x, scores])]
    place_labels(axes, labels, dots=dots, lines=lines)
    return figure


def _dots(
    axes: Axes, x: _Values, y: _Values, chosen: NDArray[np.bool_], label: str, **style: Any
) -> None:
    if chosen.any():
        axes.scatter(
            x[chosen], y[chosen], label=label, linewidths=0.6, edgecolors="white", zorder=3, **style
        )


def _is_named(point: ParetoPoint, size: int) -> bool:
    if point.number is None:
        return False
    return size <= _MAX_NUMBERS or point.number in (1, size)


def _on_log_axis(costs: _Values) -> _Values:
    """Costs; one that is zero stands at the smallest that is not."""
    positive = costs[costs > 0]
    return np.maximum(costs, positive.min() if len(positive) else 1.0)


def _show_amounts(axes: Axes, cost: str, shown: _Values) -> None:
    """A logarithmic axis with ticks that a person reads, and room at both sides."""
    axes.set_xscale("log")
    low, high = float(shown.min()), float(shown.max())
    room = max((high / low) ** 0.06, 1.1)
    axes.set_xlim(low / room, high * room)
    few = high / low < 30
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=9))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(cost, value)))
    axes.minorticks_off()
