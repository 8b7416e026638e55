"""What a script, a notebook or `-c` defines, told apart by its text and by all that it uses."""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

from nas_proxy.core.main_module import MAIN
from nas_proxy.reproducibility import content_hash

Definition = type | FunctionType
_Names = dict[str, None]  # in order
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# Of a class without a text: what Python and the registry write into it.
_NOT_WRITTEN = {"__module__", "__doc__", "__abstractmethods__", "name"}


def main_source_hash(
    plugin: Definition, module_hash: Callable[[ModuleType], str | None]
) -> str | None:
    """Hash of a definition in the main module, and of what it uses there, directly or not.

    Args:
        plugin: A class or function whose module is `__main__`.
        module_hash: Of an imported module; None if it is not the user's own.

    Returns:
        None where there is neither text nor code.
    """
    found: dict[str, Any] = {}
    waiting: list[Definition] = [plugin]
    while waiting:
        definition = waiting.pop()
        if definition.__qualname__ in found:
            continue
        words, names = _content(definition)
        found[definition.__qualname__] = words
        for name in names:
            value = vars(sys.modules[MAIN]).get(name)
            waiting += [each for each in _definitions(value) if each.__module__ == MAIN]
            found.update(_constants(name, value))
            found.update(_modules(value, module_hash))
    return content_hash(sorted(found.items())) if found[plugin.__qualname__] else None


def _content(definition: Definition) -> tuple[Any, _Names]:
    """The text, or else the compiled code, and the names in it."""
    text = _text(definition)
    if text is not None:
        tree = ast.parse(textwrap.dedent(text))
        return text, dict.fromkeys(n.id for n in ast.walk(tree) if isinstance(n, ast.Name))
    names: _Names = {}
    return list(_compiled(definition, names)), names


def _text(definition: Definition) -> str | None:
    try:
        return inspect.getsource(definition)
    except (OSError, TypeError, SyntaxError):  # of a notebook's class, Python knows no file
        return _text_around(definition) if isinstance(definition, type) else None


def _text_around(definition: type) -> str | None:
    """The text of a class, found by the line of one of its methods."""
    for member in vars(definition).values():
        if not isinstance(member, FunctionType):
            continue
        code = inspect.unwrap(member).__code__
        lines = "".join(linecache.getlines(code.co_filename))
        for node in ast.walk(_parsed(lines)):
            if isinstance(node, ast.ClassDef) and node.name == definition.__name__:
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                if first <= code.co_firstlineno <= (node.end_lineno or first):
                    return "\n".join(lines.splitlines()[first - 1 : node.end_lineno])
    return None


def _parsed(text: str) -> ast.AST:
    try:
        return ast.parse(text)
    except SyntaxError:  # a cell with a line that is not Python's
        return ast.Module([], [])


def _compiled(definition: Definition, names: _Names) -> Iterator[Any]:
    """What of a definition's code decides what it does; the names in it are added to `names`."""
    if isinstance(definition, FunctionType):
        yield _code_words(inspect.unwrap(definition).__code__, names)
        yield repr((definition.__defaults__, definition.__kwdefaults__))
        return
    names.update(dict.fromkeys(base.__name__ for base in definition.__bases__))
    for name, member in sorted(vars(definition).items()):
        inner = getattr(member, "__func__", getattr(member, "fget", member))
        if isinstance(inner, FunctionType):
            yield name, _code_words(inspect.unwrap(inner).__code__, names)
        elif name not in _NOT_WRITTEN and _is_plain(member):
            yield name, repr(member)


def _code_words(code: CodeType, names: _Names) -> list[Any]:
    names.update(dict.fromkeys(code.co_names))
    constants = [
        _code_words(each, names) if isinstance(each, CodeType) else _constant_words(each)
        for each in code.co_consts
    ]
    return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), constants]


def _constant_words(value: Any) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _elements(value: Any) -> Iterator[Any]:
    """A value and what the containers in it hold."""
    yield value
    inner: Any = ()
    if isinstance(value, Mapping):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        inner = value
    for each in inner:
        yield from _elements(each)


def _definitions(value: Any) -> Iterator[Definition]:
    yield from (each for each in _elements(value) if isinstance(each, type | FunctionType))


def _is_plain(value: Any) -> bool:
    containers = (Mapping, list, tuple, set, frozenset)
    return all(isinstance(each, (*_PLAIN, *containers)) for each in _elements(value))


def _constants(name: str, value: Any) -> dict[str, Any]:
    """A number, a text or a container of such that a definition reads."""
    if isinstance(value, set | frozenset):
        value = sorted(map(repr, value))
    return {f"{name} =": repr(value)} if name and _is_plain(value) and value is not None else {}


def _modules(value: Any, module_hash: Callable[[ModuleType], str | None]) -> dict[str, Any]:
    """The user's own modules that a value is one of, or comes from."""
    found = {}
    for each in _elements(value):
        name = each.__name__ if isinstance(each, ModuleType) else getattr(each, "__module__", None)
        module = sys.modules.get(name) if isinstance(name, str) and name != MAIN else None
        if module is not None:
            found[f"import {name}"] = module_hash(module)
    return {name: found_hash for name, found_hash in found.items() if found_hash is not None}
