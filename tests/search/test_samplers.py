import math
import random
import warnings
from collections import Counter

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.samplers import NSGAIISampler, RandomSampler
from optuna.trial import TrialState, create_trial
from scipy import stats

from nas_proxy.search import _samplers as samplers
from nas_proxy.search._samplers import RegularizedEvolutionSampler, make_sampler
from nas_proxy.search.settings import SearchSettings
from nas_proxy.search.thinned import ThinnedTPESampler

CHOICES = CategoricalDistribution(tuple(range(10)))
FLAT = {name: CHOICES for name in "abcde"}


def study_with(sampler, values, direction="maximize"):
    """One complete trial for each value; the parameters of number i are all i."""
    study = optuna.create_study(sampler=sampler, direction=direction)
    for number, value in enumerate(values):
        study.add_trial(
            create_trial(params=dict.fromkeys(FLAT, number), distributions=FLAT, value=value)
        )
    return study


def children(study, num):
    """Proposals without answers: nobody joins the population."""
    for _ in range(num):
        trial = study.ask()
        for name in FLAT:
            trial.suggest_categorical(name, CHOICES.choices)
        yield trial.params


def parent_of(child):
    """The trial whose number four of five parameters carry."""
    (number, count), *_ = Counter(child.values()).most_common()
    assert count == 4, f"{child} differs from every trial in more or less than one parameter"
    return number


def evolution(population_size, tournament_size, seed=0):
    return RegularizedEvolutionSampler(population_size, tournament_size, seed=seed)


# --- regularized evolution: who is a parent ---------------------------------------------------


def test_until_the_population_is_full_proposals_are_uniform():
    study = study_with(evolution(4, 2), [1.0, 2.0, 3.0])
    drawn = list(children(study, 120))
    counts = Counter(value for child in drawn for value in child.values())
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3
    assert sum(max(Counter(child.values()).values()) >= 4 for child in drawn) < 3


def test_from_then_on_a_child_differs_from_a_parent_in_one_parameter():
    study = study_with(evolution(4, 2), [1.0, 2.0, 3.0, 0.0])
    assert {parent_of(child) for child in children(study, 40)} <= {0, 1, 2, 3}


def test_parents_come_from_the_youngest_alone():
    # The old ones are better, and would win every tournament.
    study = study_with(evolution(3, 3), [9.0, 8.0, 7.0, 1.0, 3.0, 2.0])
    assert {parent_of(child) for child in children(study, 30)} == {4}
    study = study_with(evolution(3, 1), [9.0, 8.0, 7.0, 1.0, 3.0, 2.0])
    assert {parent_of(child) for child in children(study, 40)} == {3, 4, 5}


def test_only_complete_trials_live():
    study = study_with(evolution(2, 2), [1.0, 2.0])
    for number, state in ((5, TrialState.FAIL), (6, TrialState.RUNNING), (7, TrialState.PRUNED)):
        study.add_trial(
            create_trial(state=state, params=dict.fromkeys(FLAT, number), distributions=FLAT)
        )
    assert {parent_of(child) for child in children(study, 30)} == {1}


@pytest.mark.parametrize(("direction", "best"), [("maximize", 2), ("minimize", 3)])
def test_a_tournament_of_all_is_won_by_the_best(direction, best):
    study = study_with(evolution(5, 5), [-1.0, -2.0, -0.5, -7.0, -3.0], direction)
    assert {parent_of(child) for child in children(study, 20)} == {best}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_best_of_the_drawn_wins(size):
    """With k drawn of n without replacement, rank r wins with probability C(n-r, k-1) / C(n, k)."""
    values = [3.0, 6.0, 1.0, 5.0, 2.0, 4.0]
    study = study_with(evolution(6, size, seed=1), values)
    wins = Counter(values[parent_of(child)] for child in children(study, 300))
    chances = [math.comb(int(value) - 1, size - 1) / math.comb(6, size) for value in values]
    assert wins.keys() == {v for v, chance in zip(values, chances, strict=True) if chance}
    expected = [(wins[v], 300 * c) for v, c in zip(values, chances, strict=True) if c]
    assert stats.chisquare(*zip(*expected, strict=True)).pvalue > 1e-3


def test_a_tournament_larger_than_the_population():
    study = study_with(evolution(3, 50), [1.0, 3.0, 2.0])
    assert {parent_of(child) for child in children(study, 10)} == {1}


