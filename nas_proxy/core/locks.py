"""Locks between processes: the system opens them again when their holder ends, be it by a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from nas_proxy.errors import StudyError


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Keep other processes out of a study's folder during the block; a kill lets them in again.

    Raises:
        StudyError: If another process is at work there, or the folder cannot be written.
    """
    lock = _lock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise StudyError(
            f"another process is running the study in {folder}; wait for it, or choose another "
            "study_name"
        ) from error
    except OSError as error:
        raise StudyError(
            f"the folder {folder} cannot be written or locked ({error.strerror}); set results to "
            "another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def exclusive(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock `path` during the block, and wait for it while another process holds it.

    Args:
        path: A file for this purpose alone, in a folder that is there. On POSIX it stays.
        on_wait: Called once if another process holds the lock, before the wait.

    Raises:
        OSError: If the file cannot be written, or its file system has no locks.
    """
    lock = _lock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock(path: Path) -> BaseFileLock:
    # Never the mere existence of a file, where a file system has no locks: that outlives a kill.
    # Of no thread: a generator that holds it may be closed by another than the one that began it.
    return FileLock(path, thread_local=False, fallback_to_soft=False)
