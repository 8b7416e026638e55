"""What the guard found while a search ran."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nas_proxy.report._drawing import BLUE, GREY, RED, align, ends, new_axes, write_words
from nas_proxy.report.values import StudyReport
from nas_proxy.statistics.ranks import Estimate


def guard_figure(report: StudyReport) -> Figure | None:
    """Spearman at each check, among random candidates and all; None without one."""
    found = report.search.guard
    if found is None:
        return None
    random = [(c.num_trials, c.random) for c in found.checks if c.random is not None]
    everyone = [(c.num_trials, c.everyone) for c in found.checks if c.everyone is not None]
    if not random and not everyone:
        return None
    figure, axes = new_axes(3.9)
    # Two bands upon one another would hide both.
    _draw_checks(axes, random, "random candidates", color=BLUE, marker="o", band=len(random) > 1)
    _draw_checks(axes, everyone, "all checked", color=GREY, marker="D", band=False)
    axes.axhline(found.threshold, color=RED, lw=1.4, ls="--", label="threshold", zorder=2)
    axes.margins(0.04, 0.1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    write_words(
        axes,
        "Does the score still rank, among the candidates of the search?",
        x="trials",
        y="Spearman with full-data training, 95 % interval",
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    align(axes)
    return figure


def _draw_checks(
    axes: Axes,
    checks: Sequence[tuple[int, Estimate]],
    label: str,
    *,
    color: str,
    marker: str,
    band: bool,
) -> None:
    """Estimates by the number of trials, with their intervals; nothing if there is none."""
    if not checks:
        return
    x, estimates = [number for number, _ in checks], [estimate for _, estimate in checks]
    low, high = zip(*map(ends, estimates), strict=True)
    if band:
        axes.fill_between(x, low, high, color=color, alpha=0.14, lw=0, zorder=1)
    else:
        axes.vlines(x, low, high, color=color, lw=1.4, alpha=0.7, zorder=2)
    values = [estimate.value for estimate in estimates]
    axes.plot(x, values, marker=marker, color=color, lw=1.8, ms=6, label=label, zorder=3)
