"""What the plug-ins that ship say of themselves, read from their source text.

Importing a plug-in imports torch, which takes seconds, and `nas-proxy list` needs a few lines of
each. They are read where they stand: in the class, or in a class that it derives from.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path


def class_texts(module: str, class_name: str, names: Collection[str]) -> dict[str, str]:
    """Attributes of a class that are plain text; what no class says is left out.

    Args:
        module: Where the class is, or is imported from elsewhere. It is not run.
        class_name: In the module.
        names: Of the attributes.

    Raises:
        ValueError: If one of them is said otherwise than as plain text.
    """
    tree = _parsed(module)
    defined = next(
        (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == class_name), None
    )
    if defined is None:
        origin = _origin(module, tree, class_name)
        # Of another library, such as ABC: it knows nothing of plug-ins.
        return class_texts(origin, class_name, names) if origin.startswith("nas_proxy.") else {}
    found: dict[str, str] = {}
    for base in reversed(defined.bases):
        if isinstance(base, ast.Name):
            found |= class_texts(module, base.id, names)
    for name, value in _assigned(defined):
        if name not in names:
            continue
        if not (isinstance(value, ast.Constant) and isinstance(value.value, str)):
            raise ValueError(f"{module}:{class_name}.{name} is not plain text")
        found[name] = value.value
    return found


@cache
def _parsed(module: str) -> ast.Module:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"{module} has no source text")
    file = Path(spec.origin)
    stub = file.with_suffix(".pyi")  # of a package whose names are imported when they are asked for
    return ast.parse((stub if stub.is_file() else file).read_text(encoding="utf-8"))


def _origin(module: str, tree: ast.Module, name: str) -> str:
    """The module that `name` is imported from in the text of `module`; empty if it is not."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            return f"{module}.{node.module}" if node.level else node.module or ""
    return ""


def _assigned(defined: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for node in defined.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value
