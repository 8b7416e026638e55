"""Correlation against cost: where points stand, and labels that can be read."""

import itertools

import numpy as np
import pytest
from matplotlib.text import Annotation, Text

from nas_proxy.report._cost_figure import CostPoint, draw_cost
from nas_proxy.statistics.ranks import Estimate


def points(seconds, *, name="ranking by {}".format, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for number, cost in enumerate(seconds):
        value = float(rng.uniform(0.2, 0.9))
        estimate = Estimate(value, value - 0.2, min(1.0, value + 0.1))
        found.append(CostPoint(name(number), cost, estimate, strong=number == 0))
    return found


def drawn(figure):
    """Where the points of a figure stand, in the order of drawing."""
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_marker() == "o"]
    return np.array([(line.get_xdata()[0], line.get_ydata()[0]) for line in lines])


def labels(figure):
    (axes,) = figure.axes
    return [text for text in axes.texts if isinstance(text, Annotation) and text.get_text()]


def figure_of(found, **options):
    return draw_cost(found, title="What it costs (n = 60)", **{"reference_seconds": 0.0, **options})


def test_points_stand_at_their_cost_and_value():
    seconds = [0.004, 0.05, 1.3, 40.0]
    found = points(seconds)
    figure = figure_of(found)
    assert drawn(figure)[:, 0] == pytest.approx(seconds)
    assert drawn(figure)[:, 1] == pytest.approx([point.spearman.value for point in found])
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert "n = 60" in axes.get_title(loc="left")


def test_equal_costs_stand_side_by_side_in_order():
    seconds = np.array([3.0, 0.01, 3.0, 3.1, 3.0, 2.9])
    x = drawn(figure_of(points(seconds)))[:, 0]
    assert x[1] == pytest.approx(0.01)
    assert np.argsort(x).tolist() == np.argsort(seconds, kind="stable").tolist()
    gaps = np.diff(np.log(np.sort(np.delete(x, 1))))
    assert gaps == pytest.approx(gaps[0])
    assert np.log(np.delete(x, 1)).mean() == pytest.approx(np.log(np.delete(seconds, 1)).mean())


def test_many_of_one_cost_do_not_fill_the_axis():
    figure = figure_of(points([2.0] * 40, name=lambda number: "" if number else "the proxy"))
    x = np.log(drawn(figure)[:, 0])
    low, high = np.log(figure.axes[0].get_xlim())
    assert x.max() - x.min() < 0.26 * (high - low)
    assert [text.get_text() for text in labels(figure)] == ["the proxy"]


@pytest.mark.parametrize("seed", range(3))
def test_no_label_lies_upon_another_or_upon_a_dot_or_outside(seed):
    rng = np.random.default_rng([3, seed])
    seconds = [*np.exp(rng.uniform(-6, 3, 8)), 12.0, 12.0, 12.0, 13.0]
    figure = figure_of(
        points(seconds, name="the ranking by signal {}".format, seed=seed), reference_seconds=90.0
    )
    (axes,) = figure.axes
    renderer = figure.canvas.get_renderer()
    # Of the words alone, without the lines to their dots.
    boxes = [Text.get_window_extent(text, renderer) for text in labels(figure)]
    assert len(boxes) == len(seconds)
    for first, second in itertools.combinations(boxes, 2):
        assert not first.overlaps(second)
    dots = axes.transData.transform(drawn(figure))
    for box in boxes:
        assert not any(box.contains(*dot) for dot in dots)
        assert axes.bbox.padded(2).contains(box.x0, box.y0)
        assert axes.bbox.padded(2).contains(box.x1, box.y1)
