"""Learning curves: stretches that respect the phases, and pictures that mark them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_proxy.report.learning_curve import Curve, draw_learning_curve, learning_curves, loss_curve


@given(st.integers(1, 300), st.integers(0, 300))
def test_every_loss_counts_once_and_no_stretch_crosses_a_boundary(first, second):
    phases = [("a", first), ("b", second)] if second else [("a", first)]
    losses = np.random.default_rng(first).random(first + second).tolist()
    curve = loss_curve(losses, phases)
    assert first in curve.steps
    assert curve.steps[-1] == len(losses)
    lengths = np.diff([0, *curve.steps])
    assert np.dot(curve.values, lengths) == pytest.approx(sum(losses))
    starts = [0, *curve.steps[:-1]]
    for start, end, value in zip(starts, curve.steps, curve.values, strict=True):
        assert value == pytest.approx(np.mean(losses[start:end]))
    assert curve.boundaries == ([first] if second else [])


def test_a_line_stands_where_fine_tuning_begins():
    losses = [1.0] * 20 + [0.5] * 50
    phases = [("feature extraction", 20), ("fine-tuning", 50)]
    axes = draw_learning_curve(loss_curve(losses, phases), "title").axes[0]
    (vertical,) = [line for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert vertical.get_xdata()[0] == 20
    assert [text.get_text() for text in axes.texts] == ["feature extraction", "fine-tuning"]
    plain = draw_learning_curve(loss_curve(losses), "title").axes[0]
    assert len(plain.lines) == 1
    assert not plain.texts


def test_curves_side_by_side_are_a_picture():
    curve = Curve("one", (1, 2, 3), (0.1, 0.2, 0.3), (("a", 2), ("b", 1)))
    content = learning_curves({"left": [curve], "right": [curve, curve]}, y="accuracy")
    assert content.startswith(b"\x89PNG")
