"""Imports go one way, and the heavy libraries stay where they belong."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
# What torch's documentation imports from there.
DOCUMENTED = {"torch.utils._python_dispatch"}
SOURCES = sorted((ROOT / "nas_proxy").rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


@cache
def imports(path: Path) -> list[tuple[int, str]]:
    """Every module that a file imports anywhere, in functions and for type checkers too."""
    return list(imports_in(path))


def imports_in(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield node.lineno, full if full in MODULES else node.module
        elif isinstance(node, ast.ImportFrom):
            package = module_of(path).split(".")
            parent = package[: len(package) - node.level + (path.name == "__init__.py")]
            yield node.lineno, ".".join([*parent, node.module or ""]).rstrip(".")


@cache
def all_imports() -> list[tuple[Path, int, str, str]]:
    """File, line, importing and imported module; parsed when the first test asks for it."""
    return [
        (path.relative_to(ROOT), line, module_of(path), imported)
        for path in SOURCES
        for line, imported in imports(path)
    ]


def package(module: str) -> str:
    """The room of a module: a package of nas_proxy, or a module that lies beside them."""
    return module.split(".")[1] if "." in module else "nas_proxy"


def circle_in(edges: dict[tuple[str, str], str]) -> str:
    """The imports that close a circle, one for each step; empty if there is none."""
    graph: dict[str, set[str]] = {}
    for above, below in edges:
        graph.setdefault(above, set()).add(below)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        return "\n".join(edges[step] for step in zip(circle, circle[1:], strict=False))
    return ""


def test_packages_do_not_import_in_a_circle() -> None:
    edges = {
        (package(own), package(imported)): f"{path}:{line} imports {imported}"
        for path, line, own, imported in all_imports()
        if imported in MODULES and package(own) != package(imported)
    }
    assert not circle_in(edges), f"these imports close a circle:\n{circle_in(edges)}"


def drawn_lines() -> dict[str, int]:
    """The line of each room in the drawing of CONTRIBUTING.md, from the ground up."""
    drawing = re.search(r"```\n(errors, .*?)search_spaces", CONTRIBUTING, re.DOTALL)
    assert drawing is not None
    lines = [re.split(r"\s{2,}", line.strip())[0] for line in drawing[1].splitlines()]
    return {room.strip(): number for number, rooms in enumerate(lines) for room in rooms.split(",")}


def test_imports_go_as_they_are_drawn() -> None:
    lines = drawn_lines()
    assert lines.keys() == {package(module) for module in MODULES} - {"nas_proxy", "search_spaces"}
    upward = [
        f"{path}:{line} imports {imported}"
        for path, line, own, imported in all_imports()
        if imported in MODULES
        and {package(own), package(imported)} <= lines.keys()
        and lines[package(imported)] > lines[package(own)]
    ]
    assert not upward


def test_modules_do_not_import_in_a_circle() -> None:
    edges = {
        (own, imported): f"{path}:{line} imports {imported}"
        for path, line, own, imported in all_imports()
        # A package that shows what its modules define is not above them.
        if imported in MODULES and own != imported and path.name != "__init__.py"
    }
    assert not circle_in(edges), f"these imports close a circle:\n{circle_in(edges)}"


def test_a_circle_is_found_and_named() -> None:
    edges = {
        ("data", "train"): "data/a.py:3 imports train.loop",
        ("train", "data"): "train/loop.py:5 imports data.a",
        ("cli", "data"): "cli.py:1 imports data.a",
    }
    circle = circle_in(edges)
    assert "data/a.py:3 imports train.loop" in circle
    assert "train/loop.py:5 imports data.a" in circle
    assert "cli.py" not in circle


def importers_of(library: str) -> set[str]:
    return {
        package(own) for _, _, own, imported in all_imports() if imported.split(".")[0] == library
    }


@pytest.mark.parametrize(
    ("library", "packages"),
    [
        ("mlflow", {"tracking"}),
        ("optuna", {"define_by_run", "search", "testing"}),
        ("ray", {"cluster"}),
    ],
)
def test_one_package_alone_imports(library: str, packages: set[str]) -> None:
    assert importers_of(library) <= packages


def test_search_spaces_are_above_everything() -> None:
    below = [
        f"{path}:{line} imports {imported}"
        for path, line, _, imported in all_imports()
        if imported.removeprefix("nas_proxy.").split(".")[0] == "search_spaces"
    ]
    assert not below


def test_search_spaces_are_imported_by_the_name_they_have_in_a_wheel() -> None:
    """By their folder's name they would be other modules, with other classes in them."""
    folder_name = re.compile(r"^\s*(from|import) search_spaces\b", re.MULTILINE)
    files = [path for part in ("tests", "benchmarks") for path in (ROOT / part).rglob("*.py")]
    assert [str(path) for path in files if folder_name.search(path.read_text())] == []


