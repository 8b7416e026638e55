"""Locks keep other processes out, and let them in when the holder is gone, however it ended."""

import errno
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from nas_proxy.core.locks import exclusive, sole_user
from nas_proxy.errors import StudyError

HOLDER = """
import sys, time
from pathlib import Path
from nas_proxy.core import locks
with getattr(locks, sys.argv[1])(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def held_elsewhere(name, path):
    """Another process that holds the lock, until it is killed."""
    command = [sys.executable, "-c", HOLDER, name, str(path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_user_is_told_at_once_and_a_kill_lets_it_in(tmp_path):
    with held_elsewhere("sole_user", tmp_path / "study") as holder:
        with pytest.raises(StudyError, match="another process is running the study in .*study;"):
            sole_user(tmp_path / "study").__enter__()
        holder.kill()
        holder.wait()
        with sole_user(tmp_path / "study"):
            pass


def test_this_process_is_kept_out_too_until_the_block_ends(tmp_path):
    with sole_user(tmp_path):
        with pytest.raises(StudyError, match="another process"):
            sole_user(tmp_path).__enter__()
        with sole_user(tmp_path / "other"):
            pass
    with pytest.raises(ArithmeticError), sole_user(tmp_path):
        raise ArithmeticError
    with sole_user(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match="file/study cannot be written .*set results to another"):
        sole_user(tmp_path / "file" / "study").__enter__()


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    """A file that only marks the folder as taken would outlive a kill."""

    def flock(file, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(StudyError, match=r"locked \(Function not implemented\); set results"):
        sole_user(tmp_path).__enter__()


def test_one_waits_for_the_other_and_says_so(tmp_path):
    notes, order = [], []

    def wait():
        with exclusive(tmp_path / "lock", on_wait=lambda: notes.append("waits")):
            order.append("second")

    with held_elsewhere("exclusive", tmp_path / "lock") as holder:
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        assert notes == ["waits"]
        order.append("first")
        holder.kill()
        waiting.join(60)
    assert order == ["first", "second"]
    with exclusive(tmp_path / "lock", on_wait=lambda: notes.append("waits")):
        assert notes == ["waits"]
