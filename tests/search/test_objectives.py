"""Searches for several objectives at once: what Optuna learns, and what stays as it was."""

import itertools
from types import SimpleNamespace

import pytest
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection, load_study
from optuna.trial import TrialState

from nas_proxy.errors import ConfigError, EvaluationError, StudyError
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.search.pareto import pareto_front
from nas_proxy.search.settings import Constraints, SearchSettings
from nas_proxy.search.storage import open_storage
from nas_proxy.search_spaces.nasbench201 import OPERATIONS, NASBench201Space
from nas_proxy.study.config import check_config
from nas_proxy.types import Architecture
from tests.search.helpers import (
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

SAMPLERS = ["tpe", "random", "nsga2"]
MINIMAL = {
    "study_name": "a",
    "distill": {"name": "random_subset"},
    "space": {"name": "convnet"},
    "train": {"num_steps": 1},
}


def sizes(architecture):
    return {**grid_sizes(architecture), "latency": 0.001 * sum(architecture.genotype)}


# --- what a search does -----------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "objectives", [("score", "num_params"), ("latency", "score"), ("flops", "score", "latency")]
)
def test_optuna_is_told_every_objective_in_its_direction(sampler, objectives, log):
    storage, evaluators = InMemoryStorage(), Evaluators()
    task = make_task(evaluators, sampler=sampler, objectives=objectives, sizes=sizes, n_trials=18)
    outcome = search(task, log, storage)
    assert len(set(architectures(outcome))) == 18
    assert set(evaluators.counts.values()) == {1}
    assert all(score == hill(e.architecture) for _, e, score in outcome.trials)
    directions = load_study(study_name="study", storage=storage).directions
    maximised = [direction is StudyDirection.MAXIMIZE for direction in directions]
    assert maximised == [name == "score" for name in objectives]
    for trial in optuna_trials(storage):  # repeated proposals too
        if trial.state is TrialState.COMPLETE:
            architecture = Architecture("grid", [trial.params["x"], trial.params["y"]])
            expected = {"score": hill(architecture), **sizes(architecture)}
            assert trial.values == [expected[name] for name in objectives]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_repeated_proposals_are_answered_from_memory(num_workers, log):
    storage = InMemoryStorage()
    task = make_task(space=Grid(side=4), n_trials=14, objectives=("score", "flops"), sizes=sizes)
    outcome = search(task, log, storage, Instant(num_workers))
    trials = optuna_trials(storage)
    assert outcome.num_duplicates == len(trials) - 14 > 0
    assert sum(trial.state is TrialState.COMPLETE for trial in trials) > 14  # the sampler learns


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_limits_hold_beside_objectives(sampler, log):
    """Two are objectives, one of them is limited as well, and a third is only limited."""
    storage, executor = InMemoryStorage(), Instant()
    task = make_task(
        sampler=sampler,
        n_trials=16,
        sizes=sizes,
        objectives=("score", "num_params"),
        constraints=Constraints(num_params=600, latency_ms=9),
    )
    outcome = search(task, log, storage, executor)
    assert len(outcome.trials) == 16
    assert all(x <= 5 and x + y <= 9 for x, y in (a.genotype for a in executor.submitted))
    pruned = [t for t in optuna_trials(storage) if t.state is TrialState.PRUNED]
    assert outcome.num_infeasible == len(pruned) > 0
    slow = [t for t in pruned if "latency" in t.user_attrs["reason"]]
    assert slow
    milliseconds = sum(slow[0].params.values())
    assert f"latency {milliseconds} ms" in slow[0].user_attrs["reason"]


def test_latency_limit_below_everything_seen(log):
    task = make_task(
        sizes=lambda a: {**sizes(a), "latency": sizes(a)["latency"] + 0.0025},
        constraints=Constraints(latency_ms=1),
    )
    with pytest.raises(StudyError, match=r"the smallest seen had latency 2\.5 ms; raise the lim"):
        search(task, log)


@pytest.mark.parametrize(
    "settings", [{"objectives": ("score", "latency")}, {"constraints": Constraints(flops=10**6)}]
)
def test_what_cannot_be_measured_is_not_trained(settings, tmp_path):
    def picky(architecture):
        if architecture.genotype[0] == 5:
            raise EvaluationError("it takes pairs of images")
        return sizes(architecture)

    storage, executor, path = InMemoryStorage(), Instant(), tmp_path / "log.jsonl"
    task = make_task(n_trials=30, sizes=picky, **settings)
    outcome = search(task, EvaluationLog(path), storage, executor)
    failed = [(e.architecture.genotype[0], e.reason) for _, e, s in outcome.trials if s is None]
    assert len(failed) > 0
    assert set(failed) == {(5, "it takes pairs of images")}
    assert all(architecture.genotype[0] != 5 for architecture in executor.submitted)
    again = search(task, EvaluationLog(path), storage, executor)
    assert again.trials == outcome.trials


# --- repeatable -------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_who_finishes_first_does_not_matter(sampler, pool, tmp_path):
    found = []
    for number, executor in enumerate([Instant(2), *(Threads(pool, 2, d) for d in (1, 2))]):
        evaluators = Evaluators(reason=lambda a: "corner" if sum(a.genotype) < 3 else "")
        task = make_task(
            evaluators, sampler=sampler, n_trials=14, objectives=("score", "flops"), sizes=sizes
        )
        outcome = search(task, EvaluationLog(tmp_path / str(number)), executor=executor)
        found.append((executor.submitted, outcome))
    assert found[1:] == found[:1] * 2


