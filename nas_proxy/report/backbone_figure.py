"""The scatter picture of `nas-proxy backbones`: what accuracy costs."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.transforms import Bbox

from nas_proxy.backbones.catalogue import BackboneFacts
from nas_proxy.report._drawing import BLUE, DPI, RED, Label, new_axes, place_labels, write_words


def draw_backbones(rows: Sequence[BackboneFacts]) -> bytes:
    """Published accuracy over parameters, or over latency where it was measured, as a PNG.

    Those that no other one beats in both are drawn in red and named.

    Args:
        rows: At least one.
    """
    measured = all(row.latency_seconds is not None for row in rows)
    costs = [1e3 * (row.latency_seconds or 0) if measured else row.num_params / 1e6 for row in rows]
    accuracies = [100 * row.accuracy for row in rows]
    front = _front(costs, accuracies)
    figure, axes = new_axes(5.0)
    axes.set_xscale("log")
    colours = [RED if index in front else BLUE for index in range(len(rows))]
    axes.scatter(costs, accuracies, c=colours, s=26, zorder=3)
    what = "milliseconds for one image on this machine" if measured else "million parameters"
    write_words(
        axes, "Backbones of torchvision", x=what, y="published top-1 accuracy on ImageNet-1K in %"
    )
    labels = [Label(costs[index], accuracies[index], rows[index].name) for index in front]
    dots = [Bbox([(x, y), (x, y)]) for x, y in zip(costs, accuracies, strict=True)]
    place_labels(axes, labels, dots=dots)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()


def _front(costs: Sequence[float], accuracies: Sequence[float]) -> list[int]:
    """Which are cheaper than every one that is at least as accurate; the cheapest first."""
    best, front = -np.inf, []
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], -accuracies[i])):
        if accuracies[index] > best:
            best = accuracies[index]
            front.append(index)
    return front
