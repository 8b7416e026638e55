"""Studies that are continued, also after a crash: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from nas_proxy.tracking import TrackingSettings, open_tracker
from tests.tracking.helpers import Store, log_study, log_trial, outbox, run_script, state_file

pytestmark = pytest.mark.exhaustive

# Continuing


def test_a_continued_study_adds_nothing_twice(store: Store, study: str) -> None:
    for _ in range(2):
        with store.open(study) as tracker:
            log_study(tracker, store.results / study)
        found, lines = store.find(study), outbox(store, study).read_bytes()
    with store.open(study) as tracker:
        log_study(tracker, store.results / study)
    assert store.find(study) == found
    assert outbox(store, study).read_bytes() == lines


def test_a_continued_study_goes_on_in_its_run(store: Store, study: str) -> None:
    with store.open(study) as tracker:
        log_study(tracker, store.results / study)
        tracker.study.finish("KILLED")
    before = store.find_one(study)
    assert before[study].status == "KILLED"
    with store.open(study) as tracker:
        log_study(tracker, store.results / study)
        log_trial(tracker.trial(7, "trial 7"), 7)
        tracker.study.curve("best_so_far", [0.1, 0.2, 0.3, 0.4])
        (store.results / study / "report é #1.html").write_text("<h1>longer report</h1>")
        tracker.study.artifact(store.results / study / "report é #1.html", "reports")
        tracker.study.finish()
    after = store.find_one(study)
    assert set(after) - set(before) == {"trial 7"}
    assert after[study].run_id == before[study].run_id
    assert after[study].status == "FINISHED"
    assert after[study].history["best_so_far"] == [(0, 0.1), (1, 0.2), (2, 0.3), (3, 0.4)]
    assert {name: after[name] for name in before if name != study} == {
        name: before[name] for name in before if name != study
    }
    uploaded = store.results / "mlartifacts" / after[study].run_id / "artifacts" / "reports"
    assert (uploaded / "report é #1.html").read_text() == "<h1>longer report</h1>"


def test_a_continued_run_is_running_until_it_ends(store: Store, study: str) -> None:
    with store.open(study) as tracker:
        tracker.study.finish("KILLED")
    tracker = store.open(study)
    tracker.study.metrics({"trials": 1})
    tracker.close()
    assert store.find_one(study)[study].status == "RUNNING"
    with store.open(study):
        pass
    assert store.find_one(study)[study].status == "FINISHED"


def test_another_store_gets_everything(store: Store, study: str) -> None:
    with store.open(study) as tracker:
        log_study(tracker, store.results / study)
    elsewhere = TrackingSettings(experiment="elsewhere")
    with open_tracker(elsewhere, store.results, store.results / study, study):
        pass
    client = store.client()
    experiment = client.get_experiment_by_name("elsewhere").experiment_id
    assert len(client.search_runs([experiment])) == len(store.find_one(study)) == 5


def test_force_starts_new_runs(store: Store, study: str) -> None:
    for _ in range(2):
        with store.open(study) as tracker:
            log_study(tracker, store.results / study, num_trials=1)
        shutil.rmtree(store.results / study)
    first, second = store.find(study)
    assert sorted(first) == sorted(second) == sorted([study, "trial 0", "trial 1"])
    assert not {run.run_id for run in first.values()} & {run.run_id for run in second.values()}


# Crashes


def lose_state(path: Path) -> None:
    path.unlink()


def damage_state(path: Path) -> None:
    path.write_text('{"store": ')


def forget_half(path: Path) -> None:
    state = json.loads(path.read_text())
    state["uploaded"] //= 2
    state["runs"] = dict(list(state["runs"].items())[:2])
    path.write_text(json.dumps(state))


def count_too_far(path: Path) -> None:  # a power cut took the end of the outbox
    state = json.loads(path.read_text())
    state["uploaded"] += 100
    path.write_text(json.dumps(state))


def belong_to_another_store(path: Path) -> None:
    state = json.loads(path.read_text())
    state["runs"] = {name: "0" * 32 for name in state["runs"]}
    path.write_text(json.dumps(state))


FURTHER = [
    pytest.param(crash, marks=pytest.mark.exhaustive)
    for crash in (damage_state, forget_half, belong_to_another_store)
]


@pytest.mark.parametrize("crash", [lose_state, count_too_far, *FURTHER])
def test_uploading_twice_leaves_the_same_store(store: Store, study: str, crash: Any) -> None:
    with store.open(study) as tracker:
        log_study(tracker, store.results / study)
    found = store.find_one(study)
    crash(state_file(store, study))
    for number in (8, 9):
        with store.open(study) as tracker:
            log_trial(tracker.trial(number, f"trial {number}"), number)
    again = store.find_one(study)
    assert len(again.pop("trial 8").history["train_loss"]) == 50
    assert len(again.pop("trial 9").history["train_loss"]) == 50
    assert again.pop(study).history == found.pop(study).history
    assert again == found


def test_half_a_line_is_repaired(store: Store, study: str) -> None:
    with store.open(study) as tracker:
        log_study(tracker, store.results / study)
    with outbox(store, study).open("ab") as file:
        file.write(b'{"run":"trial-3","time":17')
    with store.open(study) as tracker:
        log_trial(tracker.trial(9, "trial 9"), 9)
    assert len(store.find_one(study)["trial 9"].history["train_loss"]) == 50
    for line in outbox(store, study).read_text().splitlines():
        json.loads(line)


def test_a_damaged_line_is_skipped(store: Store, study: str) -> None:
    with store.open(study) as tracker:
        tracker.study.metrics({"a": 1.0})
    with outbox(store, study).open("ab") as file:
        file.write(b"\0" * 100 + b"\n[1, 2]\n{}\n")
    with store.open(study) as tracker:
        tracker.study.metrics({"b": 2.0})
    assert set(store.find_one(study)[study].history) == {"a", "b"}


def test_one_process_at_a_time_opens_the_store(store: Store, study: str) -> None:
    with FileLock(store.results / ".mlflow.lock"):  # as another process, which migrates
        tracker = store.open(study)
        time.sleep(1)
        assert not state_file(store, study).exists()
    with tracker:
        log_trial(tracker.trial(0, "trial 0"), 0)
    assert len(store.find_one(study)) == 2


def test_a_killed_process_loses_nothing_it_logged(store: Store, study: str, tmp_path: Path) -> None:
    script = f"""
tracker = Store(Path({str(store.results)!r})).open({study!r})
for number in range(20):
    log_trial(tracker.trial(number, f"trial {{number}}"), number)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run_script(script, cwd=tmp_path).returncode == -signal.SIGKILL
    with store.open(study):
        pass
    found = store.find_one(study)
    assert len(found) == 21
    assert all(len(found[f"trial {n}"].history["train_loss"]) == 50 for n in range(20))
