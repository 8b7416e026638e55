"""Work side by side: the same results in the same order, and no process that stays behind."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from nas_proxy.errors import DataError, PluginError, StudyError
from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.processes import MadeItems, WorkerLostError, WorkerPool, map_in_processes
from nas_proxy.registry import SEARCH_SPACES, Registry


@dataclass(frozen=True)
class Work:
    """Doubles tensors; does something else at the number that it is given."""

    offset: torch.Tensor
    fails_at: int = -1
    dies_at: int = -1
    sleeps_at: int = -1

    def __call__(self, number):
        if number == self.fails_at:
            raise DataError(f"{number} is damaged")
        if number == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.sleeps_at:
            time.sleep(600)
        return number, 2 * number + self.offset, torch.get_num_threads(), os.getpid()


OFFSET = torch.tensor([1.0, 2.0])


class Requests:
    """Makes items and remembers which were asked for."""

    def __init__(self):
        self.seen = []

    def __call__(self, number):
        self.seen.append(number)
        return number


def test_one_worker_is_this_process_and_makes_an_item_when_it_is_wanted():
    requests, told = Requests(), []
    results = map_in_processes(
        Work(OFFSET), MadeItems(requests, range(3, 6)), 1, lambda *args: told.append(args)
    )
    number, value, _, process = next(results)
    assert (number, value.tolist(), process) == (3, [7.0, 8.0], os.getpid())
    assert requests.seen == [3]
    assert told == [(1, 3)]
    assert [result[0] for result in results] == [4, 5]
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_nothing_to_do_starts_nothing():
    assert list(map_in_processes(Work(OFFSET), [], 4)) == []


@pytest.mark.exhaustive
def test_several_workers_give_the_same_in_the_same_order_and_end_with_an_error():
    requests, told = Requests(), []
    work = Work(OFFSET, fails_at=6, sleeps_at=7)
    results = map_in_processes(
        work, MadeItems(requests, range(8)), 2, lambda *args: told.append(args)
    )
    found = [next(results)]
    assert requests.seen == [0, 1, 2, 3]  # two for each worker: the others are not in memory yet
    found += [next(results) for _ in range(5)]
    assert [result[0] for result in found] == list(range(6))
    for number, value, num_threads, process in found:
        assert value.tolist() == [2 * number + 1, 2 * number + 2]
        assert num_threads == 1
        assert process != os.getpid()
    assert told == [(done, 8) for done in range(1, 7)]
    with pytest.raises(DataError, match="6 is damaged"):
        next(results)  # and does not wait for item 7, which sleeps for ten minutes
    for process in {result[3] for result in found}:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_a_worker_that_dies_gives_one_sentence():
    results = map_in_processes(Work(OFFSET, dies_at=0, sleeps_at=1), range(6), 2)
    with pytest.raises(StudyError, match="one of 2 worker processes died.*distill.num_workers"):
        next(results)


# --- the pool ---------------------------------------------------------------------------------


def obey(wish):
    """A worker's function that does what each item says."""
    verb, argument = wish
    if verb == "parent":
        return os.getppid()
    if verb == "environment":
        return os.environ.get(argument)
    if verb == "name":
        return argument.name
    if verb == "exit":
        os._exit(argument)
    if verb == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if verb == "sleep":
        Path(argument).write_text(str(os.getpid()))
        time.sleep(600)
    return argument


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(obey, 2) as workers:
        yield workers


def result(future):
    return future.result(timeout=120)


def test_a_death_costs_its_own_item_alone_and_is_told_with_the_exit_code(pool):
    wishes = [("pass", 0), ("exit", 7), ("pass", 1), ("kill", 0), ("pass", 2)]
    futures = [pool.submit(wish) for wish in wishes]
    assert [result(futures[number]) for number in (0, 2, 4)] == [0, 1, 2]
    with pytest.raises(WorkerLostError, match=r"died \(exit code 7\)$") as left:
        result(futures[1])
    with pytest.raises(WorkerLostError, match="exit code -9.*out of memory") as killed:
        result(futures[3])
    assert (left.value.exit_code, killed.value.exit_code) == (7, -9)
    assert result(pool.submit(("exit", 3), if_lost=lambda error: error.exit_code)) == 3


