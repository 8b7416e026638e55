"""TPE in a long search sees the best trials and a stable sample of the others."""

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas_proxy.search.thinned import MOST_FITTED, ThinnedTPESampler, Thinner

UNIT = {"x": FloatDistribution(0.0, 1.0)}
UP, DOWN = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE


def trial(number, values, state=TrialState.COMPLETE) -> FrozenTrial:
    made = create_trial(
        params={"x": 0.5},
        distributions=UNIT,
        values=values if state is TrialState.COMPLETE else None,
        state=state,
    )
    made.number = number
    return made


def trials(num, *, costs=False):
    rng = np.random.default_rng(0)
    drawn = rng.random((num, 2)) if costs else rng.random((num, 1))
    return [trial(number, row.tolist()) for number, row in enumerate(drawn)]


def numbers(found):
    return [each.number for each in found]


def test_a_short_search_is_seen_whole():
    found = trials(60)
    assert Thinner(60)(found, [UP]) == found


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_the_best_what_runs_and_so_many_of_the_others(direction):
    found = trials(300)
    found[7] = trial(7, None, TrialState.PRUNED)
    running = [trial(n, None, TrialState.RUNNING) for n in (300, 301)]
    seen = Thinner(60)([*found, *running], [direction])
    assert numbers(seen) == sorted(numbers(seen))
    assert len(seen) == 60 + 2
    assert seen[-2:] == running
    ranked = sorted(
        (each for each in found if each.values), key=lambda each: each.value,
        reverse=direction is UP,
    )  # fmt: skip
    assert set(numbers(ranked[:25])) <= set(numbers(seen))
    others = [n for n in numbers(seen) if n not in numbers(ranked[:25]) and n < 300]
    assert 100 < np.mean(others) < 200  # from all of the search


def test_of_several_objectives_the_first_fronts_are_seen():
    found = trials(400, costs=True)
    seen = set(numbers(Thinner(100)(found, [UP, DOWN])))

    def beaten(each):
        return any(
            a.values[0] >= each.values[0] and a.values[1] <= each.values[1] and a is not each
            for a in found
        )

    assert {each.number for each in found if not beaten(each)} <= seen


def test_a_trial_more_changes_one_at_most():
    """And whoever goes on from there, knowing nothing, sees the same."""
    found, goes_on = trials(200), Thinner(60)
    before = set(numbers(goes_on(found[:100], [UP])))
    for num in range(101, 201, 7):
        after = set(numbers(goes_on(found[:num], [UP])))
        assert after == set(numbers(Thinner(60)(found[:num], [UP])))
        assert len(after - before) <= 2 * 7  # itself, or one that it pushed out of the best
        before = after


def study_with(num, sampler):
    study = optuna.create_study(direction="maximize", sampler=sampler)
    rng = np.random.default_rng(1)
    for x in rng.random(num):
        value = -((x - 0.3) ** 2)
        study.add_trial(create_trial(params={"x": x}, distributions=UNIT, value=value))
    return study


def proposals(num, sampler):
    study = study_with(num, sampler)
    return [study.ask().suggest_float("x", 0.0, 1.0) for _ in range(5)]


def test_proposals_are_those_of_optuna_until_there_are_more():
    own = proposals(40, ThinnedTPESampler(seed=3, constant_liar=True, thinner=Thinner(40)))
    assert own == proposals(40, TPESampler(seed=3, constant_liar=True))
    assert MOST_FITTED >= 500


def test_proposals_from_a_sample_go_where_the_best_are():
    def thinned():
        return ThinnedTPESampler(seed=3, constant_liar=False, thinner=Thinner(60))

    found = proposals(400, thinned())
    assert found == proposals(400, thinned())
    assert np.allclose(found, 0.3, atol=0.12)
