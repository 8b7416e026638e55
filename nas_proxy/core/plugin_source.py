"""The text of code that a user wrote, as part of the identity of what it made.

What ships with nas_proxy is told apart by its version and by those of the stages. A file of a
user's has neither, so the bytes count: another comment makes it another file.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from nas_proxy.reproducibility import content_hash

_SHIPPED = "nas_proxy"
_INSTALLED = {"site-packages", "dist-packages"}


@cache
def source_hash(plugin: type) -> str | None:
    """Hash of the file that a class comes from, as it is when this is first asked.

    Of a class of a script or a notebook, the hash of its own text, where Python knows it.

    Returns:
        None for what ships with nas_proxy, and where there is no text.
    """
    name = plugin.__module__
    if name.partition(".")[0] == _SHIPPED:
        return None
    if name in ("__main__", "__mp_main__"):
        try:
            return content_hash(inspect.getsource(plugin))
        except (OSError, TypeError):
            return None
    file = Path(getattr(sys.modules.get(name), "__file__", None) or "")
    return file_hash(file) if file.is_file() else None


def source_files(*plugins: object) -> tuple[Path, ...]:
    """Files that the classes of some plug-ins come from; nothing of what ships with nas_proxy."""
    names = (type(plugin).__module__ for plugin in plugins)
    own = [name for name in names if name.partition(".")[0] != _SHIPPED]
    files = (Path(getattr(sys.modules.get(name), "__file__", None) or "") for name in own)
    return tuple(file.resolve() for file in files if file.is_file())


def file_hash(file: Path) -> str:
    """Hash of a Python file and of what it imports, directly or not, from below its own folder."""
    texts = sorted(hashlib.sha256(each.read_bytes()).hexdigest() for each in _own_files(file))
    return content_hash(texts)


def _own_files(file: Path) -> set[Path]:
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
