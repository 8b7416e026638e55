"""A small Ray cluster on this machine, whose nodes can be killed."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

NUM_FAULTS = int(os.environ.get("NAS_PROXY_FAULTS", "2"))
SECONDS = 1.0  # of an evaluation in tests of faults
STORE_BYTES = 80 * 2**20
_STAND_IN = str(Path(__file__).with_name("stand_in_agent.py"))
_AGENTS = (os.path.join("dashboard", "agent.py"), os.path.join("agent", "main.py"))


def quiet_environment():
    """Nothing is reported to anybody, and a busy machine may take its time."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # The loopback address alone, unless another was asked for.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ["RAY_worker_register_timeout_seconds"] = "300"  # noqa: SIM112 - it is called so


@contextmanager
def light_nodes():
    """Nodes that are started inside have neither dashboard nor agents."""
    quiet_environment()
    from ray._private.node import Node

    as_line = subprocess.list2cmdline

    def with_stand_in(command):
        command = list(command)
        scripts = [n for n, word in enumerate(command) if str(word).endswith(_AGENTS)]
        if scripts:
            command = [sys.executable, "-S", _STAND_IN, *command[scripts[0] :]]
        return as_line(command)

    with (
        mock.patch.object(subprocess, "list2cmdline", with_stand_in),
        mock.patch.object(Node, "start_api_server", return_value=None),
    ):
        yield


def node_options(**options):
    return {
        "include_dashboard": False,
        "object_store_memory": STORE_BYTES,
        **options,
    }


@contextmanager
def running_cluster(num_nodes, **options):
    """A head without room for slots, and nodes with one core each; all end with the block."""
    with light_nodes():
        from ray.cluster_utils import Cluster

        head = node_options(num_cpus=0, no_monitor=True, include_log_monitor=False)
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(num_nodes):
                cluster.add_node(**node_options(num_cpus=1, **options))
            yield cluster
        finally:
            cluster.shutdown()


def processes_of(node):
    """Ids of a node's raylet and of everything that it started."""
    import psutil

    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [raylet.pid, *(child.pid for child in raylet.children(recursive=True))]


def say(words):
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def until(condition, seconds=900):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.05)


def num_different(log):
    """Evaluations of a log, in which none may be twice."""
    found = [
        json.loads(line)["architecture"]["genotype"][1] for line in log.read_text().splitlines()
    ]
    assert len(found) == len(set(found))
    return len(found)
