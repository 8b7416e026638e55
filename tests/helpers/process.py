"""The command line in processes of their own, which start at once.

They are forked from one process that has imported everything and done nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
# What training imports late is named too.
CONTEXT.set_forkserver_preload(["nas_proxy.study.pipeline", "torch._dynamo"])


def start_command(*words: str, output: Path) -> ForkServerProcess:
    """Start `nas-proxy` with these words; it prints to `output`, and leads a process group."""
    process = CONTEXT.Process(target=_command, args=(words, str(output)))
    process.start()
    return process


def kill_when(reached: Callable[[], bool], process: ForkServerProcess, output: Path) -> None:
    """Kill it and its workers with SIGKILL, as soon as that is reached."""
    deadline = time.monotonic() + 240
    while not reached():
        assert process.exitcode is None, f"it ended before: {output.read_text()}"
        assert time.monotonic() < deadline, "it did not get there"
        time.sleep(0.002)
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _command(words: tuple[str, ...], output: str) -> None:
    from nas_proxy.cli.main import main

    os.setsid()
    with open(output, "ab", buffering=0) as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    main(words)
