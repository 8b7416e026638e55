"""Recipes whose trainings fail: said at once with the reason, and in the calibration's verdict."""

import pytest

from nas_proxy.errors import StudyError
from nas_proxy.evaluate.network import NetworkEvaluator
from tests.study.helpers_calibrate import BOTH, STREAM, ZERO_COST, result_of, run, table

pytestmark = pytest.mark.usefixtures("no_test_split")


@pytest.fixture
def every_training_fails(monkeypatch):
    def fail(self, evaluation):
        raise TypeError("__init__() got an unexpected keyword argument 'num_cell'")

    monkeypatch.setattr(NetworkEvaluator, "_trained", fail)


REASON = "most often for: TypeError: __init__() got an unexpected keyword argument 'num_cell'"


@pytest.mark.usefixtures("every_training_fails")
def test_it_is_said_at_once_and_in_the_verdict(tmp_path):
    calibrate = {"reference": table(tmp_path), "recipes": [ZERO_COST, STREAM, BOTH]}
    said = run(tmp_path, calibrate=calibrate)
    first = [sentence for sentence in said if sentence.startswith("calibrating: full_data_")]
    assert len(first) == 1
    assert first[0].endswith(f": 5 of 5 evaluations failed, {REASON}")  # not after all twelve
    verdict = result_of(tmp_path)["verdict"]
    assert verdict == said[-1].removeprefix("calibrate: ")
    assert "of the recipe zero_cost can be trusted" in verdict
    assert verdict.endswith(f" Of stream, stream_and_flops 12 of 12 evaluations failed, {REASON}.")
    reasons = {s["recipe"]: s["reason"] for s in result_of(tmp_path)["standings"]}
    assert reasons["stream"] == f"12 of 12 evaluations failed, {REASON}"


@pytest.mark.usefixtures("every_training_fails")
def test_nothing_is_said_again_of_what_failed_before(tmp_path, monkeypatch):
    calibrate = {"reference": table(tmp_path), "recipes": [ZERO_COST, STREAM]}
    run(tmp_path, calibrate=calibrate)
    again = run(tmp_path, calibrate={**calibrate, "threshold": -0.8})
    assert not any(sentence.startswith("calibrating") for sentence in again)
    assert REASON in again[-1]


def test_some_failures_are_no_alarm(tmp_path, monkeypatch):
    trained, seen = NetworkEvaluator._trained, []

    def fail(self, evaluation):
        seen.append(evaluation)
        if len(seen) % 3 == 0:
            raise ValueError("now and then")
        return trained(self, evaluation)

    monkeypatch.setattr(NetworkEvaluator, "_trained", fail)
    said = run(tmp_path, calibrate={"reference": table(tmp_path), "recipes": [ZERO_COST, STREAM]})
    assert len(seen) == 12
    assert "failed" not in " ".join(said)


@pytest.mark.usefixtures("every_training_fails")
def test_where_every_recipe_fails_the_reason_ends_the_stage(tmp_path):
    with pytest.raises(StudyError, match=f"no recipe could be judged: 12 of 12 .*{REASON[:30]}"):
        run(tmp_path, calibrate={"reference": table(tmp_path), "recipes": [STREAM]})
