"""A tiny study for three objectives, from its configuration to its report."""

import json

import pytest

from nas_proxy.errors import StudyError
from nas_proxy.search import resources
from nas_proxy.search.pareto import knee, pareto_front, pick
from nas_proxy.search.result import SearchResult
from nas_proxy.study.config import check_config
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.tracking._runs import RunLog
from tests.helpers.display import Quiet

OBJECTIVES = ["latency", "score", "num_params"]
TINY = {
    "study_name": "front",
    "data": {"name": "digits", "images_per_class": 20},
    "distill": {"name": "random_subset", "images_per_class": 2},
    "space": {"name": "convnet", "widths": [8], "depths": [1, 2]},
    "train": {"num_steps": 3, "batch_size": 16, "learning_rate": 0.02},
    "score": {"signals": ["val_loss"]},
    "search": {"n_trials": 5, "sampler": "random", "objectives": OBJECTIVES},
    "tracking": {"enabled": False},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def config(results):
    return check_config({**TINY, "results": str(results)})


@pytest.fixture(scope="module")
def study(config):
    """The finished study: what was logged, and what was said."""
    logged, display = [], Quiet()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "metrics", lambda run, values, step=None: logged.append(values))
        run_pipeline(config, display)
    return logged, display.said


@pytest.fixture
def search(study, config):
    return SearchResult.read(config.layout.search_result)


def test_trials_carry_their_objectives(search):
    assert len(search.trials) == 5
    for trial in search.trials:
        assert list(trial.objectives) == OBJECTIVES
        assert trial.objectives["score"] == trial.score
        assert trial.objectives["latency"] == trial.latency.median_seconds > 0
    # Width 8, one or two blocks: the parameters that the space's networks have.
    assert len({trial.objectives["num_params"] for trial in search.trials}) > 1


def test_front_and_knee_are_those_of_the_trials(search):
    front = search.pareto_front
    assert list(front) == pareto_front(search.trials)
    assert search.knee == knee(front).trial
    assert pick(front, "max_accuracy") == list(search.best[:1])


def test_everything_is_logged_and_said(study, search, config):
    logged, said = study
    for trial in search.trials:
        assert trial.objectives in logged
    assert {"pareto_front_size": len(search.pareto_front)} in logged
    assert any("search: Pareto front of latency, score, num_params: " in s for s in said)
    report = json.loads((config.layout.folder / "report.json").read_text())
    (cost,) = [entry for entry in report["costs"] if entry["what"] == "search: latencies"]
    assert cost["count"] == 5
    assert cost["seconds"] > 0
    written = {path.name for path in (config.layout.folder / "figures").iterdir()}
    assert {"pareto_latency.png", "pareto_num_params.png"} <= written


def test_a_continued_study_measures_only_what_is_new(study, search, results, monkeypatch):
    measured = []
    original = resources.measure_latency

    def counting(network, shape, **options):
        measured.append(shape)
        return original(network, shape, **options)

    monkeypatch.setattr(resources, "measure_latency", counting)
    more = check_config(
        {**TINY, "results": str(results), "search": {**TINY["search"], "n_trials": 6}}
    )
    run_pipeline(more, Quiet(), last="search")
    again = SearchResult.read(more.layout.folder / "search" / "search.json")
    assert again.trials[:5] == search.trials
    assert len(again.trials) == 6
    assert measured == [(1, 8, 8)]


def test_other_objectives_are_another_study(study, results):
    other = {**TINY["search"], "objectives": ["score", "flops"]}
    config = check_config({**TINY, "results": str(results), "search": other})
    with pytest.raises(StudyError, match="search.objectives: .*choose another study_name"):
        run_pipeline(config, Quiet())
