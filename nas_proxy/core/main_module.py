"""The module that Python was started with, which every worker process runs again."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from nas_proxy.errors import StudyError

_WAYS_OUT = "or let one process do all of it (search.executor: serial, distill.num_workers: 1)"


def check_main_module() -> None:
    """Refuse a script that would start its work again in each worker process.

    A worker runs the file that Python was started with, under another `__name__`, so that it finds
    what is defined there. Modules that are started with `-m` as packages, notebooks and `-c` are
    not run again. A script that has the guard and works outside of it as well is not recognised.

    Raises:
        StudyError: If the file has no guard, or came through a pipe and cannot be read again.
    """
    path = _run_again()
    if path is None:
        return
    if not path.is_file():
        raise StudyError(
            "this script came through standard input, where worker processes cannot read it again: "
            "save it as a file and start what it does below `if __name__ == '__main__':`, "
            f"{_WAYS_OUT}"
        )
    if not _has_guard(path):
        raise StudyError(
            f"{path.name} starts worker processes, and each of them would run it from the "
            f"beginning: put what it does below `if __name__ == '__main__':`, {_WAYS_OUT}"
        )


def _run_again() -> Path | None:
    """The file that multiprocessing lets workers run; None if there is none."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", None)
    file = getattr(main, "__file__", None)
    if file is None or name == "__main__" or (name or "").endswith(".__main__"):
        return None
    path = Path(file)
    return None if path.stem == "ipython" else path


def _has_guard(path: Path) -> bool:
    """Whether anything in the file depends on `__name__`; what is no Python text has no need to."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return True
    compared = (node for node in ast.walk(tree) if isinstance(node, ast.Compare))
    return any(
        isinstance(side, ast.Name) and side.id == "__name__"
        for node in compared
        for side in (node.left, *node.comparators)
    )
