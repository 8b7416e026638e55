"""What Optuna's users look for in a search: importances, choices against the score, time, EDF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from nas_proxy.report._drawing import (
    BLUE,
    FAINT,
    GREY,
    INK,
    RED,
    SKY,
    align,
    beyond,
    clip_worst,
    new_axes,
    new_grid,
    wrap,
    write_words,
)
from nas_proxy.report.values import StudyReport
from nas_proxy.search.result import Choice, SearchResult, TrialRow

_MOST_AXES = 8  # choices in one figure; more would be too narrow to read
_MOST_LEVELS = 8  # values of a choice that are written out
_MOST_BARS = 15
_UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
_SHADES = LinearSegmentedColormap.from_list("score", [FAINT, SKY, BLUE])


@dataclass(frozen=True)
class _Axis:
    """One choice of a space, over the trials that made it.

    Attributes:
        name: Of the choice.
        places: Where each trial lies, `(n,)`; not a number where it did not choose.
        ticks: Places that are labelled.
        labels: Their texts.
    """

    name: str
    places: NDArray[np.float64]
    ticks: Sequence[float]
    labels: Sequence[str]


def importance_figure(report: StudyReport) -> Figure | None:
    """How much each choice decides; None where that is not known."""
    found = list(report.search.importances.items())
    if not found:
        return None
    shown = found[:_MOST_BARS][::-1]
    figure, axes = new_axes(1.5 + 0.3 * len(shown))
    values = [value for _, value in shown]
    axes.barh(range(len(shown)), values, height=0.62, color=BLUE, alpha=0.85, zorder=2)
    for place, value in enumerate(values):
        axes.text(value, place, f"  {100 * value:.0f} %", va="center", fontsize=9, color=INK)
    axes.set_yticks(range(len(shown)), [wrap(name, 30) for name, _ in shown], parse_math=False)
    axes.set_xlim(0, 1.12 * max(values))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.grid(visible=False, axis="y")
    more = f", the first {len(shown)} of {len(found)}" if len(found) > len(shown) else ""
    write_words(
        axes, f"Which choices decide about a high score{more}", x="importance (PED-ANOVA)", y=""
    )
    return figure


def parallel_figure(report: StudyReport) -> Figure | None:
    """Every trial as a line through its choices to its score; None without choices."""
    trials, axes_of = _scored(report.search), _axes(report.search)
    if len(trials) < 2 or not axes_of:
        return None
    scores = np.array([trial.score for trial in trials], dtype=np.float64)
    shown = clip_worst(scores, reach=6)
    ends = (float(shown.min()), float(shown.max()))
    columns = [
        *axes_of,
        _Axis("score", shown, ends, [f"{value:.3g}" for value in ends]),
    ]
    figure, axes = new_axes(4.2)
    heights = np.stack([_unit(column) for column in columns], axis=1)
    order = np.argsort(shown)
    lines = [np.column_stack([range(len(columns)), heights[row]]) for row in order]
    lines = [line[~np.isnan(line[:, 1])] for line in lines]
    ranks = np.linspace(0, 1, len(order))
    widths = np.where(np.arange(len(order)) == len(order) - 1, 2.6, 1.1)
    colours = [*_SHADES(ranks[:-1]), RED]
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=widths, alpha=0.85))
    for place, column in enumerate(columns):
        axes.axvline(place, color=GREY, lw=0.8, zorder=1)
        for height, label in zip(_unit(column, column.ticks), column.labels, strict=True):
            axes.text(
                place + 0.05, height, shorten(label, 13, placeholder="…"), fontsize=8, color=INK,
                va="center", zorder=4, parse_math=False,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip
    axes.set_xlim(-0.1, len(columns) - 0.4)
    axes.set_ylim(-0.05, 1.05)
    names = [wrap(shorten(column.name, 26, placeholder="…"), 11) for column in columns]
    axes.set_xticks(range(len(columns)), names, parse_math=False)
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(visible=False)
    write_words(axes, f"Choices of {len(trials)} trials{_left_out(report.search)}", x="", y="")
    return figure


def slice_figure(report: StudyReport) -> Figure | None:
    """The score against each choice; None without choices."""
    trials, columns = _scored(report.search), _axes(report.search)
    if len(trials) < 2 or not columns:
        return None
    scores = np.array([trial.score for trial in trials], dtype=np.float64)
    shown = clip_worst(scores, reach=6)
    rows = -(-len(columns) // 4)
    width = -(-len(columns) // rows)
    figure, grid = new_grid(rows, width, 0.7 + 2.0 * rows)
    for axes, column in zip(grid, columns, strict=False):
        spread = np.linspace(-0.12, 0.12, len(trials)) if len(column.ticks) > 1 else 0.0
        axes.scatter(
            column.places + spread, shown, s=18, c=range(len(trials)), cmap=_SHADES, zorder=3,
            linewidths=0.4, edgecolors=GREY,
        )  # fmt: skip
        labels = [shorten(label, 12, placeholder="…") for label in column.labels]
        axes.set_xticks(column.ticks, labels, parse_math=False, rotation=35, ha="right")
        low, high = np.nanmin(column.places), np.nanmax(column.places)
        margin = 0.5 if high - low <= len(column.ticks) else 0.06 * (high - low)
        axes.set_xlim(low - margin, high + margin)
        axes.tick_params(labelsize=8)
        axes.set_title(wrap(column.name, 22), fontsize=9, color=INK, parse_math=False)
    for axes in grid[len(columns) :]:
        axes.set_visible(False)
    words = f"score (higher is better{beyond(scores, shown, 'lower')})"
    figure.supylabel(words, fontsize=9.5, color=INK)
    title = f"The score by what was chosen{_left_out(report.search)}"
    figure.suptitle(title, x=0.02, ha="left", fontsize=11.5, weight="bold", color=INK)
    return figure


def timeline_figure(report: StudyReport) -> Figure | None:
    """When each trial was evaluated; None where that is not known."""
    known = [
        (trial, trial.started_unix_seconds)
        for trial in report.search.trials
        if trial.started_unix_seconds is not None
    ]
    if not known:
        return None
    first = min(began for _, began in known)
    last = max(began + trial.seconds for trial, began in known) - first
    unit, word = next((u, w) for u, w in _UNITS if last >= 2 * u or u == 1)
    figure, axes = new_axes(3.9)
    for name, colour, has_score in (("evaluated", BLUE, True), ("failed", RED, False)):
        rows = [each for each in known if (each[0].score is not None) == has_score]
        if rows:
            axes.barh(
                [trial.trial for trial, _ in rows],
                [trial.seconds / unit for trial, _ in rows],
                left=[(began - first) / unit for _, began in rows],
                height=0.8, color=colour, label=f"{name} ({len(rows)})", zorder=3,
            )  # fmt: skip
    axes.invert_yaxis()
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    write_words(
        axes, "When each trial ran", x=f"{word} of the clock since the first one", y="trial"
    )
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    align(axes)
    return figure


def edf_figure(report: StudyReport) -> Figure | None:
    """Share of architectures up to each score, of the search and of a uniform draw."""
    searched = [trial.score for trial in report.search.trials if trial.score is not None]
    if len(searched) < 2:
        return None
    samples = {f"proposed by the search ({len(searched)})": (searched, BLUE)}
    drawn = _uniformly_drawn(report)
    if len(drawn) > 1:
        samples[f"drawn uniformly ({len(drawn)})"] = (drawn, GREY)
    every = np.array([score for scores, _ in samples.values() for score in scores])
    left = float(clip_worst(every, reach=6).min())
    figure, axes = new_axes(3.4)
    for name, (scores, colour) in samples.items():
        x = np.sort(scores)
        y = np.arange(1, len(x) + 1) / len(x)
        axes.step([left, *np.maximum(x, left), every.max()], [0, *y, 1], where="post",
                  color=colour, lw=2, label=name)  # fmt: skip
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    write_words(
        axes, "Empirical distribution of scores", x="score (higher is better)",
        y="share up to this score",
    )  # fmt: skip
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    align(axes)
    return figure


def _uniformly_drawn(report: StudyReport) -> list[float]:
    """The proxy's scores of what the validation drew."""
    if report.validation is None:
        return []
    name = report.validation.judged.name
    found = (point.scores.get(name) for point in report.points)
    return [score for score in found if score is not None]


