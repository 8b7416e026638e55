"""What is concluded from the figures: size, open questions, the noise ceiling."""

import math
import re

import numpy as np
import pytest

from nas_proxy.statistics import ranks
from nas_proxy.statistics.needed import to_reach
from nas_proxy.statistics.words import decimal
from nas_proxy.types import Architecture
from nas_proxy.validate.rank_report import judge
from nas_proxy.validate.settings import RepeatedReference, ValidateSettings
from nas_proxy.validate.values import Ranking, Sample

N = 60
ARCHITECTURES = [Architecture("s", number) for number in range(N)]


def values(column):
    return dict(zip(ARCHITECTURES, np.asarray(column).tolist(), strict=False))


def report(score, reference, sizes=None, ceiling=None, n=N):
    rankings = [Ranking("the proxy", "proxy", values(score), 1.0)]
    if ceiling is not None:
        rankings.append(Ranking("another seed", "ceiling", values(ceiling), 80.0))
    return judge(
        rankings[0],
        rankings[1:],
        Sample(ARCHITECTURES[:n], values(reference), sizes or {}),
        ValidateSettings(reference=RepeatedReference(table="t.csv"), num_architectures=N),
        reference_name="test accuracy",
        reference_seconds=80.0,
    )


def world(seed=0):
    """A size, a skill that is independent of it, and noise."""
    return np.random.default_rng(seed).normal(size=(4, N))


# --- bigger is better -------------------------------------------------------------------------


def test_knowing_more_than_size_is_said():
    size, skill, noise, _ = world()
    made = report(size + skill + 0.2 * noise, size + skill, {"parameters": values(size)})
    row = made.judged
    assert row.partial_spearman.low > 0
    assert (row.n_partial, made.sizes) == (N, ("parameters",))
    assert made.size_words == (
        "It knows more than “bigger is better”: at equal parameters its Spearman is "
        f"{row.partial_spearman}, n = 60."
    )
    assert ", and knows more than “bigger is better”." in made.verdict


def test_knowing_no_more_than_size_is_said_with_what_would_tell():
    size, skill, noise, other = world()
    sizes = {"parameters": values(size), "FLOPs": values(size + 0.1 * noise)}
    made = report(size + 0.5 * other, size + 0.5 * skill, sizes)
    row = made.judged
    assert row.spearman.low > 0.4
    assert row.partial_spearman.low < 0 < row.partial_spearman.high
    assert made.size_words.startswith(
        "It may know no more than “bigger is better”: at equal parameters and FLOPs its Spearman "
        f"is {row.partial_spearman}, n = 60; "
    )
    assert made.size_words.endswith(" more architectures would tell.")
    assert ", but it may know no more than “bigger is better”." in made.verdict


def test_the_wrong_way_round_at_equal_size_is_said():
    size, skill, _, _ = world()
    made = report(3 * size - skill, 3 * size + skill, {"parameters": values(size)})
    assert made.judged.spearman.low > 0.4
    assert made.size_words.startswith("At equal size it prefers the worse: ")
    assert ", but at equal size it prefers the worse." in made.verdict


def test_what_is_not_better_than_chance_is_not_said_to_know_more_than_size():
    size, skill, noise, _ = world()
    made = report(skill - size + 0.5 * noise, skill + size, {"parameters": values(size)})
    assert made.judged.partial_spearman.low > 0 > made.judged.spearman.low
    assert made.size_words == ""
    assert "bigger" not in made.verdict


def test_size_itself_knows_nothing_more():
    size, skill, _, _ = world()
    made = report(size, size + skill, {"parameters": values(size)})
    assert made.judged.partial_spearman is None
    assert "nothing is left to rank" in made.size_words


def test_where_there_is_nothing_to_explain_size_is_no_matter():
    size, skill, _, other = world(3)
    made = report(other, skill, {"parameters": values(size)})
    assert made.judged.spearman.low < 0
    assert made.size_words == ""


def test_unknown_sizes_are_no_matter():
    size, skill, _, _ = world()
    made = report(size, size + skill)
    assert (made.size_words, made.judged.partial_spearman, made.judged.n_partial) == ("", None, 0)


def test_architectures_without_a_size_are_left_out():
    size, skill, _, _ = world()
    known = {a: value for a, value in values(size).items() if a not in ARCHITECTURES[:9]}
    made = report(size + skill, size + skill, {"parameters": known})
    assert (made.judged.n, made.judged.n_partial) == (N, N - 9)


