"""Two machines, as far as a kernel can pretend: namespaces of network and mounts, and a link.

They need root and `ip`; addresses are the namespaces' own.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HEAD, WORKER = "10.77.0.1", "10.77.0.2"
PORT = "6377"
_OWN_ADDRESSES = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}  # not the loopback device's alone
# As docs/cluster.md says for those who want to know sooner.
SOONER = {
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
LIMIT = 15.0  # seconds until a link that was cut is noticed, with these settings


def can_make_namespaces():
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "nas_proxy_try"], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", "nas_proxy_try"], capture_output=True, check=False)
    return made.returncode == 0


pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(not can_make_namespaces(), reason="makes no network namespaces here"),
]


def ip(*words):
    subprocess.run(["ip", *words], check=True)


@contextmanager
def two_machines():
    """The names of two network namespaces with a link between them."""
    first, second = (f"np{os.getpid()}{letter}" for letter in "ab")
    with ExitStack() as stack:
        for name in (first, second):
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
        ip("link", "add", "link0", "netns", first, "type", "veth", "peer", "link1", "netns", second)
        for name, link, address in ((first, "link0", HEAD), (second, "link1", WORKER)):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield first, second


class Process:
    """A process of Python in a namespace, whose lines are waited for."""

    def __init__(self, namespace, words, *, environment=(), hide=()):
        inside = [sys.executable, "-m", *words]
        if hide:
            covers = " && ".join(f"mount -t tmpfs none {folder}" for folder in hide)
            inside = ["unshare", "-m", "sh", "-c", f'{covers} && exec "$@"', "sh", *inside]
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *inside],
            cwd=ROOT,
            env={**os.environ, **_OWN_ADDRESSES, **dict(environment), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )

    def until(self, word):
        """The lines up to the one that holds a word."""
        lines = []
        while word not in (lines or [""])[-1]:
            line = self.process.stdout.readline()
            assert line, f"it ended before it said {word!r}: {lines}"
            lines.append(line)
        return lines

    def end(self):
        self.process.terminate()
        self.process.wait(30)


@contextmanager
def two_nodes(first, second, environment=(), hide=(), cores=1):
    """A head with some cores in one namespace, and a node in the other that is started anew."""
    with ExitStack() as stack:
        for namespace, words in (
            (first, [HEAD, PORT, "head", f"cores={cores}"]),
            (second, [WORKER, f"{HEAD}:{PORT}", "restart"]),
        ):
            hidden = hide if namespace == second else ()
            words = ["tests.cluster.node_process", *words]
            node = Process(namespace, words, environment=environment, hide=hidden)
            stack.callback(node.end)
            node.until("up")
        yield node


STUDY = {
    "study_name": "s",
    "distill": {"name": "random_subset", "images_per_class": 2},
    "train": {"num_steps": 2, "learning_rate": 0.02},
    "score": {"signals": ["val_loss"]},
    "search": {"n_trials": 2, "executor": "ray", "num_workers": 1},
    "retrain": {"train": {"num_steps": 2}, "formats": [], "comparisons": []},
    "tracking": {"enabled": False},
}


def test_a_node_needs_neither_the_plugin_nor_the_study(tmp_path):
    """Where it works, the folder with both is another, empty one."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(ROOT / "search_spaces" / "convnet.py", home / "mine.py")
    text = (home / "mine.py").read_text().replace('register("convnet")', 'register("mine")')
    (home / "mine.py").write_text(text)
    space = {"name": f"{home}/mine.py:ConvNetSpace", "widths": [8, 16], "depths": [1, 2]}
    (home / "c.yaml").write_text(yaml.safe_dump({**STUDY, "space": space}))
    caches = {"NAS_PROXY_CACHE": str(home / "cache")}  # of each its own: the node's is hidden too
    with (
        two_machines() as (first, second),
        two_nodes(first, second, environment=caches, hide=[home], cores=0),
    ):
        words = ["run", str(home / "c.yaml"), f"results={home}/results"]
        words.append(f"search.ray.address={HEAD}:{PORT}")
        study = Process(first, ["nas_proxy.cli", *words], environment=caches)
        assert study.process.wait(600) == 0
    folder = home / "results" / "s"
    for log in (folder / "search" / "evaluations.jsonl", *folder.glob("retrain/*training*.jsonl")):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert {line["status"] for line in lines} == {"complete"}, log
        assert all(WORKER in line["node"] for line in lines), log
    report = json.loads((folder / "report.json").read_text())
    assert WORKER in report["environment"]["nodes"][0]["name"]
    assert list(folder.glob("retrain/**/*.safetensors"))


def test_a_link_that_is_cut_costs_time_alone(tmp_path):
    log, healed = tmp_path / "log.jsonl", tmp_path / "healed"
    with (
        two_machines() as (first, second),
        two_nodes(first, second, environment=SOONER) as worker,
    ):
        words = [f"{HEAD}:{PORT}", str(log), "10", "2.0", "2", str(healed)]
        study = Process(first, ["tests.cluster.study_process", *words], environment=SOONER)
        study.until("ready")
        study.until('"done": 2')
        ip("-n", first, "link", "set", "link0", "down")
        cut = time.time()
        (noticed,) = [json.loads(line) for line in study.until("was lost")[-1:]]
        took = noticed["at"] - cut
        sys.stdout.write(f"noticed after {took:.1f} s (at most {LIMIT:.0f})\n")
        assert WORKER in noticed["words"]
        study.until("finished")
        ip("-n", first, "link", "set", "link0", "up")
        worker.until("down")
        worker.until("up")
        healed.touch()
        again = json.loads(study.until("finished again")[-1])
        assert {WORKER in node for node in again["nodes"]} == {True, False}
        assert study.process.wait(60) == 0
        study.end()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    keys = [(line["architecture"]["genotype"][1], line["seed"]) for line in lines]
    assert len(keys) == len(set(keys)) == 20
    assert {line["status"] for line in lines} == {"complete"}
    assert took <= LIMIT