def _scored(search: SearchResult) -> list[TrialRow]:
    return [trial for trial in search.trials if trial.score is not None and trial.choices]


def _left_out(search: SearchResult) -> str:
    num = len(_names(search))
    return f", the {_MOST_AXES} most important of {num}" if num > _MOST_AXES else ""


def _names(search: SearchResult) -> list[str]:
    """Choices that were made in more than one way, the most important first."""
    values: dict[str, set[Choice]] = {}
    for trial in _scored(search):
        for name, value in trial.choices.items():
            values.setdefault(name, set()).add(value)
    varied = [name for name, found in values.items() if len(found) > 1]
    order = list(search.importances)
    return sorted(varied, key=lambda name: order.index(name) if name in order else len(order))


def _axes(search: SearchResult) -> list[_Axis]:
    trials = _scored(search)
    return [
        _axis(
            name, [trial.choices.get(name) for trial in trials], [name in t.choices for t in trials]
        )
        for name in _names(search)[:_MOST_AXES]
    ]


def _axis(name: str, values: Sequence[Choice], made: Sequence[bool]) -> _Axis:
    """Numbers where they lie; what is no number, and few numbers, side by side in their order."""
    chosen = [value for value, is_made in zip(values, made, strict=True) if is_made]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in chosen)
    levels = sorted(set(chosen), key=(lambda v: (0, v)) if numeric else (lambda v: (1, str(v))))
    if numeric and len(levels) > _MOST_LEVELS:
        places = [float(v) if is_made else np.nan for v, is_made in zip(values, made, strict=True)]  # type: ignore[arg-type]
        low, high = float(levels[0]), float(levels[-1])  # type: ignore[arg-type]
        ticks = [tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
        return _Axis(name, np.array(places), ticks, [f"{tick:g}" for tick in ticks])
    place_of = {level: float(place) for place, level in enumerate(levels)}
    places = [place_of[v] if is_made else np.nan for v, is_made in zip(values, made, strict=True)]
    step = -(-len(levels) // _MOST_LEVELS)  # of many, every second or third is written
    ticks = [float(place) for place in range(0, len(levels), step)]
    return _Axis(name, np.array(places), ticks, [str(levels[int(tick)]) for tick in ticks])


def _unit(column: _Axis, at: Sequence[float] | None = None) -> NDArray[np.float64]:
    """Places of an axis, or its own, between 0 and 1."""
    low, high = np.nanmin(column.places), np.nanmax(column.places)
    asked = column.places if at is None else np.asarray(at, dtype=np.float64)
    return np.asarray((asked - low) / (high - low) if high > low else 0.5 + 0 * asked)