def test_latency_that_was_told_stays_told(tmp_path):
    """A continued search goes by what was measured, though it would be measured differently now."""
    storage, path = InMemoryStorage(), tmp_path / "log.jsonl"
    task = make_task(n_trials=4, objectives=("score", "latency"), sizes=sizes)
    search(task, EvaluationLog(path), storage)
    told = [trial.values for trial in optuna_trials(storage)]
    later = make_task(n_trials=8, objectives=("score", "latency"), sizes=lambda a: {"latency": 9.0})
    outcome = search(later, EvaluationLog(path), storage)
    assert [trial.values for trial in optuna_trials(storage)][: len(told)] == told
    assert len(outcome.trials) == 8


def test_a_database_that_holds_other_objectives(tmp_path):
    url, path = f"sqlite:///{tmp_path}/study.db", tmp_path / "log.jsonl"
    for objectives in (("score", "flops"), ("score", "flops")):
        search(make_task(n_trials=2, objectives=objectives, sizes=sizes), EvaluationLog(path), url)
    storage = open_storage(url, tmp_path)
    for objectives in (("score",), ("score", "latency"), ("flops", "score")):
        with pytest.raises(StudyError, match="with other objectives .*choose another study_name"):
            search(
                make_task(n_trials=3, objectives=objectives, sizes=sizes),
                EvaluationLog(path),
                storage,
            )


# --- better than chance -----------------------------------------------------------------------


COSTS = dict(zip(OPERATIONS, (0, 0, 2, 9, 0), strict=True))
WORTH = dict(zip(OPERATIONS, (0, 2, 3, 5, 1), strict=True))


def worth(architecture):
    """Smooth: every edge adds its part, and later edges weigh more."""
    return sum(w * WORTH[name] for w, name in enumerate(architecture.genotype, start=2))


def operations(architecture):
    return {"num_params": 1 + sum(COSTS[name] for name in architecture.genotype)}


def dominated_area(outcome):
    """Under the front, of score over parameters: what some trial reaches at no higher cost."""
    points = [
        SimpleNamespace(objectives={"score": score, **operations(e.architecture)})
        for _, e, score in outcome.trials
    ]
    front = [trial.objectives for trial in pareto_front(points)][::-1]  # the cheapest first
    edges = [*(point["num_params"] for point in front), 60]
    return sum(
        (right - left) * point["score"]
        for point, (left, right) in zip(front, itertools.pairwise(edges), strict=True)
    )


@pytest.mark.exhaustive
def test_tpe_and_nsga2_find_better_fronts_than_chance(tmp_path, monkeypatch):
    def area(sampler, seed):
        monkeypatch.setattr("tests.search.helpers.SEED", seed)
        task = make_task(
            Evaluators(worth),
            space=NASBench201Space(),
            sampler=sampler,
            n_trials=150,
            population_size=12,
            objectives=("score", "num_params"),
            sizes=operations,
        )
        return dominated_area(search(task, EvaluationLog(tmp_path / f"{sampler}_{seed}")))

    areas = {
        sampler: sum(area(sampler, seed) for seed in range(4))
        for sampler in ("tpe", "nsga2", "random")
    }
    assert min(areas["tpe"], areas["nsga2"]) > areas["random"]


# --- wrong settings ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"executor": "proceses"}, "unknown executor 'proceses'; did you mean 'processes'?"),
        ({"objectives": ["score", "flop"]}, "unknown objective 'flop'; did you mean 'flops'?"),
        ({"objectives": ["score", "latency_ms"]}, "did you mean 'latency'?"),
        ({"objectives": ["score", "memory"]}, "known: flops, latency, num_params, score"),
        ({"objectives": ["flops", "score", "flops"]}, "names 'flops' twice; name it once"),
        ({"objectives": ["flops"]}, "['flops'] lack score, by which the best are told; add it"),
        ({"objectives": []}, "lack score"),
        (
            {"objectives": ["score", "flops"], "sampler": "regularized_evolution"},
            "regularized_evolution pursues one objective, but objectives names 2; use the sampler "
            "nsga2, tpe or random",
        ),
        ({"sampler": "nsga2", "population_size": 1}, "population_size is 1, but nsga2 crosses two"),
        ({"constraints": {"latency_ms": 0}}, "search.constraints.latency_ms"),
        ({"constraints": {"latency": 3}}, "did you mean 'latency_ms'?"),
    ],
)
def test_wrong_settings_are_named_with_a_way_out(settings, expected):
    with pytest.raises(ConfigError) as caught:
        check_config({**MINIMAL, "search": settings})
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "search", [{"objectives": ["score", "latency"]}, {"constraints": {"latency_ms": 3}}]
)
def test_workers_on_a_gpu_would_disturb_the_latency(search):
    config = {**MINIMAL, "device": "cuda", "search": {**search, "executor": "processes"}}
    with pytest.raises(ConfigError, match="search.executor: 2 processes .*use executor: serial"):
        check_config(config)
    check_config({**config, "device": "cpu"})
    check_config({**config, "search": search})
    check_config({**config, "search": {"objectives": ["score", "flops"]}})


def test_objectives_are_read_from_a_config():
    config = check_config({**MINIMAL, "search": {"objectives": ["score", "latency"]}})
    assert config.search.costs == ("latency",)
    assert config.search.needs_latency
    assert SearchSettings().objectives == ("score",)
    assert not SearchSettings(objectives=("score", "flops")).needs_latency
    assert SearchSettings(constraints=Constraints(latency_ms=3)).needs_latency
