"""An executor of somebody else's: once registered under a name, it runs a whole search."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import yaml

from nas_proxy.errors import ConfigError, PluginError
from nas_proxy.evaluate import executors
from nas_proxy.evaluate.executors import (
    ExecutorKind,
    executor_kind,
    lost_evaluation,
    open_executor,
    register_executor,
)
from tests.helpers.cli import command_line

TINY = {
    "study_name": "tiny",
    "distill": {"name": "random_subset", "images_per_class": 2},
    "space": {"name": "convnet", "widths": [8, 16, 32], "depths": [1, 2]},
    "train": {"num_steps": 2, "learning_rate": 0.02},
    "score": {"signals": ["val_loss"]},
    "search": {"n_trials": 4, "executor": "elsewhere", "num_workers": 2},
    "tracking": {"enabled": False},
}


class Elsewhere:
    """Answers later, from a thread that takes one after the other; the second one is lost."""

    opened = []

    def __init__(self, thread, num_workers):
        self.num_workers = num_workers
        self.submitted = []
        self._thread = thread

    def submit(self, factory, architecture, seed):
        self.submitted.append(architecture)
        if len(self.submitted) == 2:
            lost = lost_evaluation(factory, architecture, seed, "the node was taken away")
            return self._thread.submit(lambda: lost)
        return self._thread.submit(lambda: factory.build().evaluate(architecture, seed))


@contextmanager
def open_elsewhere(num_workers, workplace):
    with ThreadPoolExecutor(1) as thread:
        executor = Elsewhere(thread, num_workers)
        Elsewhere.opened.append(executor)
        yield executor
    Elsewhere.opened.remove(executor)


@pytest.fixture
def elsewhere(monkeypatch):
    monkeypatch.setattr(executors, "_KINDS", dict(executors._KINDS))
    register_executor("elsewhere", ExecutorKind(open_elsewhere, beside_driver=False))


def test_a_third_executor_runs_a_search(elsewhere, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    outcome = command_line(capsys)("search", "tiny.yaml")
    assert outcome.status == 0, outcome.errors
    assert not Elsewhere.opened
    (log,) = (tmp_path / "results" / "tiny" / "search").glob("*.jsonl")
    evaluations = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(evaluations) == 4
    assert sum(e["status"] == "complete" for e in evaluations) == 3
    assert "the node was taken away" in {e["reason"] for e in evaluations}


def test_a_study_without_it_is_told_the_names():
    with pytest.raises(ConfigError, match="unknown executor .*; known: processes, ray, serial"):
        open_executor("elsewhere", 2)


def test_two_executors_cannot_have_one_name(elsewhere):
    register_executor("elsewhere", executor_kind("elsewhere"))
    with pytest.raises(PluginError, match="two executors are called 'elsewhere'; rename one"):
        register_executor("elsewhere", ExecutorKind(open_elsewhere, beside_driver=True))
