"""Nodes that are killed by -9 at random moments.

Twenty times, with the figures printed: `NAS_PROXY_FAULTS=20 pytest -m exhaustive -s
tests/cluster/test_faults.py`.
"""

import os
import random
import signal
import threading
import time

import pytest

from nas_proxy.cluster.settings import RaySettings
from nas_proxy.evaluate.executors import Workplace, evaluate_all, open_executor
from nas_proxy.evaluate.log import EvaluationLog
from tests.cluster.helpers_ray import (
    NUM_FAULTS,
    SECONDS,
    node_options,
    num_different,
    processes_of,
    say,
    until,
)
from tests.evaluate.helpers import ScriptedFactory
from tests.evaluate.test_executors import scripts

pytestmark = pytest.mark.exhaustive


def kill_node(cluster, node):
    for process in processes_of(node):
        os.kill(process, signal.SIGKILL)
    cluster.worker_nodes.discard(node)


def test_a_node_is_killed_at_a_random_moment_and_nothing_is_lost_or_doubled(ray_cluster, tmp_path):
    chance = random.Random(0)  # noqa: S311 - moments of a test
    said = []
    where = Workplace(RaySettings(address=ray_cluster.address), say=said.append)
    with open_executor("ray", 2, where) as executor:
        executor.start()
        until(lambda: executor.words == "2 nodes, 2 slots")
        for number in range(NUM_FAULTS):
            wanted = scripts(*(["sleep", SECONDS + (number * 100 + n) / 1e6] for n in range(8)))
            file = tmp_path / f"{number}.jsonl"
            moment = chance.uniform(0.0, 4.0)
            node = chance.choice(sorted(ray_cluster.worker_nodes, key=lambda node: node.node_id))
            striker = threading.Timer(moment, kill_node, (ray_cluster, node))
            begun = time.monotonic()
            striker.start()
            found = evaluate_all(executor, ScriptedFactory(), wanted, 0, EvaluationLog(file))
            wall = time.monotonic() - begun
            striker.join()
            assert [each.complete for each in found] == [True] * 8
            assert num_different(file) == 8
            say(f"node {number + 1}: killed after {moment:.2f} s, all 8 there after {wall:.1f} s")
            ray_cluster.add_node(**node_options(num_cpus=1))
            until(lambda: executor.words == "2 nodes, 2 slots")
