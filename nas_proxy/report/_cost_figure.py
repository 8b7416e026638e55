"""Correlation against cost: what each ranking is worth, and what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from nas_proxy.report._drawing import (
    BLUE,
    GREY,
    RED,
    Label,
    ends,
    new_axes,
    place_labels,
    wrap,
    write_words,
)
from nas_proxy.statistics.ranks import Estimate

_TICKS = {
    0.001: "1 ms", 0.01: "10 ms", 0.1: "0.1 s", 1: "1 s", 10: "10 s",
    60: "1 min", 600: "10 min", 3600: "1 h", 36_000: "10 h", 360_000: "100 h",
}  # fmt: skip
_APART, _ROW = 0.018, 0.25  # shares of the axis' width: between equal costs, and all points at most


@dataclass(frozen=True)
class CostPoint:
    """One way to rank.

    Attributes:
        name: In words; empty writes none beside it.
        seconds: For one architecture.
        spearman: With its interval.
        strong: Whether it is what the figure is about.
        hollow: Whether it is there for information alone.
    """

    name: str
    seconds: float
    spearman: Estimate
    strong: bool = False
    hollow: bool = False


def draw_cost(points: Sequence[CostPoint], *, title: str, reference_seconds: float) -> Figure:
    """Every ranking as a point with its interval over the seconds that it takes.

    Args:
        points: At least one; its seconds are shown as one millisecond if they are fewer.
        title: Such as what n is.
        reference_seconds: Of the reference, a line; 0 for a table, which has none.
    """
    figure, axes = new_axes(6.4)
    axes.set_xscale("log")
    seconds = np.array([max(point.seconds, min(_TICKS)) for point in points])
    _show_seconds(axes, seconds.min(), max(seconds.max(), reference_seconds))
    places = _side_by_side(seconds, axes)
    lines = []
    for x, point in zip(places, points, strict=True):
        color, (low, high) = BLUE if point.strong else GREY, ends(point.spearman)
        axes.vlines(x, low, high, color=color, lw=2.4 if point.strong else 1.2, alpha=0.5)
        axes.plot(
            x, point.spearman.value, "o", ms=9 if point.strong else 7, mec=color, mew=1.3,
            mfc="white" if point.hollow else color, zorder=3,
        )  # fmt: skip
        lines.append(Bbox([[x, low], [x, high]]))
    axes.margins(y=0.1)
    if reference_seconds > 0:
        axes.axvline(reference_seconds, color=RED, lw=1.6, ls="--", label="the reference itself")
        low, high = axes.get_ylim()
        lines.append(Bbox([[reference_seconds, low], [reference_seconds, high]]))
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)
    time = "time for one architecture (equal ones side by side), one-off cost left out"
    write_words(axes, title, x=time, y="Spearman with 95 % interval")
    values = [point.spearman.value for point in points]
    dots = [Bbox([[x, y], [x, y]]) for x, y in zip(places, values, strict=True)]
    labels = [
        Label(x, point.spearman.value, wrap(point.name, 22), point.strong)
        for x, point in zip(places, points, strict=True)
        if point.name
    ]
    place_labels(axes, labels, dots=dots, lines=lines)
    return figure


def _side_by_side(seconds: NDArray[np.float64], axes: Axes) -> list[float]:
    """Where points are drawn: as near to their seconds as room for each beside the next allows."""
    low, high = np.log(axes.get_xlim())
    order = np.argsort(seconds, kind="stable")
    room = min(_APART, _ROW / len(order)) * (high - low) * np.arange(len(order))
    places = np.empty(len(order))
    # The closest increasing sequence, after each one's room has been taken out.
    places[order] = scipy.optimize.isotonic_regression(np.log(seconds[order]) - room).x + room
    return [float(place) for place in np.exp(places)]


def _show_seconds(axes: Axes, low: float, high: float) -> None:
    """Ticks that a person reads, and room for labels at both sides."""
    low, high = low / 6, high * 12
    axes.set_xlim(low, high)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [_TICKS[tick] for tick in ticks])
    axes.minorticks_off()
