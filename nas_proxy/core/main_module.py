"""The module that Python was started with, which no worker process of ours runs again.

multiprocessing runs a script anew in each worker, so that it finds there what is defined in it; a
script without `if __name__ == "__main__":` starts its work once more with each of them, and a
notebook has no file that could be run. Ours are sent by value what is defined there
(`nas_proxy.core.packing`), so that nothing has to be run.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import context
from typing import Any

MAIN = "__main__"

_hiding = threading.Lock()


@contextmanager
def hidden_main_file() -> Iterator[None]:
    """For the length of the block nobody can tell which file Python was started with."""
    main: dict[str, Any] = vars(sys.modules[MAIN])
    with _hiding:
        names: tuple[str, ...] = ("__spec__", "__file__")
        before = {name: main[name] for name in names if name in main}
        main.pop("__file__", None)
        main["__spec__"] = None
        try:
            yield
        finally:
            del main["__spec__"]
            main.update(before)


class _SpawnProcess(context.SpawnProcess):
    def start(self) -> None:
        with hidden_main_file():
            super().start()


class SpawnContext(context.SpawnContext):
    """Starts processes from nothing, which do not run the script again."""

    Process = _SpawnProcess


if hasattr(context, "ForkServerContext"):  # not everywhere

    class _ForkServerProcess(context.ForkServerProcess):
        def start(self) -> None:
            with hidden_main_file():
                super().start()

    class ForkServerContext(context.ForkServerContext):
        """Forks processes from a server, which do not run the script again."""

        Process = _ForkServerProcess
