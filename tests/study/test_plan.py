"""A plan says what the run then does: a new, a resumed and a finished one; it changes nothing."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nas_proxy.data.sources import load_splits
from nas_proxy.evaluate.timing import TrainingCost
from nas_proxy.study.all_stages import STAGES
from nas_proxy.study.config import check_config
from nas_proxy.study.estimate import Seconds, StudyEstimate, Timed, estimate_stages
from nas_proxy.study.looking import look_at
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.study.plan import EvaluationUnit, Saving, StagedUnit, StagePlan, Task
from nas_proxy.study.planning import plan_study
from nas_proxy.study.stage import plan_stages
from nas_proxy.study.stages.validate import Validate
from nas_proxy.study.timekeeping import evaluation_seconds
from tests.helpers.display import Quiet
from tests.study.helpers_calibrate import CONFIG, SHORT

WHOLE = {
    **CONFIG,
    "validate": {
        "num_architectures": 5,
        "k": 2,
        "controls": ["num_params"],
        "reference": {"train": {**SHORT, "num_steps": 8}},
    },
    "retrain": {"num_seeds": 2, "train": SHORT, "comparisons": ["median"], "formats": []},
}
CONFIGURED = {
    **{key: value for key, value in WHOLE.items() if key not in ("calibrate", "retrain")},
    "score": {"signals": ["val_loss", "flops"], "combine": "rank_mean", "num_reference": 4},
}


def config_in(folder: Path, config: dict = WHOLE, **changes):
    return check_config({**config, "results": str(folder), **changes})


def plans_of(config) -> dict[str, StagePlan]:
    return {plan.stage: plan for plan in plan_stages(STAGES, look_at(config, Quiet()))}


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def evaluations(study: Path, stage: str) -> Counter:
    """How many evaluations the run did, by log."""
    paths = [*(study / stage).glob("*.jsonl")]
    if stage == "calibrate":
        paths += (study / "calibration_sample").glob("*/*.jsonl")
    return Counter({path.stem: len(path.read_text().splitlines()) for path in paths})


@pytest.fixture(
    scope="module",
    params=["configured", pytest.param("calibrated", marks=pytest.mark.exhaustive)],
)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The plan of a study before it ran, and the folder of the study that ran since."""
    folder = tmp_path_factory.mktemp(request.param)
    config = config_in(folder, WHOLE if request.param == "calibrated" else CONFIGURED)
    planned = plans_of(config)
    assert not list(folder.iterdir())
    said = Quiet()
    run_pipeline(config, said)
    return config, planned, said.said


def test_the_run_does_as_many_evaluations_as_the_plan_says(ran) -> None:
    config, planned, _ = ran
    study = config.layout.folder
    done = {stage: evaluations(study, stage) for stage in planned}
    for stage in ("calibrate", "search"):
        if stage in planned:
            total = sum(task.total for task in planned[stage].tasks)
            assert total == sum(done[stage].values()), done[stage]
    tasks = {task.what: task for task in planned["validate"].tasks}
    assert tasks["full-data references"].total == done["validate"]["reference"]
    assert tasks["by the recipe"].total == done["validate"]["proxy"]
    for what, log in (
        ("control: a random subset", "random_subset"),
        ("control: the same steps on the full data", "same_steps_full_data"),
    ):
        if tasks[what].least is None:
            assert tasks[what].total == done["validate"][log]
    if "retrain" in planned:
        assert sum(task.total for task in planned["retrain"].tasks) == done["retrain"]["training"]


def test_the_run_says_at_its_beginning_what_it_will_do(ran) -> None:
    config, planned, said = ran
    lines = [line for line in said if line.startswith("plan: ")]
    assert [line.split(": ")[1] for line in lines[: len(planned)]] == list(planned)
    assert "random_subset" in lines[0]
    search = next(line for line in lines if line.startswith("plan: search"))
    assert ("7 trainings" if config.recipe == "configured" else "3 trainings") in search


def test_nothing_is_left_of_a_finished_study(ran) -> None:
    config, planned, _ = ran
    before = tree(config.layout.folder)
    found = plans_of(config)
    assert found.keys() == planned.keys()
    assert all(plan.is_finished and not plan.tasks for plan in found.values())
    assert tree(config.layout.folder) == before


@pytest.mark.exhaustive
def test_what_a_killed_run_finished_is_not_counted_again(ran, tmp_path: Path) -> None:
    config, _, _ = ran
    shutil.copytree(config.layout.folder, tmp_path / "tiny")
    study = tmp_path / "tiny"
    record = study / "validate" / "stage.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "finished": False}))
    log = study / "validate" / "reference.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:2]) + lines[2][:40])  # as a kill leaves it
    before = tree(study)
    found = plans_of(config_in(tmp_path, dict(config.resolved)))
    tasks = {task.what: task for task in found["validate"].tasks}
    assert (tasks["full-data references"].done, tasks["full-data references"].left) == (2, 3)
    assert tasks["by the recipe"].left == 0
    assert found["search"].is_finished
    assert tree(study) == before


