"""The report's figures, drawn from the report alone; a figure without data is left out.

Texts of the report are drawn with `parse_math=False`: a dollar sign in a name is no formula.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import scipy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import Bbox

from nas_proxy.core.files import write_atomically
from nas_proxy.report._cost_figure import CostPoint, draw_cost
from nas_proxy.report._drawing import (
    BLUE,
    DPI,
    GREY,
    INK,
    RED,
    SKY,
    Label,
    align,
    beyond,
    clip_worst,
    ends,
    new_axes,
    place_labels,
    wrap,
    write_words,
)
from nas_proxy.report._guard_figure import guard_figure
from nas_proxy.report._pareto_figure import costs_of, pareto_figure
from nas_proxy.report.learning_curve import draw_learning_curve, loss_curve
from nas_proxy.report.search_figures import (
    edf_figure,
    importance_figure,
    parallel_figure,
    slice_figure,
    timeline_figure,
)
from nas_proxy.report.values import StudyReport
from nas_proxy.statistics.ranks import Estimate, Values, num_best
from nas_proxy.validate.values import Point, RankRow

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


def write_figures(report: StudyReport, folder: Path) -> list[Path]:
    """Draw what the report has data for.

    Args:
        report: Of a study.
        folder: Where to; made if it does not exist.

    Returns:
        The files, in the order in which a person wants to see them.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
    """
    figures: dict[str, Callable[[StudyReport], Figure | None]] = {
        "rank_scatter.png": _rank_scatter,
        "rank_comparison.png": _rank_comparison,
        "cost.png": _cost,
        "uncertainty.png": _uncertainty,
        "optimisation_history.png": _optimisation_history,
        "guard.png": guard_figure,
        "learning_curve.png": _learning_curve,
        "importance.png": importance_figure,
        "parallel_coordinates.png": parallel_figure,
        "slice.png": slice_figure,
        "timeline.png": timeline_figure,
        "edf.png": edf_figure,
    }
    for cost in costs_of(report.search):
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


def rank_outliers(report: StudyReport) -> list[Outlier]:
    """The architectures whose two ranks lie furthest apart, the furthest first.

    Ranks less than a tenth of the sample apart are no outliers.
    """
    points = ranked_points(report)
    if not points:
        return []
    scores, reference = _columns(points)
    score_ranks = scipy.stats.rankdata(-scores, method="min")
    reference_ranks = scipy.stats.rankdata(-reference, method="min")
    apart = np.abs(score_ranks - reference_ranks)
    furthest = np.argsort(-apart, kind="stable")[:_MAX_OUTLIERS]
    return [
        Outlier(
            number=number,
            description=points[index].point.description,
            score=float(scores[index]),
            reference=float(reference[index]),
            score_rank=int(score_ranks[index]),
            reference_rank=int(reference_ranks[index]),
            num_ranked=len(points),
        )
        for number, index in enumerate(furthest, start=1)
        if apart[index] > len(points) / 10
    ]


@dataclass(frozen=True)
class RankedPoint:
    """An architecture that both sides have a value for.

    Attributes:
        point: What else is known of it.
        score: Of the judged ranking.
        reference: Value of the reference.
    """

    point: Point
    score: float
    reference: float


def ranked_points(report: StudyReport) -> list[RankedPoint]:
    """The architectures that both sides have a value for; none if nothing was judged."""
    if report.validation is None:
        return []
    name = report.validation.judged.name
    found = ((point, point.scores.get(name), point.reference) for point in report.points)
    return [
        RankedPoint(point, score, reference)
        for point, score, reference in found
        if score is not None and reference is not None
    ]


def _columns(points: Sequence[RankedPoint]) -> tuple[Values, Values]:
    """Scores and references, `(n,)` each."""
    scores, reference = np.array([[point.score, point.reference] for point in points]).T
    return scores, reference


def _rank_scatter(report: StudyReport) -> Figure | None:
    points, validation = ranked_points(report), report.validation
    if validation is None or len(points) < 2:
        return None
    figure, axes = new_axes(5.2)
    scores, reference = _columns(points)
    x, y = clip_worst(scores), clip_worst(reference)
    axes.scatter(
        x, y, s=34, alpha=0.85, linewidths=0.6, edgecolors="white", zorder=3, color=BLUE,
        label=f"architectures ({len(points)})",
    )  # fmt: skip
    axes.margins(0.06, 0.08)
    _shade_best(axes, report.points, validation.best_fraction)
    proxy = validation.judged
    rho = f"Spearman {proxy.spearman}" if proxy.spearman else "No Spearman"
    write_words(
        axes,
        f"{rho}, n = {proxy.n}",
        x=f"score of the proxy (higher is better{beyond(scores, x, 'left')})",
        y=f"{validation.reference_name}{beyond(reference, y, 'lower')}",
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    labels = [
        Label(max(found.score, x.min()), max(found.reference, y.min()), str(found.number), True)
        for found in rank_outliers(report)
    ]
    place_labels(axes, labels, dots=[Bbox([dot, dot]) for dot in np.column_stack([x, y])])
    return figure


def _shade_best(axes: Axes, points: Sequence[Point], fraction: float) -> None:
    """The band of the best part by reference; its border is that of `rank_report`."""
    known = (point.reference for point in points)
    ordered = sorted((value for value in known if value is not None), reverse=True)
    low, high = axes.get_ylim()
    if ordered:
        axes.axhspan(
            ordered[num_best(fraction, len(ordered)) - 1], high, color=SKY, alpha=0.16,
            lw=0, zorder=0, label=f"best {100 * fraction:.0f} % by reference",
        )  # fmt: skip
    axes.set_ylim(low, high)


def _rank_comparison(report: StudyReport) -> Figure | None:
    rows = sorted(_rows(report), key=lambda each: each[0].value)
    if not rows:
        return None
    figure, axes = new_axes(1.5 + 0.42 * len(rows))
    for position, (estimate, row) in enumerate(rows):
        strong = _is_judged(report, row)
        low, high = ends(estimate)
        color = BLUE if strong else GREY
        axes.hlines(position, low, high, color=color, lw=2.6 if strong else 1.6, zorder=2)
        if strong:
            axes.axvspan(low, high, color=BLUE, alpha=0.08, lw=0, zorder=0)
        axes.plot(
            estimate.value, position, "o", ms=9 if strong else 7, mec=color, mew=1.4, zorder=3,
            mfc="white" if row.kind == "signal" else color,
        )  # fmt: skip
        axes.annotate(
            str(estimate), (1.02, position), xycoords=("axes fraction", "data"), va="center",
            fontsize=9, color=INK if strong else GREY, weight="bold" if strong else "normal",
        )  # fmt: skip
    axes.axvline(0, color=GREY, lw=1, zorder=1)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(range(len(rows)), [wrap(row.name, 30) for _, row in rows], parse_math=False)
    for tick, (_, row) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if _is_judged(report, row) else "normal")
        tick.set_color(GREY if row.kind == "signal" else INK)
    write_words(
        axes, "Which ranking agrees best with the reference?", x="Spearman with 95 % interval", y=""
    )
    return figure


def _cost(report: StudyReport) -> Figure | None:
    rows = _rows(report)
    if not rows or report.validation is None:
        return None
    signals = [(estimate, row) for estimate, row in rows if row.kind == "signal"]
    best_first = sorted(signals, key=lambda each: -each[0].value)
    nameless = [row for _, row in best_first[_MAX_SIGNAL_NAMES:]]
    numbers = sorted({row.n for _, row in rows})
    n = " to ".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))
    return draw_cost(
        [
            CostPoint(
                "" if row in nameless else row.name,
                row.seconds_per_architecture,
                estimate,
                strong=_is_judged(report, row),
                hollow=row.kind == "signal",
            )
            for estimate, row in rows
        ],
        title=f"What a ranking costs, and what it is worth (n = {n})",
        reference_seconds=report.validation.reference_seconds_per_architecture,
    )


def _uncertainty(report: StudyReport) -> Figure | None:
    found = report.validation.judged.uncertainty if report.validation else None
    if not found:
        return None
    figure, axes = new_axes(5.4)
    expected = [entry.expected for entry in found.coverage]
    observed = [entry.observed for entry in found.coverage]
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
        f"Is the score as sure of itself as it may be? (n = {found.n})",
        x="share of the references that its intervals should hold",
        y="share that they hold",
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _learning_curve(report: StudyReport) -> Figure | None:
    """The best candidate's losses; none where nothing was trained."""
    training = report.search.best_training
    if training is None:
        return None
    curve = loss_curve(training.train_losses, training.phases)
    return draw_learning_curve(curve, wrap(f"Training of the best: {training.description}", 70))


