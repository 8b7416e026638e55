"""What all worker processes have in common: how they are spawned and start, and what they are sent.

The pools are elsewhere: of `map_in_processes`, and of the executor `processes`.
"""

from __future__ import annotations

import pickle
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

import torch

from nas_proxy.registry import import_file


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Processes that are spawned inside never see Ctrl-C: their parent does, and stops them."""
    resource_tracker.ensure_running()  # when it starts, it unblocks what is blocked here
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def prepare_worker(files: tuple[str, ...]) -> None:
    """Call this in a new worker: one torch thread, and the plug-ins of its parent.

    Args:
        files: The parent's `plugin_files()`. They are imported before anything is unpacked: what
            is packed of a plug-in is found by its module's name.

    Raises:
        PluginError: If one of them was deleted or can no longer be imported.
    """
    torch.set_num_threads(1)
    for file in files:
        import_file(file)


def pack(value: Any) -> bytes:
    """`value` as bytes, which the process at the other end of a pool unpacks.

    A pool pickles by itself what it is handed, but worse in three ways: it puts tensors into shared
    memory, which may be small; what cannot be pickled is found only later, in a thread of the pool;
    and a worker dies of what it cannot read, where `unpack` raises.

    Raises:
        Exception: Whatever pickle raises for what it cannot pickle, such as a local class.
    """
    return pickle.dumps(value)


def unpack(packed: bytes) -> Any:
    """What `pack` was given.

    Unpickling runs whatever its input names. It is safe here because the bytes come through a
    pipe that this program opened between its own processes; never give it what was read from a
    file or a network.

    Raises:
        Exception: Whatever unpickling raises, such as for a module that is missing here.
    """
    return pickle.loads(packed)  # noqa: S301 - from our own process, see above
