"""What a kill takes before it has a result is on the ledger, as is the building of evaluators."""

import json
import time
from contextlib import suppress

import pytest

from nas_proxy.errors import StudyError
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.report.values import Cost
from nas_proxy.study import in_flight as module
from nas_proxy.study.history import read_discarded
from nas_proxy.study.in_flight import in_flight, note_lost
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.ledger import _building
from nas_proxy.study.logs import StudyLogs
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status

FIDELITY = Fidelity("tiny", 1, 1, 8)


def evaluation(number, seconds, build_seconds=0.0):
    return Evaluation(
        Architecture("space", number),
        FIDELITY,
        0,
        Status.COMPLETE,
        signals={"val_loss": 1.0},
        seconds=seconds,
        build_seconds=build_seconds,
    )


@pytest.fixture
def clock(monkeypatch):
    """Seconds since some moment, which a test sets."""
    now = [100.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(("num_workers", "lost"), [(1, 7.5), (2, 27.5)])
def test_what_has_no_result_when_a_run_ends_is_lost(tmp_path, clock, num_workers, lost):
    layout, log = StudyLayout(tmp_path, "killed"), EvaluationLog(tmp_path / "log.jsonl")
    log.append(evaluation(0, 1000.0))  # of an earlier run
    block = in_flight(layout.in_flight, "validating: proxy", [log], num_workers)
    with suppress(KeyboardInterrupt), block:
        clock[0] += 20
        log.append(evaluation(1, 12.0, build_seconds=0.5))
        raise KeyboardInterrupt
    note_lost(layout)
    (noted,) = read_discarded(layout)
    assert noted.why == "lost by a kill"
    assert noted.costs == (Cost("validating: proxy", 1, lost),)
    assert not layout.in_flight.exists()
    note_lost(layout)
    assert len(read_discarded(layout)) == 1


def test_nothing_is_lost_where_all_has_arrived(tmp_path, clock):
    layout, log = StudyLayout(tmp_path, "killed"), EvaluationLog(tmp_path / "log.jsonl")
    with in_flight(layout.in_flight, "validating: proxy", [log], 1):
        clock[0] += 20
    with suppress(ValueError), in_flight(layout.in_flight, "validating: proxy", [log], 1):
        clock[0] += 0.5
        raise ValueError("at once")
    note_lost(layout)
    assert read_discarded(layout) == []


def test_a_process_that_is_killed_without_warning_has_written(tmp_path, clock, monkeypatch):
    layout, log = StudyLayout(tmp_path, "killed"), EvaluationLog(tmp_path / "log.jsonl")
    monkeypatch.setattr(module, "_WRITTEN_EVERY", 0.01)
    with in_flight(layout.in_flight, "searching", [log], 1):
        clock[0] += 8
        for _ in range(2000):  # twenty seconds, where a write takes milliseconds
            if layout.in_flight.exists():
                break
            time.sleep(0.01)
        assert json.loads(layout.in_flight.read_text()) == {"what": "searching", "seconds": 8.0}


def test_a_damaged_file_is_named(tmp_path):
    layout = StudyLayout(tmp_path, "killed")
    layout.folder.mkdir()
    layout.in_flight.write_text("{}")
    with pytest.raises(StudyError, match=r"in_flight.json, which holds .* is damaged"):
        note_lost(layout)


def test_building_is_an_entry_of_its_own(tmp_path):
    log = EvaluationLog(tmp_path / "log.jsonl")
    for each in (evaluation(0, 5.0, 2.0), evaluation(1, 5.0), evaluation(2, 5.0, 1.0)):
        log.append(each)
    found = _building("search", StudyLogs(), [tmp_path / "log.jsonl"])
    assert found == [Cost("search: building evaluators", 2, 3.0)]
    assert _building("search", StudyLogs(), [tmp_path / "none.jsonl"]) == []
