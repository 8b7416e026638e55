"""The frontier: how well each recipe ranks, against what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_COLOURS = {
    "chosen": "#1a7f37",
    "trusted": "#57ab5a",
    "open": "#bf8700",
    "below": "#8c959f",
    "beaten": "#8c959f",
}
_WORDS = {
    "chosen": "chosen",
    "trusted": "reaches the threshold, costs more",
    "open": "undecided",
    "below": "below the threshold",
    "beaten": "beaten at no higher cost",
}


def write_frontier(result: Mapping[str, Any], path: Path) -> None:
    """Draw every recipe that was judged, with its 95 % interval.

    Args:
        result: What `calibration.json` holds.
        path: The PNG file to write.

    Raises:
        OSError: If it cannot be written.
    """
    from matplotlib.figure import Figure

    shown = [s for s in result["standings"] if s["spearman"] is not None]
    figure = Figure(figsize=(8.4, 0.9 + 0.42 * max(6, len(shown))), layout="constrained")
    axes, table = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    names = []
    for row, standing in enumerate(reversed(shown)):
        estimate, colour = standing["spearman"], _COLOURS[standing["outcome"]]
        if estimate["low"] is not None:
            axes.plot([estimate["low"], estimate["high"]], [row, row], color=colour, linewidth=2)
        axes.plot(estimate["value"], row, "o", color=colour)
        names.append(f"{standing['recipe']} (n = {standing['n']})")
        seconds = max(standing["seconds_per_architecture"], 1e-3)
        table.barh(row, seconds, color=colour, height=0.5)
        table.annotate(
            f" {seconds:.2g} s", (seconds, row), va="center", fontsize=8, annotation_clip=False
        )
    axes.axvline(result["threshold"], color="black", linestyle="--", linewidth=1)
    axes.annotate(
        "threshold",
        (result["threshold"], 1.0),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="bottom",
        fontsize=8,
    )
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel(f"Spearman, 95 % interval, with\n{result['reference_name']}", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    table.set_xscale("log")
    table.set_xlim(right=table.get_xlim()[1] * 12)  # room for the figures behind the bars
    table.set_xlabel("seconds per\narchitecture", fontsize=9)
    for outcome in dict.fromkeys(standing["outcome"] for standing in shown):
        axes.plot([], [], "o-", color=_COLOURS[outcome], label=_WORDS[outcome])
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