def is_foreign(own: str, imported: str) -> bool:
    """Whether what is imported is private to a package that the importing module is not in."""
    private = re.search(r"\._[a-z]", imported)
    return private is not None and not f"{own}.".startswith(f"{imported[: private.start()]}.")


def test_private_modules_are_imported_by_their_own_package_alone() -> None:
    folders = ("nas_proxy", "search_spaces", "benchmarks")
    foreign = [
        f"{path.relative_to(ROOT)}:{line} imports {imported}"
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, imported in imports(path)
        if is_foreign(module_of(path), imported) and imported not in DOCUMENTED
    ]
    assert not foreign


@pytest.mark.parametrize(
    ("own", "imported", "foreign"),
    [
        ("nas_proxy.train.loop", "nas_proxy.train._steps", False),
        ("nas_proxy.train.deep.loop", "nas_proxy.train._steps", False),
        ("nas_proxy.train", "nas_proxy.train._steps", False),
        ("nas_proxy.trained", "nas_proxy.train._steps", True),
        ("nas_proxy.data.sources", "nas_proxy.train._steps.inner", True),
        ("nas_proxy.data.sources", "nas_proxy.train.__init__", False),
        ("benchmarks.speed", "nas_proxy.train.loop", False),
    ],
)
def test_what_is_private_to_another_package_is_seen(own: str, imported: str, foreign: bool) -> None:
    assert is_foreign(own, imported) == foreign


def test_stages_do_not_import_one_another() -> None:
    stages = "nas_proxy.study.stages."
    between = [
        f"{path}:{line} imports {imported}"
        for path, line, own, imported in all_imports()
        if own.startswith(stages) and imported.startswith(stages)
    ]
    assert not between


def modules_of(*parts: str) -> list[str]:
    return [
        module_of(path)
        for part in parts
        for path in sorted((ROOT / "nas_proxy" / part).rglob("[!_]*.py"))
    ]


def test_nothing_rests_on_a_statement_that_python_may_leave_out() -> None:
    """`python -O` skips every assert statement."""
    others = [
        path for name in ("search_spaces", "benchmarks") for path in (ROOT / name).glob("*.py")
    ]
    for path in [*SOURCES, *others]:
        lines = [
            n.lineno for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)
        ]
        assert not lines, f"{path.relative_to(ROOT)}:{lines[0]} has an assert; raise an error"


def test_training_and_distilling_import_without_the_heavy_libraries() -> None:
    blocked = ["optuna", "mlflow", "pydantic", "yaml", "click", "rich", "pebble", "sklearn"]
    blocked_for_scores = ["torchvision", "safetensors"]
    modules = [
        "nas_proxy.train.loop",
        "nas_proxy.data.sources",
        "nas_proxy.data.pictures",
        "nas_proxy.evaluate.network",
        "nas_proxy.evaluate.factory",
        "nas_proxy.statistics.ranks",
        "nas_proxy.search_spaces.convnet",
        "nas_proxy.search_spaces.nasbench201",
        "nas_proxy.search_spaces.torchvision_backbones",
        *modules_of("networks", "backbones", "teachers", "knowledge_distillation", "distill"),
    ]
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked + blocked_for_scores!r}))\n"
        f"for name in {modules_of('scores')!r}: __import__(name)\n"
        f"for name in {blocked_for_scores!r}: del sys.modules[name]\n"
        f"for name in {modules!r}: __import__(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
