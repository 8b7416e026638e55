"""However a command ends, MLflow is told so: no run of a study stays RUNNING.

What the store makes of it is in `tests/tracking/test_tracking_continued.py`.
"""

import json
import os
import signal

import pytest

from nas_proxy.errors import StudyError
from nas_proxy.tracking import _uploader
from tests.cases.helpers import RETRAINED, python, write_config

REFERENCE = {"train": {"num_steps": 3, "learning_rate": 0.02}}
JUDGED = {"num_architectures": 5, "k": 2, "controls": ["num_params"], "reference": REFERENCE}
EVALUATED = {"short_steps": 2, "num_seeds": 2, "networks": ["mlp"]}
TRACKED = {"tracking": {"enabled": True}}


@pytest.fixture(autouse=True)
def no_store(monkeypatch):
    """What is logged waits in the study's outbox, as for a store that is away."""
    monkeypatch.setattr(_uploader.Uploader, "wake", lambda self: None)


def statuses(folder):
    """What each run of the study `s` was told last, by our names of them."""
    lines = (folder / "results/s/tracking/outbox.jsonl").read_text().splitlines()
    found = {}
    for event in map(json.loads, lines):
        told = [value for key, value in event["facts"] if key == ["status"]]
        found[event["run"]] = told[-1] if told else found.get(event["run"], "RUNNING")
    return found


@pytest.mark.parametrize(
    "commands",
    [
        ["search"],
        pytest.param(
            ["distill", "search", "validate", "retrain", "report", "run", "evaluate-proxy"],
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_every_command_that_ends_well_finishes_the_run(nas_proxy, tmp_path, commands):
    sections = {"validate": JUDGED, "retrain": RETRAINED, "evaluate_proxy": EVALUATED}
    write_config(tmp_path, space={"name": "convnet"}, **sections, **TRACKED)
    for command in commands:
        file = ["results/s/distill/proxy.safetensors"] if command == "evaluate-proxy" else []
        outcome = nas_proxy(command, *file, "c.yaml")
        assert outcome.status == 0, outcome.errors
        assert set(statuses(tmp_path).values()) == {"FINISHED"}, command


def raising(error):
    def run(*_, **__):
        raise error

    return run


def killed_by(number):
    return lambda *_, **__: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("end", "exit_status", "status"),
    [
        (raising(StudyError("no more")), 2, "FAILED"),
        (raising(ZeroDivisionError()), 1, "FAILED"),
        (raising(SystemExit(3)), 2, "KILLED"),
        (raising(KeyboardInterrupt()), 130, "KILLED"),
        (killed_by(signal.SIGTERM), 143, "KILLED"),
        (killed_by(signal.SIGHUP), 129, "KILLED"),
    ],
)
def test_every_other_end_is_told_too(nas_proxy, tmp_path, monkeypatch, end, exit_status, status):
    write_config(tmp_path, **TRACKED)
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.setattr("nas_proxy.study.pipeline.run_stage", end)
    outcome = nas_proxy("search", "c.yaml")
    assert (outcome.status, statuses(tmp_path)) == (exit_status, {"study": status})
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)] == before


def test_a_terminal_that_closes_is_ignored_where_nohup_says_so(nas_proxy, tmp_path, monkeypatch):
    write_config(tmp_path, **TRACKED)
    monkeypatch.setattr("nas_proxy.study.pipeline.run_stage", killed_by(signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert nas_proxy("search", "c.yaml").status == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert statuses(tmp_path) == {"study": "FINISHED"}


@pytest.mark.exhaustive
def test_the_case_as_it_is_written(case):
    folder = case("run_stays_running")
    for command in ("search", "search"):  # a store that is slow to begin has all by the second
        done = python("-m", "nas_proxy.cli", command, "c.yaml", cwd=folder)
        assert done.returncode == 0, done.stderr
    shown = python("status.py", cwd=folder).stdout
    assert "FINISHED" in shown
    assert "RUNNING" not in shown