def _optimisation_history(report: StudyReport) -> Figure | None:
    trials = report.search.trials
    scored = [(trial.trial, trial.score) for trial in trials if trial.score is not None]
    if not scored:
        return None
    figure, axes = new_axes(3.9)
    x = np.array([number for number, _ in scored])
    scores = np.array([score for _, score in scored], dtype=np.float64)
    y = clip_worst(scores, reach=6)
    axes.scatter(
        x, y, s=26, color=GREY, alpha=0.8, linewidths=0, zorder=3, label="score of a trial"
    )
    last = max(trial.trial for trial in trials)
    best = np.maximum.accumulate(y)
    axes.step([*x, last], [*best, best[-1]], where="post", color=BLUE, lw=2.2, label="best so far")
    axes.margins(0.03, 0.12)
    without = {
        "failed": ([trial.trial for trial in trials if trial.failed], "x", RED),
        "pruned": ([trial.trial for trial in trials if trial.pruned_after], "|", GREY),
    }
    for word, (numbers, marker, color) in without.items():
        if numbers:
            axes.plot(
                numbers, [0.03] * len(numbers), marker, color=color, ms=7, mew=1.8, ls="",
                transform=axes.get_xaxis_transform(), label=f"{word} ({len(numbers)})",
                clip_on=False,
            )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    words = "Score of each trial of the search"
    write_words(axes, words, x="trial", y=f"score (higher is better{beyond(scores, y, 'lower')})")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    align(axes)
    return figure


def _rows(report: StudyReport) -> list[tuple[Estimate, RankRow]]:
    """The rankings that have a Spearman, the judged one first; not the ceiling."""
    rows = report.validation.all_rows if report.validation else ()
    return [(row.spearman, row) for row in rows if row.spearman]


def _is_judged(report: StudyReport, row: RankRow) -> bool:
    return report.validation is not None and row is report.validation.judged
