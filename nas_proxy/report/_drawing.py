"""How every figure looks: colours, axes, words, and labels that do not lie upon one another."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from nas_proxy.errors import required
from nas_proxy.statistics.ranks import Estimate

DPI = 150
WIDTH = 7.0  # inches: 10 points are 14 pixels when a page shows the figure 700 pixels wide
_LEFT, _RIGHT = 0.85, 0.15  # inches beside axes that are aligned
# Okabe and Ito's colours, which the colour-blind can tell apart.
BLUE, RED, SKY = "#0072B2", "#D55E00", "#56B4E9"
INK, GREY, FAINT = "#24292f", "#6b7480", "#d5dae0"
# Where a label may lie: pixels between it and its dot, and on which side; the first are best.
_GAPS = (14, 24, 38, 56, 78, 104, 134, 168, 206)
_BESIDE = 26  # pixels from a dot at which a label needs no line to it
_Points = NDArray[np.float64]
_DIRECTIONS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)])


def new_axes(height: float) -> tuple[Figure, Axes]:
    """A figure of the report's width and of `height` inches, with one pair of axes."""
    figure, (axes,) = new_grid(1, 1, height)
    return figure, axes


def new_grid(rows: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """The same with several axes of one size, row by row, which share their y."""
    figure = Figure(
        figsize=(WIDTH, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)
    )
    FigureCanvasAgg(figure)  # a figure keeps it
    grid = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(labelcolor=INK, color=FAINT, labelsize=9.5, length=3)
        axes.grid(color=FAINT, lw=0.6, alpha=0.7)
    return figure, grid


def align(axes: Axes) -> None:
    """Give finished axes the sides that others of their kind have, whatever their labels are.

    Labels that need more room than there is left of them keep it.
    """
    figure = required(axes.get_figure(root=True), "the figure of the axes")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    box = axes.get_position()
    left = max(_LEFT / WIDTH, box.x0)
    axes.set_position((left, box.y0, 1 - _RIGHT / WIDTH - left, box.height))


def write_words(axes: Axes, title: str, *, x: str, y: str) -> None:
    """The title, and what the axes are; a dollar sign in them is no formula."""
    axes.set_title(
        title, loc="left", fontsize=11.5, weight="bold", color=INK, pad=10, parse_math=False
    )
    axes.set_xlabel(wrap(x, 80), fontsize=10, color=INK, labelpad=6, parse_math=False)
    axes.set_ylabel(wrap(y, 44), fontsize=10, color=INK, labelpad=6, parse_math=False)


def wrap(text: str, width: int) -> str:
    """Lines of about the same length."""
    num_lines = -(-len(text) // width)
    return textwrap.fill(text, min(width, len(text) // max(1, num_lines) + 6))


def ends(estimate: Estimate) -> tuple[float, float]:
    """The interval, or the value alone where there is none."""
    if estimate.low is None or estimate.high is None:
        return estimate.value, estimate.value
    return estimate.low, estimate.high


def clip_worst(values: NDArray[np.float64], reach: float = 3) -> NDArray[np.float64]:
    """Values whose far worse ones, a quarter at most, are moved up to the edge of what is shown.

    One network that learnt nothing would squash all others. The better half spans a distance from
    its median to the best; `reach` times that distance is shown below the median.
    """
    median, best = np.median(values), values.max()
    floor = min(median - reach * (best - median), np.quantile(values, 0.25))
    inside = values[values >= floor].min()
    clipped: NDArray[np.float64] = np.maximum(values, inside - 0.05 * (best - inside))
    return clipped


def beyond(values: NDArray[np.float64], shown: NDArray[np.float64], edge: str) -> str:
    """A remark on values that `clip_worst` moved."""
    return f"; dots on the {edge} edge lie beyond it" if (shown > values).any() else ""


@dataclass(frozen=True)
class Label:
    """A text that belongs to a dot at `(x, y)`."""

    x: float
    y: float
    text: str
    strong: bool = False


def place_labels(
    axes: Axes, labels: Sequence[Label], *, dots: Sequence[Bbox], lines: Sequence[Bbox] = ()
) -> None:
    """Write each label near its dot, over no dot and no other label, and over few lines.

    A label further away gets a line to its dot, which avoids other labels, as they avoid it.

    Args:
        axes: Finished otherwise: the places hold for the layout as it is now.
        labels: The first one chooses first.
        dots: Boxes in data coordinates.
        lines: Likewise.
    """
    figure = required(axes.get_figure(root=True), "the figure of the axes")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    taken = [axes.transData.transform_bbox(box).padded(6) for box in dots]
    middles = np.array([[(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2] for box in taken])
    crossed = [axes.transData.transform_bbox(box).padded(2) for box in lines]
    written: list[Bbox] = []
    for label in labels:
        dot = axes.transData.transform((label.x, label.y))
        text = axes.annotate(
            label.text, (label.x, label.y), (0, 0), textcoords="offset points", ha="center",
            va="center", fontsize=9, color=INK, weight="bold" if label.strong else "normal",
            parse_math=False, zorder=5, path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.7, "shrinkA": 0, "shrinkB": 5},
        )  # fmt: skip
        half = np.array(text.get_window_extent().size) / 2
        shifts = [direction * (half + gap) for gap in _GAPS for direction in _DIRECTIONS]
        boxes = [Bbox([dot + shift - half, dot + shift + half]).padded(2) for shift in shifts]
        leaders = [_leader(dot, box, middles) for box in boxes]
        others = [box for box in taken[: len(dots)] if not box.contains(*dot)]
        obstacles = _corners([*written, *others])
        badness = [
            gap
            + 500 * sum(not axes.bbox.contains(*corner) for corner in box.corners())
            + 500 * box.count_overlaps(taken)
            + 25 * box.count_overlaps(crossed)
            + 60 * _num_hit(obstacles, leader)
            + 15 * (len(leader) > 0)
            for gap, box, leader in zip(
                np.repeat(_GAPS, len(_DIRECTIONS)), boxes, leaders, strict=True
            )
        ]
        chosen = int(np.argmin(badness))
        taken.append(boxes[chosen])
        written.append(boxes[chosen])
        crossed += [Bbox([point, point]).padded(4) for point in leaders[chosen]]
        text.set_position(tuple(shifts[chosen] * 72 / figure.dpi))
        if text.arrow_patch is not None:
            text.arrow_patch.set_visible(len(leaders[chosen]) > 0)


def _leader(dot: _Points, box: Bbox, dots: _Points) -> _Points:
    """Points of the line from a dot to its label, `(m, 2)`.

    Args:
        dot: `(2,)`, in pixels.
        box: Of the label.
        dots: All dots, `(n, 2)`.

    Returns:
        No points if the label lies beside this dot and clearly nearer to it than to others: it
        needs no line then.
    """
    low, high = np.array([box.x0, box.y0]), np.array([box.x1, box.y1])
    distances = np.sort(np.hypot(*np.maximum(0, np.maximum(low - dots, dots - high)).T))
    own = np.hypot(*np.maximum(0, np.maximum(low - dot, dot - high)))
    if own <= _BESIDE and (len(distances) < 2 or distances[1] >= 1.5 * own):
        return np.empty((0, 2))
    points = dot + np.linspace(0, 1, 16)[:, None] * ((low + high) / 2 - dot)
    outside = ((points < low) | (points > high)).any(axis=1)
    return np.asarray(points[outside], dtype=np.float64)


def _corners(boxes: Sequence[Bbox]) -> _Points:
    """Lower and upper corners of boxes, `(2, n, 2)`."""
    return np.array([[box.min for box in boxes], [box.max for box in boxes]]).reshape(2, -1, 2)


def _num_hit(corners: _Points, points: _Points) -> int:
    """Through how many of the boxes with these `corners` the line of these points runs."""
    low, high = corners[:, :, None]
    return int(((points >= low) & (points <= high)).all(axis=-1).any(axis=-1).sum())