def test_workers_are_forked_from_one_server_that_runs_nothing_beside(pool):
    servers = {result(pool.submit(("parent", 0))) for _ in range(4)}
    with WorkerPool(obey, 1) as another:
        servers.add(result(another.submit(("parent", 0))))
    (server,) = servers
    assert server != os.getpid()
    assert len(list(Path(f"/proc/{server}/task").iterdir())) == 1  # a fork copies no other thread
    status = Path(f"/proc/{server}/status").read_text()
    blocked = int(re.search(r"SigBlk:\s*(\w+)", status)[1], 16)
    assert blocked >> (signal.SIGINT - 1) & 1


def test_workers_have_the_environment_of_when_their_pool_was_made(pool, monkeypatch):
    monkeypatch.setenv("NAS_PROXY_SAID_LATER", "yes")
    before = dict(os.environ)
    with WorkerPool(obey, 1) as later:
        for name in ("NAS_PROXY_SAID_LATER", "PYTHONPATH", "PYTHONSAFEPATH"):
            assert result(later.submit(("environment", name))) == os.environ.get(name)
    assert os.environ == before
    assert result(pool.submit(("environment", "NAS_PROXY_SAID_LATER"))) is None


# No guard, and all that a plug-in may be made of: a constant, a function, another module, a name.
SCRIPT = """
from dataclasses import dataclass, fields
import helpers
from nas_proxy import PluginError
from nas_proxy.core.plugin_source import source_hash
from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.options import PositiveInt, adapter
from nas_proxy.processes import WorkerPool, map_in_processes
from nas_proxy.registry import SCORES

FACTOR = 3

def tripled(number):
    return FACTOR * number

@SCORES.register("mine")
@dataclass(frozen=True, kw_only=True)
class Mine(ZeroCostScore):
    offset: PositiveInt = 1

    def measure(self, network, images):
        return helpers.halved(tripled(network)) + self.offset

class Refused(Exception):
    pass

def work(number):
    if number < 0:
        raise Refused(number)
    kind = SCORES.get("mine")
    score = adapter(kind).validate_python({"offset": 2})
    return score.measure(number, None), source_hash(kind), [f.name for f in fields(score)], score

print("begun")
with WorkerPool(work, 2) as pool:
    measured, source, names, score = pool.submit(4).result()
    print(measured, source == source_hash(Mine) is not None, names, type(score) is Mine)
    try:
        pool.submit(-1).result()
    except PluginError as error:
        print(error)
print([each[0] for each in map_in_processes(work, [0, 2], 2)])
"""
PRINTED = """begun
8.0 True ['offset'] True
what a script or notebook defines fails in a worker process: Refused: -1
[2.0, 5.0]
"""


def started(tmp_path, *arguments, script):
    root = str(Path(__file__).parents[1])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        input=script,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        timeout=120,
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("how", ["script", "pipe", "-c", "-m", "guard"])
def test_what_python_was_started_with_is_not_run_again_and_travels_to_workers(tmp_path, how):
    guarded = "if __name__ == '__main__':" + SCRIPT.replace("\n", "\n    ")
    (tmp_path / "helpers.py").write_text("def halved(number):\n    return number / 2\n")
    (tmp_path / "my_script.py").write_text(guarded if how == "guard" else SCRIPT)
    words = {"pipe": ("-",), "-c": ("-c", SCRIPT), "-m": ("-m", "my_script")}
    done = started(tmp_path, *words.get(how, ("my_script.py",)), script=SCRIPT)
    assert (done.returncode, done.stdout) == (0, PRINTED), done.stderr


def test_what_cannot_travel_is_one_sentence():
    with (
        WorkerPool(obey, 1) as workers,
        pytest.raises(StudyError, match="cannot be sent.*lock.*search.executor: serial"),
    ):
        workers.submit(("pass", threading.Lock()))


