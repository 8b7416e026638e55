"""The Pareto front in the report: its figures, its table, and what happens at the edges."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from nas_proxy.report._drawing import BLUE, GREY, RED, SKY
from nas_proxy.report._pareto_figure import (
    ParetoPoint,
    amount,
    costs_of,
    draw_pareto,
    pareto_figure,
)
from nas_proxy.report.figures import write_figures
from nas_proxy.report.html import render_html
from tests.report.helpers import Page, make_report

COSTS = ("num_params", "flops", "latency")


@pytest.fixture(scope="module")
def report():
    return make_report(costs=COSTS)


@pytest.fixture(scope="module")
def figures(report, tmp_path_factory):
    return write_figures(report, tmp_path_factory.mktemp("figures"))


def dots(figure, color):
    """Positions of the dots of a colour."""
    (axes,) = figure.axes
    found = [c for c in axes.collections if hasattr(c, "get_offsets") and len(c.get_facecolor())]
    of_color = [c.get_offsets() for c in found if to_hex(c.get_facecolor()[0]) == color.lower()]
    return {tuple(map(float, dot)) for offsets in of_color for dot in offsets}


def staircase(figure):
    (axes,) = figure.axes
    (line,) = [line for line in axes.lines if line.get_color() == SKY]
    return line.get_xydata()


def draw(points, *, limit=None):
    return draw_pareto(points, cost="num_params", title="t", y="score", limit=limit)


def words(figure):
    (axes,) = figure.axes
    return [text.get_text() for text in axes.texts]


# --- the figure -------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", COSTS)
def test_every_trial_is_a_dot_where_it_belongs(cost, report):
    search = report.search
    figure = pareto_figure(report, cost)
    front = {(t.objectives[cost], t.score) for t in search.pareto_front}
    (knee,) = ((t.objectives[cost], t.score) for t in search.trials
               if t.trial == search.knee)  # fmt: skip
    rest = {(t.objectives[cost], t.score) for t in search.trials if t.objectives}
    assert {x for x, _ in dots(figure, BLUE)} <= {x for x, _ in front}
    assert dots(figure, RED) == {knee}
    assert len(dots(figure, BLUE)) == len(front) - 1
    assert len(dots(figure, GREY)) == len(rest) - len(front)


def test_the_line_is_the_best_score_at_that_cost():
    rng = np.random.default_rng(0)
    points = [ParetoPoint(float(c), float(s), n) for n, (c, s) in enumerate(rng.random((30, 2)), 1)]
    corners = staircase(draw(points))
    assert (np.diff(corners[:, 0]) >= 0).all()
    for at in (p.cost for p in points):
        best = max(p.score for p in points if p.cost <= at)
        assert corners[corners[:, 0] <= at][-1][1] == best


def test_front_is_numbered_and_the_knee_is_named():
    points = [ParetoPoint(10.0**n, n, 5 - n, knee=n == 2) for n in range(1, 5)]
    points += [ParetoPoint(10.0**n, n - 2) for n in range(1, 5)]
    assert sorted(words(draw(points))) == ["1", "2", "3: knee", "4"]


def test_a_long_front_has_its_ends_and_the_knee_named():
    points = [ParetoPoint(1.2**n, n, 40 - n, knee=n == 20) for n in range(40)]
    assert sorted(words(draw(points))) == ["1", "20: knee", "40"]


def test_limit_is_a_line_in_the_unit_of_the_axis(report):
    def limits(report, cost):
        (axes,) = pareto_figure(report, cost).axes
        return [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]

    constraints = {"num_params": 2_000_000, "flops": None, "latency_ms": 7.5}
    search = {**report.config["search"], "constraints": constraints}
    limited = replace(report, config={**report.config, "search": search})
    assert [limits(limited, cost) for cost in COSTS] == [[2_000_000], [], [0.0075]]
    assert [limits(report, cost) for cost in COSTS] == [[], [], []]


@pytest.mark.parametrize(
    "points",
    [
        [ParetoPoint(5.0, 1.0, 1, knee=True)],
        [ParetoPoint(5.0, 1.0, n, knee=n == 1) for n in (1, 2, 3)],
        [ParetoPoint(0.0, 1.0, 1, knee=True), ParetoPoint(10.0, 2.0, 2)],
        [ParetoPoint(0.0, 1.0, 1, knee=True)],
        [ParetoPoint(1.0, 0.0, 2, spread=(0.5, 2.0)), ParetoPoint(1e12, 1.0, 1, knee=True)],
    ],
)
def test_extremes_are_drawn(points):
    figure = draw(points, limit=7.0)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    assert 0 < low < high < np.inf


@pytest.mark.parametrize(
    ("cost", "value", "expected"),
    [
        ("num_params", 0, "0"),
        ("num_params", 950, "950"),
        ("num_params", 12_345, "12.3 k"),
        ("flops", 3.6e9, "3.6 G"),
        ("flops", 2e12, "2 T"),
        ("latency", 0.0000531, "53.1 µs"),
        ("latency", 0.0032149, "3.21 ms"),
        ("latency", 1.5, "1.5 s"),
    ],
)
def test_amounts_are_for_people(cost, value, expected):
    assert amount(cost, value) == expected


# --- the report -------------------------------------------------------------------------------


def test_a_figure_for_each_cost(figures):
    assert [path.name for path in figures][-3:] == [f"pareto_{cost}.png" for cost in COSTS]
    for path in figures[-3:]:
        with Image.open(path) as image:
            assert image.width == 1050


def test_page_has_the_front_as_figures_and_as_a_table(report, figures):
    html = render_html(report, figures)
    page = Page(html)
    front = report.search.pareto_front
    assert f"the {len(front)} that no other beats in score and parameters, FLOPs" in page.text
    assert "median of 50 calls on AMD EPYC (2 cores)" in page.text
    assert html.count("with the Pareto front.") == 3
    table = html.partition("<h3>The Pareto front</h3>")[2].partition("</table>")[0]
    assert table.count("<tr>") == len(front) + 1
    assert table.count("<small>knee</small>") == 1
    for trial in front:
        latency = trial.objectives["latency"]
        assert f"{amount('latency', latency)}<small>[{amount('latency', 0.9 * latency)}" in table


@pytest.mark.parametrize("options", [{}, {"costs": COSTS, "everything_failed": True}])
def test_without_a_front_there_is_none_on_the_page(options, tmp_path):
    report = make_report(**options, validated=False)
    assert costs_of(report.search) == []
    figures = write_figures(report, tmp_path)
    assert not any("pareto" in path.name for path in figures)
    assert "Pareto" not in render_html(report, figures)
