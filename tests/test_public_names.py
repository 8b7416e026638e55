"""A package offers its public names, and imports what they stand for when they are asked for."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(
    ".".join(stub.parent.relative_to(ROOT).parts)
    for stub in (ROOT / "nas_proxy").rglob("__init__.pyi")
)


def test_every_package_says_what_is_public() -> None:
    found = {f"nas_proxy.{path.parent.name}" for path in ROOT.glob("nas_proxy/*/__init__.py")}
    # The one is used from a terminal; the other's modules are the plug-ins themselves.
    assert found - set(PACKAGES) == {"nas_proxy.cli", "nas_proxy.search_spaces"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there_and_has_a_docstring(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__doc__
    assert module.__all__
    assert dir(module) == sorted(module.__all__)
    for name in module.__all__:
        offered = getattr(module, name)
        assert inspect.getdoc(offered), name
        home = getattr(offered, "__module__", package)
        if inspect.isclass(offered) or inspect.isfunction(offered):
            assert f"{home}.".startswith(f"{package}."), f"{name} is at home in {home}"
            assert getattr(sys.modules[home], name) is offered


def test_importing_every_package_loads_nothing_heavy() -> None:
    # compress imports torch itself, to silence what torch and torchao say at their import.
    packages = [package for package in PACKAGES if package != "nas_proxy.compress"]
    code = (
        "import sys\n"
        f"for package in {packages!r}: __import__(package)\n"
        "heavy = {'torch', 'numpy', 'mlflow', 'optuna', 'matplotlib', 'sklearn', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert not [name for name in sys.modules if name == 'nas_proxy.types']\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    import nas_proxy

    assert not hasattr(nas_proxy, "load_modle")
    assert nas_proxy.__version__
