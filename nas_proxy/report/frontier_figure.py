"""The frontier: how well each recipe ranks, against what it costs."""

from __future__ import annotations

from pathlib import Path

from nas_proxy.calibrate.result import CalibrationResult

_COLOURS = {
    "chosen": "#1a7f37",
    "trusted": "#57ab5a",
    "open": "#bf8700",
    "below": "#8c959f",
    "beaten": "#8c959f",
}
_WORDS = {
    "chosen": "chosen",
    "trusted": "can be trusted too",
    "open": "undecided",
    "below": "below the threshold",
    "beaten": "beaten at no higher cost",
}


def write_frontier(result: CalibrationResult, path: Path) -> None:
    """Draw every recipe that was judged, with its 95 % interval.

    Args:
        result: Of a calibration.
        path: The PNG file to write.

    Raises:
        OSError: If it cannot be written.
    """
    from nas_proxy.report._drawing import FAINT, GREY, INK, new_axes, wrap, write_words
    from nas_proxy.statistics.words import duration

    shown = [(s.spearman, s) for s in result.standings if s.spearman is not None]
    figure, axes = new_axes(1.6 + 0.36 * max(4, len(shown)))
    for row, (estimate, standing) in enumerate(reversed(shown)):
        colour = _COLOURS[standing.outcome]
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [row, row], color=colour, linewidth=2)
        axes.plot(estimate.value, row, "o", color=colour)
        axes.annotate(
            duration(standing.seconds_per_architecture),
            (1.02, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            color=INK if standing.outcome == "chosen" else GREY,
            weight="bold" if standing.outcome == "chosen" else "normal",
        )
    names = [f"{wrap(standing.recipe, 26)} (n = {standing.n})" for _, standing in shown[::-1]]
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.axvline(result.threshold, color=INK, linestyle="--", linewidth=1)
    for x, ha, text in ((result.threshold, "right", "threshold "), (1.02, "left", "cost")):
        across = "axes fraction" if text == "cost" else "data"
        axes.annotate(
            text, (x, 1.01), xycoords=(across, "axes fraction"), ha=ha, va="bottom",
            fontsize=9, color=GREY,
        )  # fmt: skip
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, color=FAINT)
    write_words(
        axes,
        "Which recipe can be trusted?",
        x="Spearman with 95 % interval",
        y="",
    )
    for outcome in dict.fromkeys(standing.outcome for _, standing in shown):
        axes.plot([], [], "o-", color=_COLOURS[outcome], label=_WORDS[outcome])
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
