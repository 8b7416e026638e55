"""Searches: what they evaluate, what they refuse, and that they can be repeated."""

import itertools
import logging
from concurrent.futures import Future

import pytest
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nas_proxy.errors import PluginError, StudyError, UserError
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.search.settings import Constraints
from nas_proxy.search_spaces.nasbench201 import OPERATIONS, NASBench201Space
from nas_proxy.types import Architecture, Evaluation, Status
from tests.search.helpers import (
    SAMPLERS,
    Evaluators,
    Grid,
    Instant,
    Threads,
    architectures,
    grid_sizes,
    hill,
    make_task,
    optuna_trials,
    search,
)

# --- what a search does -----------------------------------------------------------------------

PROPOSALS = "nas_proxy.search._proposals"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_evaluates_n_different_architectures_once(sampler, log):
    evaluators, seen, steps = Evaluators(), [], []
    task = make_task(
        evaluators,
        sampler=sampler,
        n_trials=18,
        on_trial=lambda trial, _: seen.append(trial),
        progress=lambda done, total, note="": steps.append((done, total)),
    )
    outcome = search(task, log)
    assert len(set(architectures(outcome))) == len(outcome.trials) == 18
    assert set(evaluators.counts.values()) == {1}
    assert set(evaluators.counts) == set(architectures(outcome))
    assert all(score == hill(e.architecture) for _, e, score in outcome.trials)
    assert seen == outcome.trials
    assert steps == [(n, 18) for n in range(19)]
    assert list(log) == [evaluation for _, evaluation, _ in outcome.trials]


def test_optuna_holds_what_was_found(log):
    storage = InMemoryStorage()
    evaluators = Evaluators(reason=lambda a: "too wide" if a.genotype[0] > 6 else "")
    outcome = search(make_task(evaluators, n_trials=20), log, storage)
    trials = optuna_trials(storage)
    assert {score is None for _, _, score in outcome.trials} == {True, False}
    for number, evaluation, score in outcome.trials:
        trial = trials[number]
        assert [trial.params["x"], trial.params["y"]] == evaluation.architecture.genotype
        assert trial.user_attrs["architecture_id"] == evaluation.architecture.id
        if score is None:
            assert trial.state is TrialState.FAIL
            assert trial.user_attrs["reason"] == evaluation.reason == "too wide"
        else:
            assert (trial.state, trial.value) == (TrialState.COMPLETE, score)
    assert not any(trial.state is TrialState.RUNNING for trial in trials)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_known_proposals_are_answered_from_memory(num_workers, log):
    storage, evaluators = InMemoryStorage(), Evaluators()
    task = make_task(evaluators, space=Grid(side=4), n_trials=14)
    outcome = search(task, log, storage, Instant(num_workers))
    assert len(set(architectures(outcome))) == 14
    assert set(evaluators.counts.values()) == {1}
    trials = optuna_trials(storage)
    assert outcome.num_duplicates == len(trials) - 14 > 0
    # The sampler learns nothing wrong from them.
    for trial in trials:
        if trial.state is TrialState.COMPLETE:
            architecture = Architecture("grid", [trial.params["x"], trial.params["y"]])
            assert trial.value == hill(architecture)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_exhausted_space_ends_with_one_warning(num_workers, log, caplog):
    task = make_task(space=Grid(side=2), n_trials=10)
    with caplog.at_level(logging.WARNING, "nas_proxy"):
        outcome = search(task, log, executor=Instant(num_workers))
    assert len(set(architectures(outcome))) == 4
    (message,) = [r.getMessage() for r in caplog.records if r.name == "nas_proxy"]
    assert "the search ends with 4 of 10 trials" in message


@pytest.mark.parametrize("num_workers", [1, 2])
def test_sampler_that_is_stuck_is_helped_by_chance(num_workers, monkeypatch, tmp_path):
    """A sampler that knows one corner alone would end the search there."""

    class Stubborn(RandomSampler):
        def sample_independent(self, study, trial, name, distribution):
            return (
                3 if name == "y" else super().sample_independent(study, trial, name, distribution)
            )

    monkeypatch.setattr(f"{PROPOSALS}.make_sampler", lambda _, seed, *__: Stubborn(seed))
    found = []
    for name in ("first", "second"):
        task = make_task(n_trials=40)
        outcome = search(task, EvaluationLog(tmp_path / name), executor=Instant(num_workers))
        assert len(set(architectures(outcome))) == 40
        found.append(outcome)
    assert sum(a.genotype[1] == 3 for a in architectures(found[0])) == 10  # the corner as well
    assert found[0] == found[1]


