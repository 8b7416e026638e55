"""Calls into plug-ins that others wrote: what goes wrong in there is its author's to mend.

Each method that `nas_proxy` calls by one of the names below is wrapped once, where its class is
defined. An error in it becomes a `PluginError` of one sentence; those of what ships with nas_proxy
are defects of ours and stay what they are.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import wraps
from inspect import isfunction, unwrap
from pathlib import Path
from typing import Any, ClassVar

from nas_proxy.devices import is_out_of_memory
from nas_proxy.errors import NasProxyError, PluginError, UserError, first_line
from nas_proxy.types import Architecture

_GIVES_ARCHITECTURE = ("suggest", "sample", "mutate", "from_string")
_GUARDED = (
    *_GIVES_ARCHITECTURE,
    *("build", "encode", "features", "describe", "to_string", "canonical_form", "fingerprint"),
    *("training_phases", "weights_record", "without_weights", "notices", "check_images"),
    *("distill", "initialise", "own_images_per_class"),
    "__post_init__",
)
_MAY_REFUSE = ("__post_init__", "from_string")  # by a ValueError, which their callers put in words
_REDRAWN = ("sample", "mutate")
_MAX_DRAWS = 1000  # in a row that a space rules out


class GuardedCalls:
    """Base of plug-ins whose methods are guarded.

    Args:
        role: What messages call plug-ins of a class and of those that derive from it.
    """

    _role: ClassVar[str]

    def __init_subclass__(cls, *, role: str = "", **options: Any) -> None:
        """Wrap what the class itself defines; what it inherits is wrapped already."""
        super().__init_subclass__(**options)
        if role:
            cls._role = role
        for name in _GUARDED:
            if isfunction(vars(cls).get(name)):
                setattr(cls, name, _guarded(name, vars(cls)[name]))


def is_pruned(error: BaseException) -> bool:
    """Whether it is `optuna.TrialPruned`, by which a space rules out what it has been given."""
    return any(
        kind.__name__ == "TrialPruned" and kind.__module__.startswith("optuna")
        for kind in type(error).__mro__
    )


def _guarded(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(plugin: Any, *arguments: Any, **options: Any) -> Any:
        if _is_ours(type(plugin)):
            return method(plugin, *arguments, **options)
        for _ in range(_MAX_DRAWS if name in _REDRAWN else 1):
            try:
                result = method(plugin, *arguments, **options)
            except NasProxyError:  # a sentence already
                raise
            except (Exception, SystemExit) as error:
                if name in _REDRAWN and is_pruned(error):
                    continue
                if _passes(name, error):
                    raise
                raise PluginError(fault_of(plugin, f"in {name}", error)) from error
            if name in _GIVES_ARCHITECTURE and not isinstance(result, Architecture):
                raise PluginError(
                    f"{who(plugin)}: {name} gives {type(result).__name__}, not an Architecture; "
                    "end it with return Architecture(self.name, genotype)"
                )
            return result
        raise PluginError(
            f"{who(plugin)}: {name} ruled out {_MAX_DRAWS} draws in a row by optuna.TrialPruned; "
            "draw what the space allows instead"
        )

    return call


def _passes(name: str, error: BaseException) -> bool:
    """Whether an error means something to those who call the method, or is not the method's."""
    if name == "build":  # everything else is a failed evaluation
        return not isinstance(error, SystemExit)
    if name == "suggest" and is_pruned(error):
        return True
    if name == "distill" and is_out_of_memory(error):
        return True
    if name in _MAY_REFUSE and isinstance(error, ValueError):
        return True
    return is_of_storage(error)


def is_of_storage(error: BaseException) -> bool:
    """Whether it arose where Optuna keeps a study, not in the plug-in that asked."""
    of_storage = isinstance(error, OSError) or type(error).__name__ == "StorageInternalError"
    return of_storage and _parameter(error) is not None


def fault_of(plugin: Any, where: str, error: BaseException) -> str:
    """One sentence for an error of a plug-in's own code: who, at which parameter, line, and what.

    Args:
        plugin: Whose code it is.
        where: Such as "in suggest".
        error: What was raised.
    """
    parameter, place = _parameter(error), place_of(error, type(plugin))
    at = "" if parameter is None else f" at the parameter {parameter!r}"
    return f"{who(plugin)} fails {where}{at}{place}: {_what(error, parameter)}"


def who(plugin: Any) -> str:
    """What a message calls a plug-in."""
    return f"the {plugin._role} {getattr(plugin, 'name', type(plugin).__qualname__)!r}"


def _what(error: BaseException, parameter: str | None) -> str:
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({error.code!r}); raise an error that says what is wrong instead"
    if is_pruned(error):
        return "optuna.TrialPruned has no meaning there; raise it in suggest, sample or mutate"
    if isinstance(error, UserError):
        return str(error)
    said = f"{type(error).__name__}: {first_line(error).rstrip('.')}"
    if parameter is not None and "dynamic value space" in said:
        return (
            f"its choices are not the same in every trial, and Optuna asks for one list of choices "
            f"for each name; give each list a name of its own, such as "
            f"f'{parameter}_of_{{depth}}' ({said})"
        )
    return said


def _parameter(error: BaseException) -> str | None:
    """The name that was given to the `trial.suggest_*` in which an error arose; None outside."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = frame.f_locals.get("name")
        if frame.f_code.co_name.startswith("suggest_") and isinstance(name, str):
            found = name
    return found


def place_of(error: BaseException, kind: type) -> str:
    """The innermost line of a plug-in's own files that an error came through, in brackets.

    Empty if it came through none.
    """
    members = (
        unwrap(getattr(member, "__func__", member))  # a static method holds a function
        for base in kind.__mro__
        if not _is_ours(base)
        for member in vars(base).values()
    )
    files = {member.__code__.co_filename for member in members if isfunction(member)}
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename in files - {"<string>"}:  # what dataclasses generates
            place = f" ({Path(frame.f_code.co_filename).name}, line {line})"
    return place


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "nas_proxy"