@pytest.mark.exhaustive
def test_a_longer_search_has_the_rest_left(ran, tmp_path: Path) -> None:
    config, _, _ = ran
    shutil.copytree(config.layout.folder, tmp_path / "tiny")
    resolved = dict(config.resolved)
    search = {**resolved["search"], "n_trials": 5}
    found = plans_of(config_in(tmp_path, resolved, search=search))
    candidates = next(t for t in found["search"].tasks if t.what == "candidates")
    assert (candidates.done, candidates.left) == (3, 2)
    assert found["validate"].is_finished


# What tasks cost

UNIT, DEAR, OTHER = (EvaluationUnit(num_images=n) for n in (1, 2, 3))
PRICES = {
    UNIT: Timed((1.0, 2.0, 3.0, 2.0), clock_share=1.5, peak_mib=10),
    DEAR: Timed((10.0, 10.0, 10.0, 10.0)),
    OTHER: "it fails",
}


def estimate(*tasks: Task, savings: tuple[Saving, ...] = (), num_workers: int = 2):
    plan = StagePlan(stage="search", tasks=tasks, savings=savings)
    return estimate_stages([plan], PRICES.__getitem__, num_workers)[0]


def test_pieces_cost_what_timed_candidates_cost_on_average() -> None:
    stage = estimate(Task(what="candidates", units=(UNIT,), total=10, done=4))
    assert stage.core_seconds.expected == pytest.approx(6 * 2.0)
    assert stage.core_seconds.low < 12 < stage.core_seconds.high
    assert stage.wall_seconds.expected == pytest.approx(6 * 2.0 * 1.5 / 2)
    alone = estimate(Task(what="teacher", units=(UNIT,), total=10, in_driver=True))
    assert alone.wall_seconds.expected == pytest.approx(10 * 2.0 * 1.5)
    assert stage.tasks[0].peak_mib == 10


def test_the_range_holds_for_candidates_that_were_not_timed() -> None:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        timed, others = rng.lognormal(0, 0.4, 12), rng.lognormal(0, 0.4, 20)
        found = Timed(tuple(timed)).of(20)
        inside += found.low <= others.sum() <= found.high
    assert 0.9 <= inside / 400 <= 0.99


def test_the_dearest_of_several_counts_and_the_cheapest_is_the_low_end() -> None:
    task = Task(what="candidates", units=(UNIT, DEAR, OTHER), total=10, least=2)
    found = estimate(task).core_seconds
    assert found.expected == pytest.approx(100)
    assert found.low <= 2 * 2.0


def test_a_stage_costs_as_often_as_it_is_reached() -> None:
    staged = StagedUnit((UNIT, DEAR, OTHER), (1.0, 0.25, 0.0))
    found = estimate(Task(what="candidates", units=(staged,), total=8))
    assert found.is_known
    assert found.core_seconds.expected == pytest.approx(8 * (2.0 + 0.25 * 10.0))
    assert found.tasks[0].peak_mib == 10
    unknown = estimate(Task(what="c", units=(StagedUnit((UNIT, OTHER), (1.0, 0.5)),), total=8))
    assert unknown.tasks[0].unknown == "it fails"


def test_what_may_end_early_costs_what_is_expected_within_its_range() -> None:
    task = Task(what="references", units=(DEAR,), total=10, least=2, likely=4)
    found = estimate(task).core_seconds
    assert found.expected == pytest.approx(40)
    assert found.low <= 20 < 100 <= found.high
    assert estimate(replace(task, done=3)).core_seconds.expected == pytest.approx(10)
    # More are needed than were expected: nothing is known but the most.
    assert estimate(replace(task, done=4)).core_seconds.expected == pytest.approx(60)


CASCADE = {
    "name": "two_steps",
    "stages": [
        {"train_on": "nothing", "score": {"signals": ["flops"]}},
        {"train_on": "full_data", "train": SHORT, "score": {"signals": ["val_loss"]}},
    ],
}


def candidates_of(folder: Path, *, share: object = "auto") -> tuple[Task, Task]:
    """Those to rank among, and those of the search."""
    first, last = CASCADE["stages"]
    recipe = {**CASCADE, "stages": [first, {**last, "share": share}]}
    config = {key: value for key, value in CONFIGURED.items() if key != "score"}
    tasks = {t.what: t for t in plans_of(config_in(folder, config, recipe=recipe))["search"].tasks}
    return tasks["evaluations to rank among"], tasks["candidates"]


def test_a_cascade_of_unknown_cuts_is_between_its_first_stage_and_all(tmp_path: Path) -> None:
    sample, found = candidates_of(tmp_path)
    least, most = found.units
    assert (least.shares, most.shares) == ((1.0, 0.0), (1.0, 1.0))
    assert least.parts[0].scores == ("flops",)
    assert most.parts[1].train is not None
    assert sample.units == (most,)
    assert sample.total > 0


