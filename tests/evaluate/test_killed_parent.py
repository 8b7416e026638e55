"""Workers whose parent is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.evaluate.helpers import ScriptedFactory
from nas_proxy.evaluate.executors import open_executor
from nas_proxy.types import Architecture

with open_executor("processes", 1) as executor:
    executor.submit(ScriptedFactory(), Architecture("scripted", ["sleep", 600]), 0).result()
"""


@pytest.mark.exhaustive
def test_workers_and_their_server_end_soon_after_their_parent_is_killed():
    command = [sys.executable, "-c", PARENT, str(Path(__file__).parents[2])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        assert worker != parent.pid
        parent.kill()
        parent.wait()
        try:
            # The worker and the server that it was forked from hold the same pipe open.
            rest, _ = parent.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.kill(worker, signal.SIGKILL)
            raise
    assert rest == ""
