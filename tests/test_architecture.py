"""Imports go one way, and the heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"errors", "options", "reproducibility", "types", "environment", "files"},
    {"interfaces", "registry", "workers"},
    {"data", "networks"},
    {"train", "scores", "checkpoint", "export"},
    {"backbones"},
    {"teach"},
    {"knowledge"},
    {"distill", "evaluate", "compress", "pretrain"},
    {"search", "validate", "worth", "tracking", "testing", "calibrate", "retrain"},
    {"consistency", "config"},
    {"stages"},
    {"pipeline"},
    {"cli", "cli_interop", "cli_backbones"},
]


def imports(path: Path) -> list[str]:
    """Modules that a file imports when it is imported itself."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
    return found


def layer(module: str) -> int:
    part = (module.split(".") + ["__init__"])[1]
    return next((level for level, names in enumerate(LAYERS) if part in names), 0)


SOURCES = sorted((ROOT / "nas_proxy").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    own = layer(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imports(path):
        assert not module.startswith("search_spaces"), f"{path} imports {module}"
        if module.startswith("nas_proxy."):
            assert layer(module) <= own, f"{path} imports {module}, which is above it"


def test_stages_do_not_import_one_another() -> None:
    stages = ROOT / "nas_proxy" / "stages"
    shared = {
        "context",
        "folder",
        "recipe",
        "calibration_sample",
        "samples",
        "controls",
        "trust",
        "ledger",
        "retrained_models",
        "compressed",
        "lesson",
        "__init__",
    }
    names = {path.stem for path in stages.glob("*.py")} - shared
    for path in stages.glob("*.py"):
        for module in imports(path):
            for name in names - {path.stem}:
                assert not module.startswith(f"nas_proxy.stages.{name}"), f"{path} imports {module}"


def modules_of(*parts: str) -> list[str]:
    return [
        f"nas_proxy.{path.parent.name}.{path.stem}"
        for part in parts
        for path in sorted((ROOT / "nas_proxy" / part).glob("[!_]*.py"))
    ]


def test_training_and_distilling_import_without_the_heavy_libraries() -> None:
    blocked = ["optuna", "mlflow", "pydantic", "yaml", "click", "rich", "pebble", "sklearn"]
    blocked_for_scores = ["torchvision", "safetensors"]
    modules = [
        "nas_proxy.train.loop",
        "nas_proxy.data.sources",
        "nas_proxy.data.pictures",
        "nas_proxy.evaluate.network",
        "nas_proxy.evaluate.factory",
        "nas_proxy.validate.ranks",
        "search_spaces.convnet",
        "search_spaces.nasbench201",
        "search_spaces.torchvision_backbones",
        *modules_of("networks", "backbones", "pretrain", "teach", "knowledge", "distill"),
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


def test_the_command_line_starts_without_loading_everything() -> None:
    code = (
        "import sys, nas_proxy.cli\n"
        "heavy = {'torch', 'mlflow', 'optuna', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