def test_a_share_that_is_given_is_what_goes_on(tmp_path: Path) -> None:
    sample, found = candidates_of(tmp_path, share=0.25)
    assert [unit.shares for unit in found.units] == [(1.0, 0.25)]
    assert [unit.shares for unit in sample.units] == [(1.0, 1.0)]


def test_a_validation_that_stops_is_expected_to_use_fewer(tmp_path: Path) -> None:
    validate = {**CONFIGURED["validate"], "num_architectures": {"max": 40}, "stop": "settled"}
    found = plans_of(config_in(tmp_path, CONFIGURED, validate=validate))["validate"]
    (references,) = (task for task in found.tasks if task.what == "full-data references")
    assert (references.total, references.least) == (40, 12)
    assert 12 < references.likely < 40
    assert any("at most 40 references" in words for words in found.buys)


def test_what_cannot_be_timed_is_said_and_not_counted() -> None:
    stage = estimate(
        Task(what="failing", units=(OTHER,), total=3), Task(what="fine", units=(DEAR,), total=1)
    )
    assert not stage.is_known
    assert stage.tasks[0].unknown == "it fails"
    assert stage.core_seconds.expected == pytest.approx(10)


def test_a_saving_is_said_if_the_figures_bear_it_out() -> None:
    dear = Task(what="references", units=(DEAR,), total=10)
    half = Saving("n=5", 0.5, "fewer")
    tiny = Saving("n=9", 0.99, "hardly fewer")
    other = Saving("steps=1", 1.0, "shorter", ("references",), UNIT)
    found = estimate(dear, savings=(half, tiny, other)).cheaper
    assert len(found) == 2
    assert found[0].startswith("steps=1 saves 1 min 20 s")
    assert found[1].startswith("n=5 saves 50 s")
    # What is paid already cannot be saved.
    done = Task(what="references", units=(DEAR,), total=10, done=5)
    assert not estimate(done, savings=(Saving("n=4", 0.5, "fewer"),)).cheaper[1:]


def test_ranges_add_up() -> None:
    assert Seconds(1, 0.5, 2) + Seconds(2, 1, 4) == Seconds(3, 1.5, 6)
    assert str(Seconds(100, 99, 101)) == "1 min 40 s"
    assert str(Seconds(10, 5, 20)) == "10 s (5.0 s to 20 s)"


def test_an_evaluation_costs_the_sum_of_its_parts(tmp_path: Path) -> None:
    train = {
        **SHORT,
        "num_steps": 8,
        "num_seeds": 2,
        "checkpoints": [25, 50],
        "norm_statistics": "recalibrated",
    }
    validate = {**CONFIGURED["validate"], "reference": {"train": train}}
    config = config_in(tmp_path, CONFIGURED, validate=validate)
    study = look_at(config, Quiet())
    tasks = {t.what: t for t in Validate().plan(study).tasks}
    (unit,) = tasks["full-data references"].units
    cost = TrainingCost(
        setup=1.0, step=0.1, image=0.001, norms=0.5, num_steps=None, clock_share=1.0, peak_mib=0
    )
    measured = 0.001 * len(load_splits(config.data).test) + 0.5
    expected = 2 * (1.0 + 8 * 0.1 + 3 * measured)
    assert evaluation_seconds(unit, unit.train, cost) == pytest.approx(expected)
    growing = replace(unit.train, image_size=8, first_image_size=4)
    smaller = evaluation_seconds(unit, growing, cost)
    assert expected - 2 * 8 * 0.1 < smaller < expected


# The whole command, on real timings


@pytest.fixture(scope="module")
def estimated(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("estimated")
    config = config_in(folder, CONFIGURED)
    return folder, plan_study(config, Quiet(), timing_seconds=4)


def test_a_plan_prices_every_stage_and_leaves_nothing_behind(estimated) -> None:
    folder, found = estimated
    assert not list(folder.iterdir())
    assert [stage.stage for stage in found.stages] == ["distill", "search", "validate"]
    if not all(stage.is_known for stage in found.stages):
        pytest.skip("this machine is too busy to time every kind of work in seconds")
    for stage in found.stages:
        parts = [task.core_seconds for task in stage.tasks]
        assert stage.core_seconds.expected == pytest.approx(sum(p.expected for p in parts))
        assert all(p.low <= p.expected <= p.high for p in parts)
    assert found.core_seconds.expected == pytest.approx(
        sum(stage.core_seconds.expected for stage in found.stages)
    )
    validation = next(stage for stage in found.stages if stage.stage == "validate")
    assert found.core_seconds_without_proof.expected == pytest.approx(
        found.core_seconds.expected - validation.core_seconds.expected
    )
    assert found.all_fully_trained is not None
    assert "n = 5" in validation.buys[0]


def test_a_plan_is_the_same_as_json(estimated) -> None:
    _, found = estimated
    assert StudyEstimate.from_json(json.loads(json.dumps(found.to_json()))) == found
