"""Figures of the package's structure: what a newcomer has to see through.

Command: python benchmarks/structure.py [FOLDER]   (of any checkout; this one otherwise)
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

_SHAPE = re.compile(r"`?\([a-z0-9_*+ ]+(, ?[a-z0-9_*+. ]+)*,?\)`")
_UNTYPED = re.compile(r"\b(?:dict|Mapping)\[str, (?:Any|object)\]")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def main() -> None:
    """Print one figure for each line."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1])
    files = {
        path: ast.parse(path.read_text()) for path in sorted((root / "nas_proxy").rglob("*.py"))
    }
    functions = [node for tree in files.values() for node in _functions(tree)]
    lengths = sorted(_length(function) for function in functions)
    public = [f for f in functions if not f.name.startswith("_")]
    documented = [f for f in public if ast.get_docstring(f)]
    studies = [f for f in functions if _takes_study(f)]
    sources = [path.read_text() for path in files]
    print(f"files: {len(files)}, lines: {sum(len(s.splitlines()) for s in sources)}")
    print(f"packages: {len({path.parent for path in files})}")
    print(f"packages in a circle: {len(_in_circles(root, files))}")
    print(f"functions that take the study: {len(studies)}")
    print(f"  that use at most one attribute of it: {sum(_uses(f) <= 1 for f in studies)}")
    print(f"dict[str, Any] and its like: {sum(len(_UNTYPED.findall(s)) for s in sources)}")
    small = [s for path, s in zip(files, sources, strict=True) if path.name != "__init__.py"]
    print(f"files under 40 lines: {sum(len(s.splitlines()) < 40 for s in small)}")
    print(f"function lines, median: {statistics.median(lengths):g}, p90: {_p90(lengths)}")
    print(f"functions above 40 lines: {sum(length > 40 for length in lengths)}")
    print(f"public functions with a docstring: {len(documented)} of {len(public)}")
    shapes = sum(bool(_SHAPE.search(ast.get_docstring(f) or "")) for f in public)
    print(f"  that state a shape: {shapes}")
    asserts = sum(
        isinstance(node, ast.Assert) for tree in files.values() for node in ast.walk(tree)
    )
    print(f"assert statements: {asserts}")


def _functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _length(function: Function) -> int:
    """Lines of a function without its docstring."""
    first = function.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def _p90(lengths: list[int]) -> int:
    return lengths[int(0.9 * len(lengths))]


def _study(function: Function) -> str | None:
    """Name of the argument that is the whole study."""
    for argument in (*function.args.args, *function.args.kwonlyargs):
        if argument.annotation and ast.unparse(argument.annotation) == "StudyContext":
            return argument.arg
    return None


def _takes_study(function: Function) -> bool:
    return _study(function) is not None


def _uses(function: Function) -> int:
    """Different attributes of the study that a function reads itself."""
    name = _study(function)
    return len(
        {
            node.attr
            for node in ast.walk(function)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == name
        }
    )


def _in_circles(root: Path, files: dict[Path, ast.Module]) -> set[str]:
    """Folders and top-level modules that import one another in a circle, wherever it stands."""
    modules = {".".join(path.relative_to(root).with_suffix("").parts) for path in files}
    graph: dict[str, set[str]] = {}
    for path, tree in files.items():
        own = path.relative_to(root).with_suffix("").parts
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    parts = (full if full in modules else node.module).split(".")
                    if parts[0] == "nas_proxy" and parts[1:2] not in ([], [own[1]]):
                        graph.setdefault(own[1], set()).add(parts[1])
    found: set[str] = set()
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = error.args[1]
            found |= set(circle)
            above, below = circle[1], circle[0]
            graph[above].discard(below)
        else:
            return found


if __name__ == "__main__":
    main()
