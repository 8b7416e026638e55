"""Values as bytes, for another process of this program."""

from __future__ import annotations

import dataclasses
import io
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable
from functools import cache
from operator import attrgetter
from pathlib import Path
from types import FunctionType
from typing import Any

from nas_proxy.core.main_module import MAIN
from nas_proxy.errors import StudyError, UserError, first_line


def pack(
    value: Any,
    *,
    for_driver: bool = False,
    stand_in: Callable[[Path], object | None] | None = None,
) -> bytes:
    """`value` as bytes, which another process of this program unpacks.

    What the script, notebook or `-c` that Python was started with defines is packed with its code,
    and so is what was defined within a function; all else is found by its module and name.

    A pool pickles by itself what it is handed, but worse in three ways: it puts tensors into shared
    memory, which may be small; what cannot be pickled is found only later, in a thread of the pool;
    and a worker dies of what it cannot read, where `unpack` raises.

    Args:
        value: Anything that holds no lock, open file or generator.
        for_driver: Whether it goes to the process that has that script or notebook: what is defined
            there is found by its name. By value it would take the place of what is there.
        stand_in: What is packed in place of a path, for a process on another machine that is to
            find the file elsewhere; None for a path that stays as it is.

    Raises:
        StudyError: If it cannot be packed.
    """
    file = io.BytesIO()
    try:
        pickler = _picklers()[for_driver](file)
        if stand_in is not None:
            pickler.persistent_id = lambda each: stand_in(each) if isinstance(each, Path) else None
        pickler.dump(value)
    except UserError:  # a sentence already
        raise
    except Exception as error:
        raise StudyError(
            f"worker processes cannot be sent what they need ({first_line(error)}): keep locks, "
            "open files and generators out of what plug-ins hold and use, or let one process do "
            "all of it (search.executor: serial, distill.num_workers: 1)"
        ) from error
    return file.getvalue()


def unpack(packed: bytes, path_of: Callable[[Any], Path] | None = None) -> Any:
    """What `pack` was given.

    Unpickling runs whatever its input names. It is safe here because the bytes come through a
    pipe that this program opened between its own processes, or through a cluster whose every user
    may run what they like on its nodes anyhow; never give it what was read from a file.

    Args:
        packed: The bytes.
        path_of: The path here that a stand-in means, where `pack` was given one.

    Raises:
        Exception: Whatever unpickling raises, such as for a module that is missing here.
    """
    if path_of is None:
        return pickle.loads(packed)  # noqa: S301 - from our own process, see above
    unpickler = pickle.Unpickler(io.BytesIO(packed))  # noqa: S301 - see above
    unpickler.persistent_load = path_of  # type: ignore[method-assign]
    return unpickler.load()


@cache
def _picklers() -> tuple[Any, Any]:
    """That for workers, and that for the driver."""
    from cloudpickle import Pickler  # late: what runs in one process needs none of it

    class ForWorker(Pickler):  # type: ignore[misc]
        """By value, `dataclasses.MISSING` would become another one, which nobody recognises."""

        dispatch_table = ChainMap(
            {type(dataclasses.MISSING): lambda _: "MISSING"}, Pickler.dispatch_table
        )

    class ForDriver(ForWorker):
        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, type | FunctionType) and value.__module__ == MAIN:
                return _of_main, (value.__qualname__,)
            return super().reducer_override(value)

    return ForWorker, ForDriver


def _of_main(qualified_name: str) -> Any:
    return attrgetter(qualified_name)(sys.modules[MAIN])
