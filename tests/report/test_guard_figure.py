"""The picture of what the guard of a search saw."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from nas_proxy.report._drawing import BLUE, GREY, RED
from nas_proxy.report._guard_figure import guard_figure
from nas_proxy.report.figures import write_figures
from nas_proxy.report.html import render_html
from nas_proxy.search.guard import GuardCheck, GuardResult
from nas_proxy.statistics.ranks import Estimate
from tests.report.helpers import Page, make_report, with_search


def estimate(value, reach=0.2):
    return Estimate(value, value - reach, min(1.0, value + reach))


def check(num_trials, random, everyone):
    return GuardCheck(
        num_trials, everyone, 4, random, 2, num_failed=0, basis="random", verdict="holds",
        threshold=0.5, action="warn",
    )  # fmt: skip


def guarded(*checks):
    """A report of a search that a guard watched."""
    report = make_report(num_trials=40, validated=False)
    return with_search(report, guard=GuardResult(0.5, "warn", checks, (), 0.0))


CHECKS = [
    check(10, None, None),
    check(20, None, Estimate(0.9, None, None)),
    check(30, estimate(0.7), estimate(0.8)),
    check(40, estimate(0.6), estimate(0.75, 0.1)),
]


@pytest.fixture
def report():
    return guarded(*CHECKS)


def lines_of(figure):
    (axes,) = figure.axes
    return {to_hex(line.get_color(), False).upper(): line.get_xydata() for line in axes.lines}


def test_it_shows_every_estimate_and_the_threshold(report):
    figure = guard_figure(report)
    lines = lines_of(figure)
    assert lines[BLUE.upper()].tolist() == [[30, 0.7], [40, 0.6]]
    assert lines[GREY.upper()].tolist() == [[20, 0.9], [30, 0.8], [40, 0.75]]
    assert set(lines[RED.upper()][:, 1]) == {0.5}
    low, high = figure.axes[0].get_ylim()
    assert low < 0.4
    assert high > 0.95
    segments = [s for c in figure.axes[0].collections for p in c.get_paths() for s in p.vertices]
    for x, end in ((30, 0.5), (30, 0.9), (40, 0.4), (40, 0.65)):
        assert np.isclose(segments, (x, end)).all(axis=1).any(), (x, end)


def test_it_is_in_the_folder_and_on_the_page(report, tmp_path):
    written = write_figures(report, tmp_path)
    (guard,) = [path for path in written if path.name == "guard.png"]
    with Image.open(guard) as image:
        assert image.width == 1050
        assert 400 <= image.height <= 700
    others = [path for path in written if path != guard]
    shown, bare = Page(render_html(report, written)), Page(render_html(report, others))
    assert len(shown.images) == len(bare.images) + 1
    assert "as soon as they have an interval" in shown.text
    assert "Watched while it ran" in bare.text


@pytest.mark.parametrize("checks", [[], CHECKS[:1]])
def test_without_any_correlation_there_is_none(checks, tmp_path):
    report = guarded(*checks)
    assert "guard.png" not in [path.name for path in write_figures(report, tmp_path)]
    assert guard_figure(with_search(report, guard=None)) is None


def test_a_first_interval_is_seen_though_it_spans_no_band():
    report = guarded(check(30, estimate(0.7), None))
    (bar,) = guard_figure(report).axes[0].collections
    assert np.allclose(bar.get_segments()[0], [[30, 0.5], [30, 0.9]])


def test_one_correlation_without_an_interval_is_drawn():
    assert lines_of(guard_figure(guarded(CHECKS[1])))[GREY.upper()].tolist() == [[20, 0.9]]
