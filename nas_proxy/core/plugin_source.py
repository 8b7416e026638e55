"""The text of code that a user wrote, as part of the identity of what it made.

What ships with nas_proxy is told apart by its version and by those of the stages. A file of a
user's has neither, so the bytes count: another comment makes it another file.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import FunctionType

from nas_proxy.core._described import described, held
from nas_proxy.core.main_module import MAIN
from nas_proxy.reproducibility import content_hash

_SHIPPED = "nas_proxy"
_INSTALLED = {"site-packages", "dist-packages"}


_known: dict[str, str | None] = {}  # in a worker, by qualified name


def know_sources(hashes: Mapping[str, str | None]) -> None:
    """Take over the hashes of what another process defines in its script or notebook."""
    _known.update(hashes)


def source_hash(plugin: type) -> str | None:
    """Hash of the code that a class of the user's comes from.

    Of a class of a module, that of its file, as it is when this is first asked. Of one of a script
    or a notebook, that of its own text, as it is now, and of what it uses from there; see
    `function_hash`. Of one that was made of a function, its attribute `code_hash`.

    Returns:
        None for what ships with nas_proxy, and where there is no text.
    """
    if hasattr(plugin, "code_hash"):
        return plugin.code_hash  # type: ignore[no-any-return]
    name = plugin.__module__
    if name.partition(".")[0] == _SHIPPED:
        return None
    if name != MAIN:
        return _hash_of_file(plugin)
    known = _known.get(plugin.__qualname__)
    return known if plugin.__qualname__ in _known else content_hash(described(plugin, _of_module))


@cache
def _hash_of_file(plugin: type) -> str | None:
    file = _file_of(plugin.__module__)
    return None if file is None else file_hash(file)


def function_hash(function: FunctionType) -> str | None:
    """Hash of the file that a function comes from, and of what it holds beside that.

    Of a function of a script or a notebook, the hash of its own text and of what it uses from
    there: functions, classes and values, directly or not. So cells and lines that have nothing to
    do with it may change.

    Returns:
        None for what ships with nas_proxy.
    """
    name = function.__module__ or ""
    if name.partition(".")[0] == _SHIPPED:
        return None
    file = None if name == MAIN else _file_of(name)
    if file is None:
        return content_hash(described(function, _of_module))
    further = [described(each, _of_module) for each in held(function)]
    return content_hash([file_hash(file), further]) if further else file_hash(file)


def _of_module(name: str) -> str:
    """A module's name, with its hash if it is the user's own: below the working folder."""
    file = _file_of(name)
    is_foreign = file is None or not file.resolve().is_relative_to(Path.cwd())
    if file is None or is_foreign or _INSTALLED & {*file.parts} or name.startswith(_SHIPPED):
        return name
    return f"{name} {file_hash(file)}"


def _file_of(module: str) -> Path | None:
    file = Path(getattr(sys.modules.get(module), "__file__", None) or "")
    return file if file.is_file() else None


def source_files(*plugins: object) -> tuple[Path, ...]:
    """Files that the classes of some plug-ins come from; nothing of what ships with nas_proxy."""
    names = (type(plugin).__module__ for plugin in plugins)
    own = [name for name in names if name.partition(".")[0] != _SHIPPED]
    files = (Path(getattr(sys.modules.get(name), "__file__", None) or "") for name in own)
    return tuple(file.resolve() for file in files if file.is_file())


def file_hash(file: Path) -> str:
    """Hash of a Python file and of what it imports, directly or not, from below its own folder."""
    texts = sorted(hashlib.sha256(each.read_bytes()).hexdigest() for each in own_files(file))
    return content_hash(texts)


def own_files(file: Path) -> set[Path]:
    """A Python file, and what it imports, directly or not, from below its own folder."""
    file = file.resolve()
    found, waiting = {file}, [file]
    if file.parent.name in _INSTALLED:  # below that folder is everything that is installed
        return found
    while waiting:
        for imported in _imported(waiting.pop()):
            if imported not in found and file.parent in imported.parents:
                found.add(imported)
                waiting.append(imported)
    return found


def _imported(file: Path) -> Iterator[Path]:
    """Files that the imports of a file name, seen from its folder or from its package's."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    top = file.parent
    while (top / "__init__.py").is_file():
        top = top.parent
    for level, name in _names(tree):
        folders = [file.parents[level - 1]] if level else [file.parent, top]
        for folder in folders:
            path = folder.joinpath(*name.split("."))
            candidates = (path.with_name(f"{path.name}.py"), path / "__init__.py")
            yield from (each.resolve() for each in candidates if each.is_file())


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """What is imported, with the number of dots before it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = f"{node.module}." if node.module else ""
            found = [(node.level, f"{module}{alias.name}") for alias in node.names]
            found += [(node.level, node.module)] if node.module else []
        else:
            continue
        yield from (each for each in found if each[1].partition(".")[0] != _SHIPPED)