# --- constraints ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "limits", "allowed"),
    [
        *((sampler, {"num_params": 500}, lambda x, y: x <= 4) for sampler in SAMPLERS),
        ("random", {"flops": 2999}, lambda x, y: y <= 1),
        ("random", {"num_params": 499, "flops": 5000}, lambda x, y: x <= 3 and y <= 4),
        ("random", {}, lambda x, y: True),
    ],
)
def test_what_exceeds_a_limit_is_never_evaluated(sampler, limits, allowed, log):
    storage, executor = InMemoryStorage(), Instant()
    constraints = Constraints(**limits)
    task = make_task(sampler=sampler, constraints=constraints, sizes=grid_sizes)
    outcome = search(task, log, storage, executor)
    assert len(outcome.trials) == 12
    assert all(allowed(*architecture.genotype) for architecture in executor.submitted)
    pruned = [t for t in optuna_trials(storage) if t.state is TrialState.PRUNED]
    assert outcome.num_infeasible == len(pruned)
    assert (len(pruned) > 0) == bool(limits)
    for trial in pruned:
        assert not allowed(trial.params["x"], trial.params["y"])
        assert trial.user_attrs["reason"].startswith("exceeds search.constraints: ")


def test_constraints_that_nothing_satisfies(log):
    asked, executor = [], Instant()

    def sizes(architecture):
        asked.append(grid_sizes(architecture))
        return asked[-1]

    task = make_task(sizes=sizes, constraints=Constraints(num_params=99, flops=2000))
    with pytest.raises(StudyError) as caught:
        search(task, log, executor=executor)
    assert executor.submitted == []
    smallest = {name: min(size[name] for size in asked) for name in ("num_params", "flops")}
    message = str(caught.value)
    assert f"num_params {smallest['num_params']:,.0f}" in message
    assert f"flops {smallest['flops']:,.0f}" in message
    assert "search.constraints" in message
    assert "raise the limits" in message


def test_what_cannot_be_built_has_no_size_and_fails_in_its_evaluation(log):
    def sizes(architecture):
        return {} if architecture.genotype[0] == 5 else grid_sizes(architecture)

    evaluators = Evaluators(reason=lambda a: "cannot be built" if a.genotype[0] == 5 else "")
    task = make_task(evaluators, n_trials=30, sizes=sizes, constraints=Constraints(num_params=800))
    outcome = search(task, log)
    failed = [e.architecture for _, e, score in outcome.trials if score is None]
    assert failed
    assert all(architecture.genotype[0] == 5 for architecture in failed)


def test_architectures_of_another_space_are_refused(log):
    class Mislabelled(Grid):
        def suggest(self, trial):
            return Architecture("grade", [trial.suggest_int("x", 0, 9), 0])

    executor = Instant()
    with pytest.raises(PluginError, match=r"'grid' suggests .* 'grade'; make it with Architecture"):
        search(make_task(space=Mislabelled()), log, executor=executor)
    assert executor.submitted == []


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_failures_do_not_stop_the_search(sampler, log):
    evaluators = Evaluators(reason=lambda a: "odd" if sum(a.genotype) % 2 else "")
    outcome = search(make_task(evaluators, sampler=sampler, n_trials=20), log)
    assert len(outcome.trials) == 20
    for _, evaluation, score in outcome.trials:
        odd = sum(evaluation.architecture.genotype) % 2 == 1
        assert (score is None) == odd == (evaluation.reason == "odd")
    assert {score is None for _, _, score in outcome.trials} == {True, False}


