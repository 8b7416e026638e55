"""A function in words that change when what it does may: its text and all that it uses."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def described(value: Any, of_module: Callable[[str], str] = str) -> list[str]:
    """Texts for a value and for all that it uses of its own module, in the order of its use.

    Functions and classes of the same module are told by their texts; where there is none, as in an
    interactive session, by what they were compiled to. Other objects are told by their `repr`,
    without addresses in memory. What was imported from elsewhere is told by its name.

    Args:
        value: Such as a function.
        of_module: What tells one state of another module from the next, by its name.
    """
    home = getattr(value, "__module__", None)
    return _Description(home, of_module).of(value)


def held(function: FunctionType) -> list[Any]:
    """What a function was given by the one that it was made in, by the order of the names."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return [cell.cell_contents for _, cell in cells if not _is_empty(cell)]


@dataclass(frozen=True)
class _Description:
    """What is told of a value so far."""

    module: str | None
    of_module: Callable[[str], str]
    seen: set[int] = field(default_factory=set)

    def of(self, value: Any) -> list[str]:
        if id(value) in self.seen:
            return []
        if isinstance(value, FunctionType | type | list | tuple | dict):
            self.seen.add(id(value))
        if isinstance(value, ModuleType):
            return [self.of_module(value.__name__)]
        if isinstance(value, FunctionType | type):
            return self._definition(value)
        if isinstance(value, list | tuple | Mapping):
            items = value.items() if isinstance(value, Mapping) else value
            return [type(value).__name__, *self._all(items)]
        return [_ADDRESS.sub("", repr(value))]

    def _definition(self, value: FunctionType | type) -> list[str]:
        if value.__module__ != self.module:
            return [f"{self.of_module(value.__module__ or '')}.{value.__qualname__}"]
        if isinstance(value, FunctionType):
            return [_text(value), *self._all(_used(value))]
        return [value.__qualname__, *self._all([*value.__bases__, *_members(value)])]

    def _all(self, values: Iterable[Any]) -> list[str]:
        return [text for value in values for text in self.of(value)]


def _text(function: FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return "\n".join(_compiled(function.__code__))


def _compiled(code: CodeType) -> Iterator[str]:
    yield repr((code.co_code, code.co_names, code.co_varnames))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _compiled(constant)
        else:
            yield repr(constant)


def _used(function: FunctionType) -> list[Any]:
    """Values of the names that the function's code reads, and its defaults."""
    names = dict.fromkeys(_names(function.__code__))
    globals_ = function.__globals__
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return [*(globals_[name] for name in names if name in globals_), *held(function), *defaults]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _members(kind: type) -> list[Any]:
    """What a class itself defines, without what Python adds."""
    added = {"__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__"}
    members = [value for name, value in vars(kind).items() if name not in added]
    return [getattr(each, "__func__", getattr(each, "fget", each)) for each in members]


def _is_empty(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - the one way to find out
    except ValueError:
        return True
    return False
