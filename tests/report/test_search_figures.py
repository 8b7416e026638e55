"""Optuna's plots, drawn from a report; what is drawn is read off the axes again."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from nas_proxy.report.search_figures import (
    edf_figure,
    importance_figure,
    parallel_figure,
    slice_figure,
    timeline_figure,
)
from tests.report.helpers import make_report, with_search


def choices_of(number):
    """A depth, and a norm that only deep ones choose; a number of many values."""
    deep = number % 3 == 0
    return {
        "depth": 4 if deep else 1,
        **({"norm": ("batch", "layer")[number % 2]} if deep else {}),
        "width": 8 * (number + 1),
        "same for all": "x",
    }


@pytest.fixture(scope="module")
def report():
    found = make_report(num_trials=24)
    trials = tuple(
        replace(trial, choices=choices_of(trial.trial), started_unix_seconds=1e9 + 5 * trial.trial)
        for trial in found.search.trials
    )
    return with_search(found, trials=trials, importances={"width": 0.7, "depth": 0.3})


def ticks(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


def test_importances_are_shown_the_largest_on_top(report):
    (axes,) = importance_figure(report).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["depth", "width"]
    assert [bar.get_width() for bar in axes.patches] == [0.3, 0.7]
    assert importance_figure(with_search(report, importances={})) is None


def test_every_choice_that_varies_has_a_slice(report):
    first, second, third, *_ = (axes for axes in slice_figure(report).axes if axes.get_visible())
    assert [axes.get_title() for axes in (first, second, third)] == ["width", "depth", "norm"]
    assert ticks(second) == ["1", "4"]
    assert ticks(third) == ["batch", "layer"]
    scored = [trial for trial in report.search.trials if trial.score is not None]
    shown = third.collections[0].get_offsets()
    chose = sum("norm" in trial.choices for trial in scored)
    assert np.isfinite(np.asarray(shown.filled(np.nan))[:, 0]).sum() == chose


def test_no_labels_of_ticks_lie_upon_one_another(report):
    long = {
        f"choice {n} with a long name": f"a value with many words, number {n}" for n in range(9)
    }
    trials = tuple(
        replace(
            trial,
            choices={name: f"{value}{(trial.trial + i) % 12}" for i, (name, value) in
                     enumerate(long.items())},
        )
        for trial in report.search.trials
    )  # fmt: skip
    crowded = with_search(report, trials=trials, importances={})
    for figure in (slice_figure(report), parallel_figure(report), parallel_figure(crowded)):
        figure.draw_without_rendering()
        for axes in figure.axes:
            boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
            rotated = any(label.get_rotation() for label in axes.get_xticklabels())
            for first, second in itertools.combinations(boxes, 2):
                apart = second.x1 - first.x1 if rotated else second.x0 - first.x1
                assert apart > 0
    assert "the 8 most important of 9" in parallel_figure(crowded).axes[0].get_title(loc="left")


def test_a_line_for_each_trial_and_the_best_one_on_top(report):
    (axes,) = parallel_figure(report).axes
    scored = [trial for trial in report.search.trials if trial.score is not None]
    lines = axes.collections[0].get_segments()
    assert len(lines) == len(scored)
    assert lines[-1][-1] == pytest.approx([3, 1])  # of three choices and the score
    assert max(line[-1][1] for line in lines[:-1]) < 1


def test_bars_of_the_timeline_are_as_long_as_the_evaluations(report):
    (axes,) = timeline_figure(report).axes
    bars = {round(bar.get_y() + bar.get_height() / 2): bar for bar in axes.patches}
    for trial in report.search.trials:
        assert bars[trial.trial].get_x() == pytest.approx(5 * trial.trial)
        assert bars[trial.trial].get_width() == pytest.approx(trial.seconds)
    assert timeline_figure(make_report()) is None


def test_the_edf_counts_what_lies_below(report):
    (searched,) = edf_figure(replace(report, validation=None)).axes[0].lines
    scores = sorted(t.score for t in report.search.trials if t.score is not None)
    x, y = (np.asarray(values) for values in searched.get_data())
    for score in scores[len(scores) // 4 :]:  # the worst may be drawn at the edge
        below = sum(other <= score for other in scores) / len(scores)
        assert max(y[x <= score]) == pytest.approx(below)


def test_uniform_draws_stand_beside_the_search(report):
    _, drawn = edf_figure(report).axes[0].lines
    assert drawn.get_label() == "drawn uniformly (48)"


@pytest.mark.parametrize("draw", [importance_figure, parallel_figure, slice_figure, edf_figure])
def test_nothing_to_draw_is_no_obstacle(draw):
    assert draw(make_report(num_trials=0, validated=False)) is None


def test_axes_of_one_kind_have_one_size(report):
    boxes = [draw(report).axes[0].get_position() for draw in (timeline_figure, edf_figure)]
    assert [box.x0 for box in boxes] == pytest.approx([boxes[0].x0] * 2)
    assert [box.x1 for box in boxes] == pytest.approx([boxes[0].x1] * 2)
