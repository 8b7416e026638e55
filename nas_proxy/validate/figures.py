"""The report's figures, drawn from the report alone; a figure without data is left out.

Texts of the report are drawn with `parse_math=False`: a dollar sign in a name is no formula.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from scipy.stats import rankdata

from nas_proxy.files import write_atomically
from nas_proxy.validate.ranks import Estimate

_MAX_OUTLIERS = 5
_DPI = 150
_WIDTH = 7.0  # inches: 10 points are 14 pixels when a page shows the figure 700 pixels wide
# Okabe and Ito's colours, which the colour-blind can tell apart.
_BLUE, _RED, _SKY = "#0072B2", "#D55E00", "#56B4E9"
_INK, _GREY, _FAINT = "#24292f", "#6b7480", "#d5dae0"
_SPEARMAN = "Spearman with 95 % interval"
_TICKS = {
    0.001: "1 ms", 0.01: "10 ms", 0.1: "0.1 s", 1: "1 s", 10: "10 s",
    60: "1 min", 600: "10 min", 3600: "1 h", 36_000: "10 h", 360_000: "100 h",
}  # fmt: skip
# Where a label may lie: pixels between it and its dot, and on which side; the first are best.
_GAPS = (14, 24, 38, 56, 78, 104, 134, 168, 206)
_DIRECTIONS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)])


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
        report: As `stages.report.collect` builds it.
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
        "optimisation_history.png": _optimisation_history,
    }
    written = []
    for name, draw in figures.items():
        figure = draw(report)
        if figure is not None:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white")
            write_atomically(folder / name, buffer.getvalue())
            written.append(folder / name)
    return written


def rank_outliers(report: dict[str, Any]) -> list[Outlier]:
    """The architectures whose two ranks lie furthest apart, the furthest first.

    Ranks less than a tenth of the sample apart are no outliers.
    """
    points = _points(report)
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


def _points(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The architectures that both the proxy and the reference have a value for."""
    if not report["validation"] or not report["points"]:
        return []
    name = report["validation"]["rows"][0]["name"]
    return [
        {**point, "score": point["scores"][name]}
        for point in report["points"]
        if point["scores"].get(name) is not None and point["reference"] is not None
    ]