def test_search_in_which_everything_fails_ends_early_with_the_reason(log):
    reasons = itertools.cycle(["no memory", "no memory", "diverged"])
    evaluators = Evaluators(reason=lambda a: next(reasons))
    with pytest.raises(StudyError, match=r"all 8 .* failed, 6 of them because: no memory"):
        search(make_task(evaluators, n_trials=50), log)
    assert len(evaluators.counts) == 8


@pytest.mark.parametrize("num_workers", [1, 2])
def test_short_search_in_which_everything_fails_is_no_success(num_workers, log):
    evaluators, storage = Evaluators(reason=lambda a: "no memory"), InMemoryStorage()
    for _ in range(2):  # and neither is looking at it again
        with pytest.raises(StudyError, match=r"all 3 .* failed, 3 of them because: no memory"):
            search(make_task(evaluators, n_trials=3), log, storage, Instant(num_workers))
    assert len(evaluators.counts) == 3


def test_late_success_after_many_failures(log):
    count = itertools.count(1)
    evaluators = Evaluators(reason=lambda a: "no memory" if next(count) != 7 else "")
    outcome = search(make_task(evaluators, n_trials=20), log)
    assert [score is None for _, _, score in outcome.trials].index(False) == 6
    assert len(outcome.trials) == 20


def test_error_of_the_executor_ends_the_search(log):
    class Gone(Instant):
        def submit(self, factory, architecture, seed):
            future = Future()
            future.set_exception(UserError("the proxy data set is gone"))
            return future

    with pytest.raises(UserError, match="the proxy data set is gone"):
        search(make_task(), log, executor=Gone())


# --- reproducible -----------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_searches_the_same(sampler, tmp_path):
    def run(name, seed):
        task = make_task(sampler=sampler, n_trials=16)
        object.__setattr__(task, "seed", seed)
        evaluators = Evaluators()
        evaluators.evaluate = lambda a, s: Evaluation(
            a, evaluators.fidelity, s, Status.COMPLETE, {"val_accuracy": hill(a)}
        )
        object.__setattr__(task, "factory", evaluators)
        return architectures(search(task, EvaluationLog(tmp_path / name)))

    assert run("first", 1) == run("second", 1) != run("third", 2)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "regularized_evolution"])
def test_who_finishes_first_does_not_matter(sampler, pool, tmp_path):
    """Two workers: whatever the delays, the same is asked in the same order."""
    found = []
    executors = [Instant(2), *(Threads(pool, 2, delays) for delays in (1, 2, 3))]
    for number, executor in enumerate(executors):
        log = EvaluationLog(tmp_path / str(number))
        evaluators = Evaluators(reason=lambda a: "corner" if sum(a.genotype) < 3 else "")
        task = make_task(evaluators, sampler=sampler, n_trials=24)
        outcome = search(task, log, executor=executor)
        assert set(evaluators.counts.values()) == {1}
        assert {e.architecture for e in log} == set(architectures(outcome))
        found.append((executor.submitted, outcome))
    assert all(later == found[0] for later in found[1:])


# --- better than chance -----------------------------------------------------------------------


def convolutions(architecture):
    """Smooth: every edge adds its part, and later edges weigh more."""
    worth = dict(zip(OPERATIONS, (0, 2, 3, 5, 1), strict=True))
    return sum(weight * worth[name] for weight, name in enumerate(architecture.genotype, start=2))


def mean_of_the_last_third(sampler, log):
    task = make_task(
        Evaluators(convolutions),
        space=NASBench201Space(),
        sampler=sampler,
        n_trials=75,
        population_size=15,
    )
    scores = [score for _, _, score in search(task, log).trials]
    return sum(scores[50:]) / 25


@pytest.mark.exhaustive
def test_evolution_and_tpe_learn_and_random_does_not(tmp_path):
    means = {
        name: mean_of_the_last_third(name, EvaluationLog(tmp_path / name)) for name in SAMPLERS
    }
    chance = sum(range(2, 8)) * (0 + 2 + 3 + 5 + 1) / 5
    # One draw has a deviation of about 20; twenty-five of them, 4.
    assert abs(means["random"] - chance) < 12
    assert means["regularized_evolution"] > means["random"] + 20
    assert means["tpe"] > means["random"] + 20
    assert means["nsga2"] > means["random"]
