"""From a function to the class of its search space, whose fields are the function's options."""

from __future__ import annotations

import inspect
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import FunctionType, SimpleNamespace
from typing import Annotated, Any, get_type_hints

import cloudpickle

from nas_proxy.core.packing import unpack
from nas_proxy.core.plugin_source import function_hash
from nas_proxy.define_by_run.space import FunctionSpace
from nas_proxy.errors import PluginError, first_line
from nas_proxy.interfaces import SearchSpace
from nas_proxy.options import Bound
from nas_proxy.reproducibility import canonical_json

_FORM = "a search space is a function of (trial, spec), and further parameters are its options"
# What an option without an annotation may be, by its default.
_KINDS = {
    bool: bool,
    int: Annotated[int, Bound()],
    float: Annotated[float, Bound()],
    str: str,
    tuple: tuple[Any, ...],
    list: list[Any],
}

_SENT = "_sent"  # of a class, once it was sent by value

_BY_FUNCTION: dict[tuple[FunctionType, str | None], type[FunctionSpace]] = {}
_BY_TOKEN: dict[str, type[FunctionSpace]] = {}  # what came to this process by value


def space_class(function: FunctionType) -> type[FunctionSpace]:
    """The class of a function's search space, the same one each time.

    Its instances are sent to worker processes by the function's name where it has one in a module;
    a lambda, or a function of a notebook, a script, or another function, by value.

    Args:
        function: Of `(trial, spec)`; further parameters are options, and have defaults.

    Raises:
        PluginError: If it has another form.
    """
    key = function, function_hash(function)
    if key not in _BY_FUNCTION:
        _BY_FUNCTION[key] = _made(function, key[1])
    return _BY_FUNCTION[key]


def _made(function: FunctionType, code_hash: str | None) -> type[FunctionSpace]:
    text = inspect.getdoc(function) or ""
    options = _options(function)
    members = {
        "__module__": function.__module__ or "__main__",
        "__qualname__": function.__qualname__,
        "__doc__": text or f"The search space of the function {function.__name__}.",
        "__annotations__": {name: kind for name, (kind, _) in options.items()},
        "__reduce__": _reduced,
        "function": staticmethod(function),
        "code_hash": code_hash,
        "name": function.__name__.strip("<>"),
        "summary": text.partition("\n")[0],
        **{name: _default(value) for name, (_, value) in options.items()},
    }
    made = type(function.__name__, (FunctionSpace,), members)
    return dataclass(frozen=True, kw_only=True)(made)


def _options(function: FunctionType) -> dict[str, tuple[Any, Any]]:
    """Type and default of each option.

    Raises:
        PluginError: If the function has not the form of a search space.
    """
    who = f"{function.__qualname__}{inspect.signature(function)}"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PluginError(f"{who} is async; {_FORM}, and returns a network at once")
    if inspect.isgeneratorfunction(function):
        raise PluginError(
            f"{who} is a generator, for it has a yield; {_FORM}, and returns a network"
        )
    first, further = _parameters(function, who)
    if len(first) < 2:
        raise PluginError(
            f"{who} cannot be called with a trial and the images' specification; {_FORM}: "
            "spec.image_shape and spec.num_classes say what the network is given and what it gives"
        )
    hints = _hints(function, {each.name: each.annotation for each in further}, who)
    return {each.name: (hints.get(each.name) or _kind(each, who), each.default) for each in further}


def _parameters(
    function: FunctionType, who: str
) -> tuple[list[inspect.Parameter], list[inspect.Parameter]]:
    """The trial and the specification, and what follows them."""
    parameters = list(inspect.signature(function).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    first = [each for each in parameters[:2] if each.kind in positional]
    further = parameters[len(first) :]
    for option in further:
        if option.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise PluginError(f"{who} takes {option}; {_FORM}, each with a name of its own")
        if option.default is inspect.Parameter.empty or option.kind is positional[0]:
            raise PluginError(
                f"{who} takes {option.name!r} beside a trial and a specification; {_FORM}: give it "
                f"a default, as in {option.name}=..."
            )
        if hasattr(SearchSpace, option.name) or option.name in ("name", "function", "code_hash"):
            raise PluginError(
                f"{who} has an option {option.name!r}, which every space has; rename it"
            )
    return first, further


def _hints(function: FunctionType, annotations: Mapping[str, Any], who: str) -> dict[str, Any]:
    """The types that the options are annotated with."""
    given = {n: kind for n, kind in annotations.items() if kind is not inspect.Parameter.empty}
    holder = SimpleNamespace(__annotations__=given)
    try:
        return get_type_hints(holder, globalns=function.__globals__, include_extras=True)
    except Exception as error:  # noqa: BLE001 - an annotation is code
        raise PluginError(
            f"the annotations of {who} cannot be read: {type(error).__name__}: {first_line(error)}"
        ) from error


def _kind(option: inspect.Parameter, who: str) -> Any:
    """The type of an option without an annotation."""
    try:
        canonical_json(option.default)
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"the option {option.name!r} of {who} has a default that no configuration can hold, "
            f"{option.default!r}; take a text, and look it up in a dict"
        ) from error
    return _KINDS.get(type(option.default), Any)


def _default(value: Any) -> Any:
    """A default as a field of a dataclass has it."""
    if isinstance(value, list | dict | set):
        return field(default_factory=value.copy)
    return value


def _reduced(space: FunctionSpace) -> tuple[Callable[..., FunctionSpace], tuple[Any, ...]]:
    """How pickle sends an instance."""
    kind = type(space)
    options = {option.name: getattr(space, option.name) for option in fields(space)}
    if _is_found_by_name(kind.function):
        return _of_name, (kind.function, kind.name, options)
    token, function = _by_value(kind)
    return _of_value, (token, function, kind.name, kind.code_hash, options)


def _of_name(function: FunctionType, name: str, options: Mapping[str, Any]) -> FunctionSpace:
    kind = space_class(function)
    kind.name = name
    return kind(**options)


def _of_value(
    token: str, function: bytes, name: str, code_hash: str | None, options: Mapping[str, Any]
) -> FunctionSpace:
    if token not in _BY_TOKEN:  # the text of the code, which its hash is of, is not here
        _BY_TOKEN[token] = _made(unpack(function), code_hash)
    kind = _BY_TOKEN[token]
    kind.name = name
    return kind(**options)


def _is_found_by_name(function: Any) -> bool:
    if function.__module__ in ("__main__", "__mp_main__"):  # a worker has another one, or none
        return False
    module = sys.modules.get(function.__module__)
    return getattr(module, function.__qualname__, None) is function


def _by_value(kind: type[FunctionSpace]) -> tuple[str, bytes]:
    """The function's token and bytes, made once: whoever has them twice has one class."""
    known = vars(kind).get(_SENT)
    if known is None:
        try:
            known = secrets.token_hex(8), cloudpickle.dumps(kind.function)
        except Exception as error:  # noqa: BLE001 - whatever the function holds may raise anything
            raise PluginError(
                f"the search space {kind.name!r} cannot be sent to worker processes, for it uses "
                f"something that cannot be copied ({type(error).__name__}: {first_line(error)}); "
                "save it in a file and name it FILE.py:FUNCTION, or let one process do all of it "
                "(search.executor: serial)"
            ) from error
        setattr(kind, _SENT, known)
        _BY_TOKEN[known[0]] = kind
    return known
