"""Learning curves, with lines where one phase of a training ends and the next begins."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from nas_proxy.report._drawing import (
    BLUE,
    DPI,
    FAINT,
    GREY,
    INK,
    RED,
    SKY,
    WIDTH,
    align,
    new_axes,
    write_words,
)

_COLOURS = (BLUE, RED, SKY, "#009E73", "#CC79A7", INK)
_SMOOTHED = 40  # parts of a curve of losses, each of which is averaged to one point


@dataclass(frozen=True)
class Curve:
    """One quantity over the steps of one training.

    Attributes:
        name: Of the training, in words.
        steps: Where it was measured, counted from 1, in rising order.
        values: What was measured, as many.
        phases: Name and steps of each phase, in order; empty or one for a training in one go.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    phases: tuple[tuple[str, int], ...] = ()

    @property
    def boundaries(self) -> list[int]:
        """The last step of each phase but the last."""
        return [int(end) for end in np.cumsum([steps for _, steps in self.phases])[:-1]]


def loss_curve(
    losses: Sequence[float], phases: Sequence[tuple[str, int]] = (), name: str = "training loss"
) -> Curve:
    """The mean loss over short stretches of a training, none of which crosses a boundary.

    Args:
        losses: At each step, `(num_steps,)`.
        phases: Of the training; see `Curve`.
        name: Of the training.
    """
    ends = [0, *np.cumsum([steps for _, steps in phases]).tolist()] if phases else [0, len(losses)]
    steps, values = [], []
    for start, end in zip(ends[:-1], ends[1:], strict=True):
        num = max(1, min(end - start, round(_SMOOTHED * (end - start) / len(losses))))
        for part in np.array_split(np.arange(start, end), num):
            steps.append(int(part[-1]) + 1)
            values.append(float(np.mean([losses[step] for step in part])))
    return Curve(name, tuple(steps), tuple(values), tuple(phases))


def draw_learning_curve(curve: Curve, title: str, *, y: str = "mean training loss") -> Figure:
    """One training: where its phases begin is drawn and named."""
    figure, axes = new_axes(3.2)
    axes.plot(curve.steps, curve.values, color=BLUE, lw=1.8)
    mark_phases(axes, curve.phases, named=True)
    write_words(axes, title, x="optimiser step", y=y)
    align(axes)
    return figure


def learning_curves(panels: Mapping[str, Sequence[Curve]], *, y: str) -> bytes:
    """Trainings that are to be compared, as a PNG.

    Args:
        panels: Title to curves, side by side. Boundaries of phases are marked on each curve.
        y: What is measured.
    """
    figure = Figure(
        figsize=(WIDTH * 1.4, 4.6), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)
    )
    FigureCanvasAgg(figure)
    pairs = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, curves) in zip(pairs, panels.items(), strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=FAINT, lw=0.6, alpha=0.7)
        for colour, curve in zip(_COLOURS, curves, strict=False):
            axes.plot(curve.steps, curve.values, color=colour, lw=1.8, label=curve.name)
            for boundary in curve.boundaries:
                height = float(np.interp(boundary, curve.steps, curve.values))
                axes.plot(boundary, height, "o", color=colour, ms=6, mec="white")
        write_words(axes, title, x="optimiser step; a dot: fine-tuning begins", y=y)
    handles, labels = pairs[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()


def mark_phases(
    axes: Axes, phases: Sequence[tuple[str, int]], colour: str = GREY, *, named: bool = False
) -> None:
    """A broken line where each phase but the last ends; nothing for a training in one go.

    Args:
        axes: Over optimiser steps.
        phases: Name and steps of each, in order.
        colour: Of the lines.
        named: Whether the phases' names are written above.
    """
    start = 0
    for name, steps in phases if len(phases) > 1 else ():
        if start:
            axes.axvline(start, color=colour, lw=1.2, ls=(0, (4, 3)))
        if named:
            axes.annotate(
                name,
                (start + steps / 2, 1.0),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="top",
                fontsize=9.5,
                color=GREY,
            )
        start += steps