# --- how many more would settle it ------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "level", "words"),
    [
        (0.6, 0.7, "settle whether it can be trusted to tell good from bad."),
        (1.4, 0.4, "settle whether it tells good from bad roughly."),
        (3.2, 0.0, "settle whether it is better than chance."),
    ],
)
def test_an_open_headline_says_how_many_would_settle_it(noise, level, words):
    _, truth, error, _ = world(2)
    made = report(truth + noise * error, truth, n=30)
    spearman = made.judged.spearman
    assert spearman.low < level < spearman.high
    assert made.next_level == level
    needed = to_reach(spearman, 30, level).beyond(30)
    assert made.num_more_architectures == needed
    assert made.verdict.endswith(words)
    said = re.search(r"About ([\d,]+) to ([\d,]+) more", made.verdict).groups()
    for word, num in zip(said, (needed.even, needed.likely), strict=True):
        assert int(word.replace(",", "")) == pytest.approx(num, rel=0.05, abs=0.6)


@pytest.mark.parametrize("noise", [0.02, 100])
def test_a_settled_headline_asks_for_nothing(noise):
    _, truth, error, _ = world(5)
    made = report(truth + noise * error if noise < 1 else -truth, truth)
    assert (made.next_level, made.num_more_architectures) == (None, None)
    assert "settle" not in made.verdict


def test_without_an_interval_nothing_is_promised():
    made = report([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0], n=4)
    assert made.judged.spearman.low is None
    assert (made.next_level, made.num_more_architectures) == (None, None)


# --- the noise ceiling ------------------------------------------------------------------------


def test_ceiling_is_the_agreement_of_two_seeds():
    _, truth, first, second = world(6)
    made = report(truth, truth + 0.2 * first, ceiling=truth + 0.2 * second)
    spearman = made.ceiling.spearman
    expected = float(ranks.spearman(truth + 0.2 * first, truth + 0.2 * second))
    assert spearman.value == pytest.approx(expected)
    assert spearman.low < spearman.value < spearman.high
    assert [row.kind for row in made.all_rows] == ["proxy"]
    assert made.ceiling.difference.value == pytest.approx(
        made.judged.spearman.value - spearman.value
    )
    assert f"Spearman {spearman} (n = 60)" in made.ceiling_words
    assert "no proxy can be expected above" in made.ceiling_words


def test_a_ranking_without_noise_reaches_the_root_of_the_ceiling():
    """What the words promise, by simulation of normal values with two noisy references."""
    rng = np.random.default_rng(7)
    truth = rng.normal(size=(300, 200))
    first, second = truth + 0.5 * rng.normal(size=(2, 300, 200))
    ceiling = ranks.spearman(first, second).mean()
    reached = ranks.spearman(truth, first).mean()
    assert reached == pytest.approx(math.sqrt(ceiling), abs=0.01)
    assert reached > ceiling + 0.05
    made = report(truth[0, :N], first[0, :N], ceiling=second[0, :N])
    root = math.sqrt(made.ceiling.spearman.value)
    assert f"above {decimal(root)}, " in made.ceiling_words


def test_no_ceiling_is_said():
    _, truth, _, _ = world()
    made = report(truth, truth)
    assert made.ceiling is None
    assert made.ceiling_words.startswith("The noise ceiling was not measured")


def test_references_that_do_not_agree_judge_nothing():
    _, truth, _, _ = world()
    made = report(truth, truth, ceiling=-truth)
    assert made.ceiling_words.startswith("Two seeds of the reference do not agree (Spearman -1.00")


@pytest.mark.parametrize("again", [[], [0.5] * N, [0.1, 0.2]])
def test_too_few_second_references_are_no_ceiling(again):
    _, truth, _, _ = world()
    made = report(truth, truth, ceiling=again)
    assert made.ceiling.spearman is None
    assert "fewer than 3 architectures have both seeds" in made.ceiling_words


def test_ceiling_on_some_architectures_says_how_many():
    _, truth, noise, _ = world()
    made = report(truth, truth, ceiling=(truth + 0.1 * noise)[:12])
    assert made.ceiling.n == 12
    assert "(n = 12)" in made.ceiling_words
