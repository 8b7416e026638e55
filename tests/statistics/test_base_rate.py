"""An accuracy where classes differ in size: what always answering the largest reaches."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from nas_proxy.statistics.base_rate import base_rate, is_uneven

ALWAYS_A = [[120, 0], [1, 0]]
GOOD = [[60, 0], [2, 18]]
OTHER = [[59, 1], [1, 19]]


@pytest.mark.parametrize(
    ("sizes", "uneven"),
    [([5, 5], False), ([14, 10], False), ([15, 10], True), ([3, 0], True), ([7], False)],
)
def test_from_one_and_a_half_times_on_classes_differ(sizes, uneven):
    assert is_uneven(sizes) == uneven


def test_a_network_that_always_answers_one_class_does_not_beat_that():
    found = base_rate([ALWAYS_A, ALWAYS_A], ("a", "b"))
    assert (found.largest_class, found.balanced_accuracy) == ("a", 0.5)
    assert found.majority_share == pytest.approx(120 / 121)
    assert not found.is_beaten
    assert json.loads(json.dumps(asdict(found))) == asdict(found)
    assert found.words == (
        "Always answering a reaches 99.2 %, and the network is not shown to beat that; its "
        "balanced accuracy (mean over classes) is 50.0 %."
    )


def test_what_beats_it_is_said_to_by_seeds_and_by_images_of_one():
    found = base_rate([GOOD, OTHER], ("a", "b"))
    recalls = [[60 / 60, 18 / 20], [59 / 60, 19 / 20]]
    assert found.balanced_accuracy == pytest.approx(np.mean(recalls))
    assert found.is_beaten
    assert "not shown" not in found.words
    assert base_rate([GOOD], ("a", "b")).is_beaten
    assert not base_rate([[[6, 0], [0, 2]]], ("a", "b")).is_beaten  # eight images show nothing


def test_of_classes_of_about_one_size_nothing_is_said():
    assert base_rate([[[10, 0], [3, 9]]], ("a", "b")) is None
    assert base_rate([], ()) is None
    assert base_rate([()], ()) is None


def test_a_class_without_test_images_has_no_recall():
    found = base_rate([[[6, 0, 0], [0, 3, 0], [0, 0, 0]]], ("a", "b", "c"))
    assert found.balanced_accuracy == 1.0
