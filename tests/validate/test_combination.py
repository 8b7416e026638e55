"""The best combination of zero-cost scores, against trying all of them."""

import itertools

import numpy as np
import pytest
from scipy import stats

from nas_proxy.types import Architecture
from nas_proxy.validate.combination import best_combination
from nas_proxy.validate.values import Ranking

N = 80
ARCHITECTURES = [Architecture("s", number) for number in range(N)]


def rankings(**columns):
    return [
        Ranking(
            name,
            "control",
            {a: v for a, v in zip(ARCHITECTURES, column.tolist(), strict=True) if np.isfinite(v)},
            0.5,
            failures={"not finite": int(np.isnan(column).sum())} if np.isnan(column).any() else {},
        )
        for name, column in columns.items()
    ]


def reference(values):
    return dict(zip(ARCHITECTURES, values.tolist(), strict=True))


def views(seed=0):
    """A truth, three scores that see parts of it, and one that sees nothing."""
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(3, N))
    noise = rng.normal(size=(4, N))
    columns = {f"view_{i}": part + 0.5 * noise[i] for i, part in enumerate(parts)}
    return parts.sum(axis=0), {**columns, "blind": 5 * noise[3]}


def agreement(columns, truth):
    return stats.spearmanr(np.sum([stats.rankdata(c) for c in columns], axis=0), truth).statistic


def test_views_are_joined_and_the_blind_one_is_left_out():
    truth, columns = views()
    found = best_combination(rankings(**columns), ARCHITECTURES, reference(truth))
    assert "blind" not in found.name
    assert all(f"view_{i}" in found.name for i in range(3))
    assert found.name.startswith("the best zero-cost combination, found afterwards (")
    assert (found.kind, found.seconds_per_architecture) == ("control", 1.5)
    reached = stats.spearmanr(list(found.scores.values()), truth).statistic
    best = max(
        agreement([columns[name] for name in chosen], truth)
        for size in (2, 3, 4)
        for chosen in itertools.combinations(columns, size)
    )
    assert reached == pytest.approx(best)
    assert list(found.scores) == ARCHITECTURES


def test_the_unit_of_a_score_does_not_matter():
    truth, columns = views()
    plain = best_combination(rankings(**columns), ARCHITECTURES, reference(truth))
    stretched = {**columns, "view_1": np.exp(9 * columns["view_1"])}
    assert best_combination(rankings(**stretched), ARCHITECTURES, reference(truth)) == plain


def test_one_that_knows_all_stays_alone():
    truth, columns = views()
    found = best_combination(rankings(truth=truth, **columns), ARCHITECTURES, reference(truth))
    assert found is None


def test_constant_scores_are_never_chosen():
    truth, columns = views()
    found = best_combination(
        rankings(constant=np.ones(N), **columns), ARCHITECTURES, reference(truth)
    )
    assert "constant" not in found.name
    assert best_combination(rankings(a=np.ones(N), b=np.ones(N)), ARCHITECTURES,
                            reference(truth)) is None  # fmt: skip


def test_what_a_member_lacks_the_combination_lacks():
    truth, columns = views()
    columns["view_0"][:7] = np.nan
    found = best_combination(rankings(**columns), ARCHITECTURES, reference(truth))
    assert list(found.scores) == ARCHITECTURES[7:]
    assert dict(found.failures) == {"not finite": 7}


@pytest.mark.parametrize("num", [0, 1])
def test_fewer_than_two_are_no_combination(num):
    truth, columns = views()
    few = rankings(**columns)[:num]
    assert best_combination(few, ARCHITECTURES, reference(truth)) is None


def test_two_architectures_choose_nothing():
    truth, columns = views()
    few = dict(list(reference(truth).items())[:2])
    assert best_combination(rankings(**columns), ARCHITECTURES, few) is None
