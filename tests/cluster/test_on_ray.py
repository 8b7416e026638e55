"""Evaluations on a real Ray cluster of this machine: two nodes with one core each."""

from dataclasses import replace

import pytest

from nas_proxy.evaluate.executors import evaluate_jobs, open_executor
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.types import Architecture, Status
from tests.evaluate.helpers import ScriptedFactory, UntrainedFactory
from tests.evaluate.test_executors import SPACE_FILE, network_factory, scripts, without_seconds

pytestmark = pytest.mark.exhaustive


def test_serial_processes_and_ray_give_the_same_forty_evaluations(workplace, tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "my_space.py"
    file.write_text(SPACE_FILE)
    space = SEARCH_SPACES.get(f"{file}:MySpace")(depth=2)
    factory = network_factory(space, tmp_path / "images")
    jobs = [(Architecture(space.name, w), seed) for w in (1, 2, 3, 4) for seed in range(10)]
    found = {}
    for name, workers in (("serial", 1), ("processes", 2), ("ray", 2)):
        log = EvaluationLog(tmp_path / f"{name}.jsonl")
        with open_executor(name, workers, workplace()[0]) as executor:
            evaluations = evaluate_jobs(executor, factory, jobs, log)
        nodes = {evaluation.node for evaluation in evaluations}
        assert len(nodes) <= 2
        assert ("" in nodes) == (name != "ray")
        found[name] = [without_seconds(replace(each, node="")) for each in evaluations]
    assert all(each["status"] == "complete" for each in found["serial"])
    assert found["serial"] == found["processes"] == found["ray"]


def test_what_kills_its_worker_or_hangs_has_failed_once_and_costs_nobody_else(workplace, tmp_path):
    where, _ = workplace(evaluation_timeout=20.0)
    file = tmp_path / "my_space.py"
    file.write_text(SPACE_FILE)
    networks = UntrainedFactory(SEARCH_SPACES.get(f"{file}:MySpace")())
    bad = [(networks, Architecture("my", word)) for word in ("kill", "exit")]
    good = [(ScriptedFactory(), each) for each in scripts(*(["sleep", n / 10] for n in range(5)))]
    hangs = (ScriptedFactory(), scripts(["sleep", 900])[0])
    wanted = [good[0], bad[0], good[1], hangs, good[2], bad[1], *good[3:]]
    with open_executor("ray", 2, where) as executor:
        futures = [executor.submit(factory, each, 0) for factory, each in wanted]
        found = [future.result(timeout=300) for future in futures]
    failed = {n: each.reason for n, each in enumerate(found) if each.status is Status.FAILED}
    assert failed.keys() == {1, 3, 5}
    assert "died: the process was killed" in failed[1]
    assert "within 20 s" in failed[3]
    assert "died: the process was killed" in failed[5]
