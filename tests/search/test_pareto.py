"""Fronts and knees, against their definitions."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_proxy.search.pareto import knee, pareto_front, pick

COSTS = ("num_params", "flops")
# Few different values, so that ties are common.
FEW = st.tuples(st.integers(-3, 3), st.integers(1, 5), st.integers(1, 5))


@dataclass(frozen=True)
class Trial:
    trial: int
    objectives: dict[str, float]


def trials(rows):
    """Scores and one or two costs each."""
    return [
        Trial(number, dict(zip(("score", *COSTS), map(float, row), strict=False)))
        for number, row in enumerate(rows)
    ]


def numbers(found):
    return [trial.trial for trial in found]


def dominates(one, other):
    """By the definition, one objective after the other."""
    one, other = one.objectives, other.objectives
    signs = {name: 1 if name == "score" else -1 for name in one}
    differences = [signs[name] * (one[name] - other[name]) for name in one]
    return all(d >= 0 for d in differences) and any(d > 0 for d in differences)


# --- the front --------------------------------------------------------------------------------


@given(st.lists(FEW, max_size=25))
def test_front_is_what_nothing_dominates(rows):
    everyone = trials(rows)
    front = pareto_front(everyone)
    undominated = [t for t in everyone if not any(dominates(other, t) for other in everyone)]
    assert sorted(numbers(front)) == numbers(undominated)
    for trial in everyone:  # who is outside is beaten by a member
        assert trial in front or any(dominates(member, trial) for member in front)
    scores = [trial.objectives["score"] for trial in front]
    assert scores == sorted(scores, reverse=True)


@given(st.lists(FEW, min_size=1, max_size=25), st.permutations(range(3)))
def test_neither_order_nor_monotone_scales_matter(rows, order):
    maps = (lambda v: math.atan(v) * 9, lambda v: v**3, math.sqrt)
    scaled = [[f(v) for f, v in zip(maps, row, strict=True)] for row in rows]
    front = set(numbers(pareto_front(trials(rows))))
    assert set(numbers(pareto_front(trials(scaled)))) == front
    names = [("score", *COSTS)[index] for index in order]
    shuffled = [
        replace(trial, objectives={name: trial.objectives[name] for name in names})
        for trial in reversed(trials(rows))
    ]
    found = pareto_front(shuffled)
    assert set(numbers(found)) == front
    scores = [trial.objectives["score"] for trial in found]
    assert scores == sorted(scores, reverse=True)


def test_one_objective_leaves_the_best_and_its_equals():
    assert numbers(pareto_front(trials([[1], [3], [2], [3]]))) == [1, 3]


@pytest.mark.parametrize("num", [1, 4])
def test_equals_stay_together(num):
    everyone = trials([[0.5, 100, 7]] * num)
    assert pareto_front(everyone) == everyone


def test_no_trial_has_no_front():
    assert pareto_front([]) == []


def test_thousands_of_trials():
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(size=5000), rng.random((5000, 2))])
    assert 20 < len(pareto_front(trials(rows))) < 500


# --- the knee ---------------------------------------------------------------------------------


def furthest_from_the_chord(front):
    """Distances to the line between the ends, by geometry in two dimensions."""
    points = np.array(
        [[math.log(t.objectives["num_params"]), t.objectives["score"]] for t in front]
    )
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - low) / (high - low)
    start, end = points[points[:, 0].argmin()], points[points[:, 0].argmax()]
    along = end - start
    # The cross product's sign tells the sides of the line apart; above it is good.
    away = along[0] * (points - start)[:, 1] - along[1] * (points - start)[:, 0]
    return away / np.linalg.norm(along)


SPREAD = st.lists(
    st.tuples(st.integers(-50, 50), st.integers(1, 10**6)), min_size=3, max_size=20
).map(lambda rows: pareto_front(trials(rows)))


@given(SPREAD.filter(lambda front: len({t.objectives["score"] for t in front}) > 1))
def test_knee_of_two_objectives_is_furthest_from_the_chord(front):
    away = furthest_from_the_chord(front)
    assert away[front.index(knee(front))] == pytest.approx(max(away), abs=1e-6)


def test_knee_where_a_person_sees_it():
    rows = [[0.90, 1e4], [0.95, 2e4], [0.955, 1e5], [0.96, 1e6]]
    assert knee(pareto_front(trials(rows))).trial == 1
    three = [[0.90, 1e4, 1], [0.95, 2e4, 1.1], [0.96, 1e6, 9], [0.91, 9e3, 8]]
    assert knee(pareto_front(trials(three))).trial == 1


@given(SPREAD, st.sampled_from([0.25, 2.0, 8.0]), st.integers(-9, 9))
def test_units_do_not_matter(front, stretch, shift):
    """Powers of two, so that no rounding decides a draw."""
    scaled = [
        Trial(
            trial.trial,
            {
                "score": stretch * trial.objectives["score"] + shift,
                "num_params": 16 * trial.objectives["num_params"],
            },
        )
        for trial in front
    ]
    assert knee(scaled).trial == knee(front).trial


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[0.9, 50]], 0),
        ([[0.8, 10], [0.9, 20]], 1),  # two ends: the better score
        ([[0.9, 10], [0.9, 10]], 0),  # all equal: the earlier
        ([[0.8, 10], [0.82, 90], [0.9, 100]], 2),  # a front that bends the other way
        ([[0.6, 10], [0.7, 100], [0.8, 1000], [0.9, 10000]], 3),  # a straight line, but rounded
        ([[0.8, 0], [0.88, 1], [0.9, 100]], 1),  # a cost of zero
        ([[0.8, 0], [0.8, 0]], 0),
        ([[0.1], [0.3]], 1),  # the score alone
    ],
)
def test_knee_at_the_edges(rows, expected):
    assert knee(pareto_front(trials(rows))).trial == expected


# --- who goes on ------------------------------------------------------------------------------


def test_pick():
    front = pareto_front(trials([[0.90, 1e4], [0.95, 2e4], [0.955, 1e5], [0.96, 1e6], [0.5, 1e5]]))
    assert numbers(pick(front, "all")) == [3, 2, 1, 0]
    assert numbers(pick(front, "knee")) == [1]
    assert numbers(pick(front, "max_accuracy")) == [3]
    assert numbers(pick(front[::-1], "max_accuracy")) == [3]


@pytest.mark.parametrize("how", ["all", "knee", "max_accuracy"])
def test_nothing_to_pick_from(how):
    assert pick([], how) == []


def test_an_end_that_learns_nothing_is_no_knee():
    """Smallest and fastest, and as good as chance; what a search for three objectives found."""
    found = [
        {"score": -0.081, "num_params": 50378.0, "latency": 0.000113},
        {"score": -0.099, "num_params": 48810.0, "latency": 0.000198},
        {"score": -0.271, "num_params": 33834.0, "latency": 0.000294},
        {"score": -2.303, "num_params": 28394.0, "latency": 0.000105},
    ]
    front = [Trial(number, row) for number, row in enumerate(found)]
    assert knee(front).trial == 0


def test_every_permutation_of_the_trials_has_the_same_knee():
    rows = trials([[0.90, 1e4], [0.95, 2e4], [0.955, 1e5], [0.96, 1e6]])
    found = {knee(pareto_front(list(order))).trial for order in itertools.permutations(rows)}
    assert found == {1}