# --- regularized evolution: what a child is ---------------------------------------------------


def test_every_parameter_and_every_other_value_is_equally_likely():
    study = study_with(evolution(1, 1, seed=2), [1.0])
    changes = [
        (name, value) for c in children(study, 450) for name, value in c.items() if value != 0
    ]
    assert len(changes) == 450
    for part in zip(*changes, strict=True):
        counts = Counter(part)
        assert len(counts) == (5 if "a" in counts else 9)
        assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def conditional(trial):
    """Integers, numbers and choices, of which some exist only beside others."""
    depth = trial.suggest_int("depth", 1, 4)
    params = {"depth": depth}
    for layer in range(depth):
        kind = trial.suggest_categorical(f"kind{layer}", ("conv", "pool", None))
        params[f"kind{layer}"] = kind
        if kind == "conv":
            name = f"width{layer}"
            params[name] = trial.suggest_int(name, 8, 64, step=8)
    params["dropout"] = trial.suggest_float("dropout", 0.0, 0.5)
    params["lr"] = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    params["only"] = trial.suggest_categorical("only", ("one",))
    return params


def is_one_mutation(child, parent):
    """Shared parameters differ in exactly one; others come and go with that one alone."""
    changed = [name for name in child.keys() & parent.keys() if child[name] != parent[name]]
    if len(changed) != 1:
        return False
    (name,) = changed
    appeared_or_gone = child.keys() ^ parent.keys()
    if name == "depth":
        low = min(child["depth"], parent["depth"])
        return all(other[-1].isdigit() and int(other[-1]) >= low for other in appeared_or_gone)
    if name.startswith("kind"):
        return appeared_or_gone <= {f"width{name[-1]}"}
    return not appeared_or_gone


def test_conditional_integer_and_float_parameters():
    study, told = optuna.create_study(sampler=evolution(6, 2), direction="maximize"), []
    for _ in range(60):
        trial = study.ask()
        params = conditional(trial)
        assert params == trial.params
        assert 0 <= params["dropout"] <= 0.5
        assert 1e-4 <= params["lr"] <= 1e-1
        if len(told) >= 6:
            assert any(is_one_mutation(params, parent) for parent in told[-6:])
        study.tell(trial, params["dropout"] - params["depth"])
        told.append(params)


def test_space_with_nothing_to_choose_does_not_hang():
    study = optuna.create_study(sampler=evolution(1, 1))
    for _ in range(3):
        trial = study.ask()
        assert trial.suggest_categorical("only", ("one",)) == "one"
        study.tell(trial, 0.0)


def test_the_same_seed_proposes_the_same():
    def proposals(seed):
        study = study_with(evolution(3, 2, seed), [1.0, 3.0, 2.0])
        return list(children(study, 12))

    assert proposals(1) == proposals(1) != proposals(2)


def test_it_leaves_the_global_generators_alone():
    states = random.getstate(), np.random.get_state()[1].tolist()
    list(children(study_with(evolution(3, 2), [1.0, 3.0, 2.0]), 5))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states


# --- which sampler ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("random", RandomSampler),
        ("tpe", ThinnedTPESampler),
        ("nsga2", NSGAIISampler),
        ("regularized_evolution", RegularizedEvolutionSampler),
    ],
)
@pytest.mark.parametrize("num_workers", [1, 2])
def test_settings_choose_the_sampler_without_a_warning(name, kind, num_workers):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler = make_sampler(SearchSettings(sampler=name), 7, num_workers)
    assert type(sampler) is kind


@pytest.mark.parametrize(("num_workers", "lies"), [(1, False), (2, True)])
@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_tpe_counts_what_runs_with_several_workers_whatever_the_executor(
    executor, num_workers, lies, monkeypatch
):
    made = []
    monkeypatch.setattr(samplers, "ThinnedTPESampler", lambda **options: made.append(options))
    make_sampler(SearchSettings(executor=executor), 7, num_workers)
    assert made == [{"seed": 7, "constant_liar": lies, "thinner": None}]


def test_settings_reach_regularized_evolution():
    settings = SearchSettings(sampler="regularized_evolution", population_size=3, tournament_size=3)
    study = study_with(make_sampler(settings, 7, 1), [9.0, 1.0, 3.0, 2.0])
    assert {parent_of(child) for child in children(study, 10)} == {2}
