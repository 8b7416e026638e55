"""A long distillation is announced after a few steps, once; a short one is not."""

import pytest

from nas_proxy.distill import DistributionMatching, RandomSubset
from nas_proxy.distill.timing import Pace
from nas_proxy.study import announcing
from nas_proxy.study.announcing import ForeseenDistilling
from tests.helpers.display import Quiet


def test_pace_leaves_out_what_is_done_once() -> None:
    pace = Pace(0.0)
    for done in (1, 2, 3):
        pace.note(done, 100, 10.0 + 2 * (done - 1))  # ten seconds to begin with, two for each step
    assert pace.seconds == pytest.approx(10 + 99 * 2)


def test_pace_follows_one_part_after_the_other() -> None:
    pace = Pace(0.0)
    for done in (10, 20):
        pace.note(done, 20, done * 1.0)
    pace.note(1, 10, 23.0)
    assert pace.seconds == pytest.approx(23 + 9 * 3)
    pace.note(2, 10, 24.0)
    assert pace.seconds == pytest.approx(24 + 8 * 1)


def test_pace_of_a_continued_distillation_is_of_what_is_left() -> None:
    pace = Pace(0.0)
    for done in (91, 92, 93):
        pace.note(done, 100, float(done - 90))
    assert pace.seconds == pytest.approx(10)


@pytest.mark.parametrize(("step_seconds", "is_said"), [(10.0, True), (0.001, False)])
def test_a_long_distillation_is_announced_once(monkeypatch, step_seconds, is_said) -> None:
    now = iter(range(1000))
    monkeypatch.setattr(announcing.time, "monotonic", lambda: next(now) * step_seconds)
    display, shown = Quiet(), []
    progress = ForeseenDistilling(
        lambda done, total, note="": shown.append(done), display, DistributionMatching()
    )
    for step in range(1, 20):
        progress(step, 20_000, "loss 3")
    assert shown == list(range(1, 20))
    assert len(display.said) == is_said
    if is_said:
        assert "2.3 days" in display.said[0]
        assert "distill.num_steps=2000" in display.said[0]


def test_a_teachers_training_is_no_part_of_it(monkeypatch) -> None:
    monkeypatch.setattr(announcing.time, "monotonic", iter(range(0, 100_000, 1000)).__next__)
    display = Quiet()
    progress = ForeseenDistilling(lambda done, total, note="": None, display, RandomSubset())
    for step in range(20, 200, 20):
        progress(step, 200, "teaching ResNet-18")
    assert not display.said
