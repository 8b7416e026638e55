"""The learning curves of full training."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from nas_proxy.core.files import write_atomically
from nas_proxy.report._drawing import BLUE, DPI, GREY, RED, SKY, align, new_axes, write_words
from nas_proxy.report.learning_curve import mark_phases
from nas_proxy.retrain.result import Curves, RetrainRow

_COLOURS = {"best": BLUE, "median": RED, "resnet18": GREY}
_NAMES = {"median": "median architecture", "resnet18": "ResNet-18"}
_Trained = tuple[RetrainRow, Curves]


def write_curves(rows: Sequence[RetrainRow], folder: Path) -> list[Path]:
    """`retrain_loss.png`, and `retrain_accuracy.png` where it was measured on the way.

    Args:
        rows: Those without curves are left out.
        folder: Where the pictures go.
    """
    trained = [(row, row.curves) for row in rows if row.curves is not None]
    draw: dict[str, Callable[[], Figure]] = {"retrain_loss": lambda: _loss(trained)}
    if any(len(curves.val_accuracy) > 1 for _, curves in trained):
        draw["retrain_accuracy"] = lambda: _accuracy(trained)
    paths = []
    for name, make in draw.items():
        buffer = io.BytesIO()
        make().savefig(buffer, format="png", dpi=DPI)
        write_atomically(folder / f"{name}.png", buffer.getvalue())
        paths.append(folder / f"{name}.png")
    return paths


def _loss(trained: Sequence[_Trained]) -> Figure:
    figure, axes = new_axes(3.2)
    _lines(axes, [(row, curves.train_loss) for row, curves in trained], 1.0)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7), numticks=9))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.minorticks_off()
    write_words(axes, "Full training: loss", x="optimiser step", y="training loss (objective)")
    axes.legend(frameon=False, fontsize=9)
    align(axes)
    return figure


def _accuracy(trained: Sequence[_Trained]) -> Figure:
    figure, axes = new_axes(3.2)
    _lines(axes, [(row, curves.val_accuracy) for row, curves in trained], 100.0, marker="o")
    write_words(
        axes, "Full training: accuracy", x="optimiser step", y="search-validation accuracy in %"
    )
    axes.legend(frameon=False, fontsize=9)
    align(axes)
    return figure


def _lines(
    axes: Axes,
    lines: Sequence[tuple[RetrainRow, Sequence[tuple[int, float]]]],
    factor: float,
    marker: str = "",
) -> None:
    num_best, several = 0, sum(row.role == "best" for row, _ in lines) > 1
    for row, curve in lines:
        points = np.array(curve)
        num_best += row.role == "best"
        place = f", {num_best}" if several else ""
        name = _NAMES.get(row.role, f"best of the search{place}")
        colour = SKY if row.role == "best" and num_best > 1 else _COLOURS[row.role]
        axes.plot(
            points[:, 0], factor * points[:, 1], color=colour, lw=1.8, label=name, marker=marker
        )
        mark_phases(axes, row.phases, colour)