def _rank_scatter(report: dict[str, Any]) -> Figure | None:
    points = _points(report)
    if len(points) < 2:
        return None
    validation = report["validation"]
    figure, axes = _axes(5.2)
    scores, reference = np.array([[point["score"], point["reference"]] for point in points]).T
    x, y = _clip(scores), _clip(reference)
    uniform = np.array([point["drawn"] == "uniform" for point in points])
    for chosen, label, marker, color in (
        (uniform, "drawn uniformly", "o", _BLUE),
        (~uniform, "drawn over the strata of the score", "D", _RED),
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
    _write_words(
        axes,
        f"{rho}, n = {proxy['n']}",
        x=f"score of the proxy (higher is better{_beyond(scores, x, 'left')})",
        y=f"{validation['reference_name']}{_beyond(reference, y, 'lower')}",
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    labels = [
        _Label(max(found.score, x.min()), max(found.reference, y.min()), str(found.number), True)
        for found in rank_outliers(report)
    ]
    _place(axes, labels, dots=[Bbox([dot, dot]) for dot in np.column_stack([x, y])])
    return figure


def _shade_best(axes: Axes, report: dict[str, Any]) -> None:
    """The band of the best part by reference; its border is that of `rank_report`."""
    uniform = [p["reference"] for p in report["points"] if p["drawn"] == "uniform"]
    ordered = sorted((value for value in uniform if value is not None), reverse=True)
    fraction = report["validation"]["best_fraction"]
    low, high = axes.get_ylim()
    if ordered:
        axes.axhspan(
            ordered[max(1, round(fraction * len(ordered))) - 1], high, color=_SKY, alpha=0.16,
            lw=0, zorder=0, label=f"best {100 * fraction:.0f} % by reference",
        )  # fmt: skip
    axes.set_ylim(low, high)


def _rank_comparison(report: dict[str, Any]) -> Figure | None:
    rows = _rows(report, "proxy", "control", "signal")
    if not rows:
        return None
    rows = sorted(rows, key=lambda row: row["spearman"]["value"])
    figure, axes = _axes(1.5 + 0.42 * len(rows))
    for position, row in enumerate(rows):
        estimate, strong = Estimate(**row["spearman"]), row["kind"] == "proxy"
        low, high = _ends(estimate)
        color = _BLUE if strong else _GREY
        axes.hlines(position, low, high, color=color, lw=2.6 if strong else 1.6, zorder=2)
        if strong:
            axes.axvspan(low, high, color=_BLUE, alpha=0.08, lw=0, zorder=0)
        axes.plot(
            estimate.value, position, "o", ms=9 if strong else 7, mec=color, mew=1.4, zorder=3,
            mfc="white" if row["kind"] == "signal" else color,
        )  # fmt: skip
        axes.annotate(
            str(estimate), (1.02, position), xycoords=("axes fraction", "data"), va="center",
            fontsize=9, color=_INK if strong else _GREY, weight="bold" if strong else "normal",
        )  # fmt: skip
    axes.axvline(0, color=_GREY, lw=1, zorder=1)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(range(len(rows)), [_wrap(row["name"], 30) for row in rows], parse_math=False)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if row["kind"] == "proxy" else "normal")
        tick.set_color(_GREY if row["kind"] == "signal" else _INK)
    _write_words(axes, "Which ranking agrees best with the reference?", x=_SPEARMAN, y="")
    return figure


def _cost(report: dict[str, Any]) -> Figure | None:
    rows = _rows(report, "proxy", "control")
    if not rows:
        return None
    figure, axes = _axes(4.8)
    axes.set_xscale("log")
    seconds = [max(row["seconds_per_architecture"], min(_TICKS)) for row in rows]
    dots, lines = [], []
    for x, row in zip(seconds, rows, strict=True):
        estimate = Estimate(**row["spearman"])
        color = _BLUE if row["kind"] == "proxy" else _GREY
        low, high = _ends(estimate)
        axes.vlines(x, low, high, color=color, lw=1.4, alpha=0.55)
        axes.plot(x, estimate.value, "o", ms=9 if row["kind"] == "proxy" else 7, color=color)
        dots.append(Bbox([[x, estimate.value], [x, estimate.value]]))
        lines.append(Bbox([[x, low], [x, high]]))
    axes.margins(y=0.1)
    reference = report["validation"]["reference_seconds_per_architecture"]
    if reference > 0:
        axes.axvline(reference, color=_RED, lw=1.6, ls="--", label="the reference itself")
        lines.append(Bbox([[reference, axes.get_ylim()[0]], [reference, axes.get_ylim()[1]]]))
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)
    _show_seconds(axes, min(seconds), max([*seconds, reference]))
    time = "time for one architecture, one-off cost left out"
    _write_words(axes, "What a ranking costs, and what it is worth", x=time, y=_SPEARMAN)
    labels = [
        _Label(x, row["spearman"]["value"], _wrap(row["name"], 24), row["kind"] == "proxy")
        for x, row in zip(seconds, rows, strict=True)
    ]
    _place(axes, labels, dots=dots, lines=lines)
    return figure


def _show_seconds(axes: Axes, low: float, high: float) -> None:
    """Ticks that a person reads, and room for labels at both sides."""
    low, high = low / 4, high * 12
    axes.set_xlim(low, high)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [_TICKS[tick] for tick in ticks])
    axes.minorticks_off()


