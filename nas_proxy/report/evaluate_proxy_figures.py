"""The pictures of what a proxy data set is worth, drawn from the written results alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nas_proxy.core.files import write_atomically
from nas_proxy.evaluate_proxy.accuracy import CONDITIONS, NetworkAccuracies
from nas_proxy.evaluate_proxy.result import ProxyAccuracy, ProxyReplay

_DPI = 150
_WIDTH = 7.0  # inches, as in the report's other figures
# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = {
    "as it is": "#0072B2",
    "hard labels": "#56B4E9",
    "random images": "#D55E00",
    "full data": "#009E73",
}
_MEMORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_MAX_NAMED = 20  # classes whose names still fit beside a confusion matrix


def write_accuracy_figures(result: ProxyAccuracy, folder: Path) -> list[Path]:
    """Accuracies by network and condition, and the confusion matrix of the first network.

    Args:
        result: Of the task `accuracy`.
        folder: Where to; made if it does not exist.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
    """
    written = [_write(_accuracies(result), folder / "accuracies.png")]
    first = next((n for n in result.networks if n.confusion), None)
    if first is not None:
        written.append(_write(_confusion(first, result.classes), folder / "confusion.png"))
    return written


def write_replay_figure(replay: ProxyReplay, folder: Path) -> list[Path]:
    """Accuracy after each task for every memory; see `write_accuracy_figures`."""
    return [_write(_replay(replay), folder / "replay.png")]


def _write(figure: Figure, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white")
    write_atomically(path, buffer.getvalue())
    return path


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _accuracies(result: ProxyAccuracy) -> Figure:
    """Every seed as a dot, means as bars across: stability over seeds and across networks."""
    networks = result.networks
    figure = _figure(1.2 + 0.75 * len(networks))
    axes = figure.subplots()
    conditions = [c for c in CONDITIONS if any(c in n.accuracies for n in networks)]
    for row, network in enumerate(networks):
        for place, condition in enumerate(conditions):
            found = network.accuracies.get(condition)
            if found is None:
                continue
            y = row + (place - (len(conditions) - 1) / 2) * 0.17
            values = 100 * np.array(found.values)
            label = condition if row == 0 else None
            axes.scatter(
                values, np.full(len(values), y), s=16, color=_COLOURS[condition], alpha=0.6,
                linewidths=0, label=label, zorder=3,
            )  # fmt: skip
            axes.plot([values.mean()] * 2, [y - 0.08, y + 0.08], color=_COLOURS[condition], lw=2.4)
    axes.set_yticks(range(len(networks)), [n.network for n in networks])
    axes.invert_yaxis()
    axes.set_xlabel(f"test accuracy in %, one dot for each of {result.num_seeds} seeds")
    axes.grid(axis="x", color="#d5dae0", lw=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=len(conditions), frameon=False, fontsize=9)
    return figure


def _confusion(network: NetworkAccuracies, classes: Sequence[str]) -> Figure:
    counts = np.array(network.confusion, dtype=float)
    share = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    figure = _figure(5.6)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(f"{network.network}: what each class is taken for", fontsize=11)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class of the test image")
    if len(classes) <= _MAX_NAMED:
        axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        for (row, column), value in np.ndenumerate(share):
            if value >= 0.01:
                axes.text(
                    column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7.5,
                    color="white" if value > 0.55 else "#24292f",
                )  # fmt: skip
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class")
    return figure


def _replay(replay: ProxyReplay) -> Figure:
    figure = _figure(3.8)
    axes = figure.subplots()
    for colour, memory in zip(_MEMORIES, replay.memories, strict=False):
        after = 100 * np.array(memory.after_each_task)  # (num_seeds, num_tasks)
        tasks = np.arange(1, after.shape[1] + 1)
        mean = after.mean(axis=0)
        axes.plot(tasks, mean, marker="o", color=colour, label=memory.name, lw=1.8)
        if len(after) > 1:
            error = after.std(axis=0, ddof=1) / np.sqrt(len(after))
            axes.fill_between(tasks, mean - error, mean + error, color=colour, alpha=0.18, lw=0)
    axes.set_xticks(range(1, replay.num_tasks + 1))
    axes.set_xlabel("tasks learned")
    axes.set_ylabel("test accuracy on all classes so far, %")
    axes.grid(color="#d5dae0", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, title="memory (mean and standard error)")
    return figure
