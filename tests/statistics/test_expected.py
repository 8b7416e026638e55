"""What a sample is expected to say is what samples do say."""

import math

import numpy as np
import pytest

from nas_proxy.statistics import ranks
from nas_proxy.statistics.expected import (
    chance_above,
    expected_interval,
    expected_stop,
    needed_above,
    smallest_difference,
)
from nas_proxy.statistics.intervals import jackknife
from nas_proxy.statistics.sequential import look_confidences, look_sizes

N = 40
MORE = pytest.param(0.93, marks=pytest.mark.exhaustive)


def of_normal_population(rho: float) -> float:
    """Pearson's correlation of a normal population whose Spearman's is `rho`."""
    return 2 * math.sin(math.pi * rho / 6)


def ranking(rng: np.random.Generator, reference: np.ndarray, rho: float) -> np.ndarray:
    r = of_normal_population(rho)
    return r * reference + math.sqrt(1 - r * r) * rng.standard_normal(len(reference))


@pytest.mark.parametrize("rho", [0.0, 0.8, MORE])
def test_expected_intervals_are_those_that_samples_have(rho: float) -> None:
    rng, found = np.random.default_rng(1), []
    for _ in range(100):
        reference = rng.standard_normal(N)
        scores = ranking(rng, reference, rho)
        left_out = ranks.spearman.left_out(scores, reference)
        assert ranks.spearman.interval is not None
        value = float(ranks.spearman(scores, reference))
        found.append(ranks.spearman.interval(value, left_out, 0.95))
    low, high = np.median(found, axis=0)
    assert expected_interval(rho, N) == pytest.approx((low, high), abs=0.05)


@pytest.mark.parametrize("rho", [0.8, MORE])
def test_the_smallest_difference_is_shown_four_times_of_five(rho: float) -> None:
    rng, shown, difference = np.random.default_rng(2), 0, smallest_difference(rho, N)
    assert difference is not None
    for _ in range(200):
        reference = rng.standard_normal(N)
        one, other = (ranking(rng, reference, r) for r in (rho, rho - difference))
        value = float(ranks.spearman(one, reference) - ranks.spearman(other, reference))
        left_out = ranks.spearman.left_out(one, reference)
        shown += jackknife(value, left_out - ranks.spearman.left_out(other, reference))[0] > 0
    assert shown / 200 == pytest.approx(0.8, abs=0.09)


def test_more_architectures_say_more() -> None:
    widths = [np.subtract(*reversed(expected_interval(0.8, n))) for n in (10, 20, 40, 160)]
    assert widths == sorted(widths, reverse=True)
    differences = [smallest_difference(0.93, n) for n in (10, 20, 40, 160)]
    assert None not in differences
    assert differences == sorted(differences, reverse=True)
    chances = [chance_above(0.93, n, 0.7) for n in (9, 10, 20, 40, 160)]
    assert chances == sorted(chances)
    assert chances[0] == 0
    assert chances[-1] == pytest.approx(1)


def test_the_fewest_that_are_needed_are_enough_and_one_less_is_not() -> None:
    needed = needed_above(0.93, 0.7)
    assert needed is not None
    assert chance_above(0.93, needed, 0.7) >= 0.8 > chance_above(0.93, needed - 1, 0.7)
    assert needed_above(0.7, 0.7) is None
    assert chance_above(0.7, 500, 0.7) == pytest.approx(0.025, abs=0.003)


def test_nothing_is_shown_without_an_interval() -> None:
    assert smallest_difference(0.93, 9) is None


@pytest.mark.parametrize(("rho", "size", "chance"), [(0.93, 28, 0.99), (0.97, 20.6, 1.0)])
def test_where_looking_again_ends_is_what_simulated_validations_need(
    rho: float, size: float, chance: float
) -> None:
    """The sizes are those of whole validations: results/benchmarks/sequential_coverage.json."""
    sizes = look_sizes(72)
    found = expected_stop(rho, 0.7, sizes, look_confidences(sizes))
    assert found.size == pytest.approx(size, abs=5)
    assert found.chance == pytest.approx(chance, abs=0.03)


def test_what_is_at_the_threshold_is_seldom_declared_to_be_above_it() -> None:
    sizes = look_sizes(72)
    found = expected_stop(0.7, 0.7, sizes, look_confidences(sizes))
    assert found.chance < 0.03
    assert found.size > 65
