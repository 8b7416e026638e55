import math
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from nas_proxy.errors import StudyError
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.reproducibility import make_generator
from nas_proxy.types import Architecture
from tests.helpers.spaces import UnusedSpace


@dataclass(frozen=True, kw_only=True)
class Urn(UnusedSpace):
    """`size` architectures; whoever draws uniformly from them draws a number."""

    size: int

    name = "urn"

    def sample(self, generator):
        return Architecture(self.name, int(torch.randint(self.size, (), generator=generator)))


def balls(numbers):
    return [Architecture("urn", number) for number in numbers]


def draw(size, num, seed=0, **options):
    return draw_architectures(Urn(size=size), num, make_generator(seed), **options)


# --- drawing ----------------------------------------------------------------------------------


@given(data=st.data(), size=st.integers(2, 30), seed=st.integers(0, 2**32))
def test_drawn_are_different_of_the_space_and_not_excluded(data, size, seed):
    excluded = balls(data.draw(st.sets(st.integers(0, size - 1), max_size=size - 1)))
    num = data.draw(st.integers(1, size - len(excluded)))
    drawn = draw(size, num, seed, excluded=excluded)
    assert len(drawn) == len(set(drawn)) == num
    assert set(drawn) <= set(balls(range(size))) - set(excluded)


@given(data=st.data(), seed=st.integers(0, 2**32))
def test_among_draws_from_the_given_ones_alone(data, seed):
    among = balls(data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=30)))
    excluded = data.draw(st.sets(st.sampled_from(among)))
    available = set(among) - excluded
    assume(available)
    num = data.draw(st.integers(1, len(available)))
    drawn = draw(1, num, seed, among=among, excluded=excluded)  # the space itself holds only 0
    assert len(drawn) == len(set(drawn)) == num
    assert set(drawn) <= available


@pytest.mark.parametrize("among", [None, balls(range(1000))])
def test_the_same_seed_draws_the_same(among):
    drawn = [draw(1000, 20, seed, among=among) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("among", [None, balls(range(1000))])
def test_a_larger_draw_begins_with_the_smaller_one(among):
    # The validation's uniform sample does not change when the pool beside it grows.
    assert draw(1000, 50, among=among)[:20] == draw(1000, 20, among=among)


def test_excluding_changes_nothing_else():
    drawn = draw(1000, 20)
    assert draw(1000, 18, excluded={drawn[3], drawn[11]}) == [
        *drawn[:3], *drawn[4:11], *drawn[12:]
    ]  # fmt: skip


@pytest.mark.parametrize("among", [None, balls(range(5))])
def test_every_subset_is_equally_likely(among):
    """Chi-square over the ten pairs of five architectures, both orders counted as one."""
    generator, space = make_generator(0), Urn(size=5)
    pairs = Counter(
        frozenset(draw_architectures(space, 2, generator, among=among)) for _ in range(3000)
    )
    assert len(pairs) == math.comb(5, 2)
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-3


def test_excluded_leave_the_rest_equally_likely():
    generator, excluded = make_generator(1), balls([0, 4])
    drawn = Counter(
        draw_architectures(Urn(size=6), 1, generator, excluded=excluded)[0] for _ in range(2000)
    )
    assert set(drawn) == set(balls([1, 2, 3, 5]))
    assert stats.chisquare(list(drawn.values())).pvalue > 1e-3


@given(size=st.integers(1, 12), num_excluded=st.integers(0, 3), more=st.integers(1, 5))
@settings(max_examples=25)
def test_exhausted_space_says_how_many_there_are(size, num_excluded, more):
    excluded = balls(range(min(num_excluded, size)))
    left = size - len(excluded)
    assert len(draw(size, left, excluded=excluded)) == left if left else True
    with pytest.raises(StudyError) as caught:
        draw(size, left + more, excluded=excluded)
    message = str(caught.value)
    assert f"{left + more} different architectures are asked for, but only {left} could" in message
    assert (f"the space 'urn' ({len(excluded)} are set aside, " in message) == bool(excluded)


def test_exhausted_table_says_how_many_there_are():
    with pytest.raises(StudyError, match=r"4 different .* only 2 .* the truth table \(1 are set"):
        draw(1000, 4, among=balls([1, 2, 3, 1]), excluded=balls([3]))


def test_nothing_in_the_table():
    with pytest.raises(
        StudyError, match="only 0 could be drawn from the truth table; ask for fewer"
    ):
        draw(1000, 1, among=[])


def test_table_is_read_to_its_end_however_much_of_it_is_excluded():
    excluded = balls(range(5000))
    drawn = draw(1, 3, among=[*excluded, *balls([7000, 7001, 7002])], excluded=excluded)
    assert set(drawn) == set(balls([7000, 7001, 7002]))
