"""The learning curves of full training."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from nas_proxy.core.files import write_atomically
from nas_proxy.report.drawing import BLUE, DPI, GREY, RED, SKY, new_axes, write_words
from nas_proxy.report.learning_curve import mark_phases
from nas_proxy.retrain.result import TrainedContender

_NUM_POINTS = 100  # of a loss curve: means over as many pieces of the training
_COLOURS = {"best": BLUE, "median": RED, "resnet18": GREY}
_NAMES = {"median": "median architecture", "resnet18": "ResNet-18"}


def curves_of(trained: TrainedContender) -> dict[str, Any]:
    """Learning curves, means over the complete seeds: steps with loss, steps with accuracy."""
    complete = trained.complete
    losses = np.array([training.train_losses for training in complete]).mean(axis=0)
    pieces = np.array_split(losses, min(_NUM_POINTS, len(losses)))
    ends = np.cumsum([len(piece) for piece in pieces])
    percentages = sorted(
        int(name.partition("@")[2])
        for name in complete[0].signals
        if name.startswith("val_accuracy@")
    )
    accuracy = [
        [
            max(1, len(losses) * percentage // 100),
            _mean(trained, f"val_accuracy@{percentage}"),
        ]
        for percentage in percentages
    ]
    return {
        "train_loss": [[int(end), float(p.mean())] for end, p in zip(ends, pieces, strict=True)],
        "val_accuracy": [*accuracy, [len(losses), _mean(trained, "val_accuracy")]],
    }


def write_curves(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """`retrain_loss.png`, and `retrain_accuracy.png` where it was measured on the way.

    Args:
        rows: Those of `retrain.json` with curves.
        folder: Where the pictures go.
    """
    draw: dict[str, Callable[[], Figure]] = {"retrain_loss": lambda: _loss(rows)}
    if any(len(row["curves"]["val_accuracy"]) > 1 for row in rows):
        draw["retrain_accuracy"] = lambda: _accuracy(rows)
    paths = []
    for name, make in draw.items():
        buffer = io.BytesIO()
        make().savefig(buffer, format="png", dpi=DPI)
        write_atomically(folder / f"{name}.png", buffer.getvalue())
        paths.append(folder / f"{name}.png")
    return paths


def _loss(rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure, axes = new_axes(3.2)
    _lines(axes, rows, "train_loss", 1.0)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7), numticks=9))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.minorticks_off()
    write_words(axes, "Full training: loss", x="optimiser step", y="training loss (objective)")
    axes.legend(frameon=False, fontsize=9)
    return figure


def _accuracy(rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure, axes = new_axes(3.2)
    _lines(axes, rows, "val_accuracy", 100.0, marker="o")
    write_words(
        axes, "Full training: accuracy", x="optimiser step", y="search-validation accuracy in %"
    )
    axes.legend(frameon=False, fontsize=9)
    return figure


def _lines(
    axes: Axes, rows: Sequence[Mapping[str, Any]], curve: str, factor: float, marker: str = ""
) -> None:
    num_best, several = 0, sum(row["role"] == "best" for row in rows) > 1
    for row in rows:
        points = np.array(row["curves"][curve])
        num_best += row["role"] == "best"
        place = f", {num_best}" if several else ""
        name = _NAMES.get(row["role"], f"best of the search{place}")
        colour = SKY if row["role"] == "best" and num_best > 1 else _COLOURS[row["role"]]
        axes.plot(
            points[:, 0], factor * points[:, 1], color=colour, lw=1.8, label=name, marker=marker
        )
        mark_phases(axes, row.get("phases", ()), colour)


def _mean(trained: TrainedContender, signal: str) -> float:
    return float(np.mean([training.signals[signal] for training in trained.complete]))