def test_a_registered_class_that_cannot_travel_is_told_when_it_is_asked_for(monkeypatch):
    registry = Registry("score", ZeroCostScore, "nobody.announces.this")
    lock = threading.Lock()

    @registry.register("held")
    class Held(ZeroCostScore):
        def measure(self, network, images):
            return lock.locked()

    ((name, packed),) = registry.to_send()
    received = Registry("score", ZeroCostScore, "nobody.announces.this")
    received.receive(name, packed)
    assert received.names() == ["held"]
    with pytest.raises(PluginError, match="score 'held'.*cannot be sent.*lock"):
        received.get("held")


def test_a_class_that_was_found_by_reference_has_its_name_in_workers(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from nas_proxy.search_spaces.convnet import ConvNetSpace\n"
        "class Own(ConvNetSpace):\n    pass\n"
        "Mine = Own\n"
    )
    space = SEARCH_SPACES.get(f"{file}:Mine")
    assert space.name == f"{file}:Mine"
    with WorkerPool(obey, 1) as workers:
        assert result(workers.submit(("name", space))) == space.name
    file.write_text(file.read_text() + "# edited in the same session\n")
    edited = SEARCH_SPACES.get(f"{file}:Mine")
    with WorkerPool(obey, 1) as workers:
        assert result(workers.submit(("name", edited))) == space.name


def test_cancelling_ends_the_work_at_once_and_the_pool_goes_on(pool, tmp_path):
    future = pool.submit(("sleep", str(tmp_path / "started")))
    deadline = time.monotonic() + 120
    while not (worker := wait_for_number(tmp_path / "started")):
        assert time.monotonic() < deadline
    assert future.cancel()
    while is_alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert result(pool.submit(("pass", 5))) == 5


def wait_for_number(file):
    time.sleep(0.01)
    return int(file.read_text() or 0) if file.exists() else 0


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


# --- where POSIX is not -----------------------------------------------------------------------

BARE = """
import os, signal, sys
sys.modules["fcntl"] = sys.modules["resource"] = None
for module, name in [(signal, "pthread_sigmask"), (signal, "SIGKILL"), (signal, "SIGHUP"),
                     (os, "killpg"), (os, "getppid"), (os, "sysconf")]:
    delattr(module, name)
"""
EVERYTHING = """
import importlib, pkgutil, sys

def import_everything():
    package = importlib.import_module("nas_proxy")
    for module in pkgutil.walk_packages(package.__path__, "nas_proxy."):
        importlib.import_module(module.name)
    return [name for name in sys.modules if name.split(".")[0] == "nas_proxy"]
"""


def run(code, *words):
    root = Path(__file__).parents[1]
    command = [sys.executable, "-W", "ignore", "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.exhaustive
def test_everything_imports_without_what_posix_alone_has():
    """Imported twice: torch reads the platform's name and would miss what it has there."""
    again = "for name in import_everything(): del sys.modules[name]\n"
    work = (
        "print(len(import_everything()))\n"
        "from nas_proxy.processes import interrupts_held\n"
        "with interrupts_held(): print('inside')\n"
    )
    num_modules, inside = run(EVERYTHING + again + BARE + work).split()
    assert int(num_modules) > 200
    assert inside == "inside"


def test_a_study_is_locked_by_a_file_where_there_is_nothing_better(tmp_path):
    code = (
        "from pathlib import Path\n"
        "from nas_proxy.core.locks import sole_user\n"
        "from nas_proxy.errors import StudyError\n"
        "with sole_user(Path(sys.argv[1])):\n"
        "    try:\n"
        "        sole_user(Path(sys.argv[1])).__enter__()\n"
        "    except StudyError as error:\n"
        "        print(error)\n"
        "with sole_user(Path(sys.argv[1])): pass\n"
    )
    assert "another process" in run(BARE + code, str(tmp_path))