def _optimisation_history(report: dict[str, Any]) -> Figure | None:
    trials = report["search"]["trials"]
    scored = [trial for trial in trials if trial["score"] is not None]
    if not scored:
        return None
    figure, axes = _axes(3.9)
    x = np.array([trial["trial"] for trial in scored])
    scores = np.array([trial["score"] for trial in scored], dtype=np.float64)
    y = _clip(scores, reach=6)
    axes.scatter(
        x, y, s=26, color=_GREY, alpha=0.8, linewidths=0, zorder=3, label="score of a trial"
    )
    last = max(trial["trial"] for trial in trials)
    best = np.maximum.accumulate(y)
    axes.step([*x, last], [*best, best[-1]], where="post", color=_BLUE, lw=2.2, label="best so far")
    failed = [trial["trial"] for trial in trials if trial["score"] is None]
    axes.margins(0.03, 0.12)
    if failed:
        axes.plot(
            failed, [0.03] * len(failed), "x", color=_RED, ms=7, mew=1.8, ls="",
            transform=axes.get_xaxis_transform(), label=f"failed ({len(failed)})", clip_on=False,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    words = "Score of each trial of the search"
    _write_words(axes, words, x="trial", y=f"score (higher is better{_beyond(scores, y, 'lower')})")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _rows(report: dict[str, Any], *kinds: str) -> list[dict[str, Any]]:
    """The rankings of these kinds that have a Spearman."""
    rows = (report["validation"] or {"rows": []})["rows"]
    return [row for row in rows if row["kind"] in kinds and row["spearman"]]


def _ends(estimate: Estimate) -> tuple[float, float]:
    """The interval, or the value alone where there is none."""
    if estimate.low is None or estimate.high is None:
        return estimate.value, estimate.value
    return estimate.low, estimate.high


def _clip(values: NDArray[np.float64], reach: float = 3) -> NDArray[np.float64]:
    """Values whose far worse ones, a quarter at most, are moved up to the edge of what is shown.

    One network that learnt nothing would squash all others. The better half spans a distance from
    its median to the best; `reach` times that distance is shown below the median.
    """
    median, best = np.median(values), values.max()
    floor = min(median - reach * (best - median), np.quantile(values, 0.25))
    inside = values[values >= floor].min()
    clipped: NDArray[np.float64] = np.maximum(values, inside - 0.05 * (best - inside))
    return clipped


def _beyond(values: NDArray[np.float64], shown: NDArray[np.float64], edge: str) -> str:
    """A remark on values that `_clip` moved."""
    return f"; dots on the {edge} edge lie beyond it" if (shown > values).any() else ""


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(
        figsize=(_WIDTH, height), dpi=_DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)
    )
    FigureCanvasAgg(figure)  # a figure keeps it
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(labelcolor=_INK, color=_FAINT, labelsize=9.5, length=3)
    axes.grid(color=_FAINT, lw=0.6, alpha=0.7)
    return figure, axes


def _write_words(axes: Axes, title: str, *, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11.5, weight="bold", color=_INK, pad=10)
    axes.set_xlabel(_wrap(x, 80), fontsize=10, color=_INK, labelpad=6)
    axes.set_ylabel(_wrap(y, 44), fontsize=10, color=_INK, labelpad=6, parse_math=False)


def _wrap(text: str, width: int) -> str:
    """Lines of about the same length."""
    num_lines = -(-len(text) // width)
    return textwrap.fill(text, min(width, len(text) // max(1, num_lines) + 6))


@dataclass(frozen=True)
class _Label:
    """A text that belongs to a dot at `(x, y)`."""

    x: float
    y: float
    text: str
    strong: bool = False


def _place(
    axes: Axes, labels: Sequence[_Label], *, dots: Sequence[Bbox], lines: Sequence[Bbox] = ()
) -> None:
    """Write each label near its dot, over no dot and no other label, and over few lines.

    Args:
        axes: Finished otherwise: the places hold for the layout as it is now.
        labels: The first one chooses first.
        dots: Boxes in data coordinates.
        lines: Likewise.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    taken = [axes.transData.transform_bbox(box).padded(6) for box in dots]
    crossed = [axes.transData.transform_bbox(box).padded(2) for box in lines]
    for label in labels:
        dot = axes.transData.transform((label.x, label.y))
        text = axes.annotate(
            label.text, (label.x, label.y), (0, 0), textcoords="offset points", ha="center",
            va="center", fontsize=9, color=_INK, weight="bold" if label.strong else "normal",
            parse_math=False, zorder=5, path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": _GREY, "lw": 0.7, "shrinkA": 0, "shrinkB": 5},
        )  # fmt: skip
        half = np.array(text.get_window_extent().size) / 2
        shifts = [direction * (half + gap) for gap in _GAPS for direction in _DIRECTIONS]
        boxes = [Bbox([dot + shift - half, dot + shift + half]).padded(2) for shift in shifts]
        badness = [
            gap
            + 500 * sum(not axes.bbox.contains(*corner) for corner in box.corners())
            + 500 * box.count_overlaps(taken)
            + 25 * box.count_overlaps(crossed)
            for gap, box in zip(np.repeat(_GAPS, len(_DIRECTIONS)), boxes, strict=True)
        ]
        chosen = int(np.argmin(badness))
        taken.append(boxes[chosen])
        text.set_position(tuple(shifts[chosen] * 72 / figure.dpi))
        if text.arrow_patch is not None:  # a label beside its dot needs no line to it
            text.arrow_patch.set_visible(not boxes[chosen].padded(22).contains(*dot))
