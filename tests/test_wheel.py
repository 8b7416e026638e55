"""What an installed wheel offers, in a process that sees nothing of the repository."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPACES = {"convnet", "nasbench201", "torchvision_backbones"}

# Without `site`, which would add what was installed as editable.
CODE = """
import sys
installed, *libraries = sys.argv[1:]
sys.path[:0] = [installed]
sys.path += libraries

sys.argv = ["nas-proxy", "list", "spaces", "--json"]
from nas_proxy.cli.main import main
try:
    main()
except SystemExit as done:
    assert not done.code

import importlib.util, torch, nas_proxy
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.types import DatasetSpec
assert importlib.util.find_spec("search_spaces") is None
spec = DatasetSpec("digits", tuple("0123456789"), (1, 32, 32), (0.5,), (0.5,), "none", "")
for name in SEARCH_SPACES.names():
    space = SEARCH_SPACES.get(name)()
    network = space.build(space.sample(torch.Generator().manual_seed(0)), spec)
    shape = tuple(network.eval()(torch.zeros(2, *spec.image_shape)).shape)
    print(name, type(space).__module__, shape)
print(nas_proxy.__file__)
"""


pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel installs."""
    wheels, folder = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels), cwd=ROOT)
    (wheel,) = wheels.iterdir()
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-compile"]
    run(sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(wheel))
    return folder


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_but_the_package_is_installed_and_all_of_it(installed: Path) -> None:
    found = {path.name for path in installed.iterdir()}
    assert {name for name in found if not name.endswith(".dist-info")} == {"nas_proxy", "bin"}
    package = ROOT / "nas_proxy"
    for pattern in ("*.py", "*.pyi", "*.j2", "py.typed"):
        wanted = {path.relative_to(package) for path in package.rglob(pattern)}
        wanted |= {
            Path("search_spaces", path.relative_to(ROOT / "search_spaces"))
            for path in (ROOT / "search_spaces").rglob(pattern)
        }
        assert {p.relative_to(installed / "nas_proxy") for p in installed.rglob(pattern)} == wanted
    code = (installed / "nas_proxy" / "search_spaces" / "__init__.py").read_text()
    assert "__path__" not in code


def test_the_spaces_are_listed_and_build_networks(installed: Path) -> None:
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    # -I leaves out PYTHONPATH and the working folder.
    printed = run(sys.executable, "-I", "-S", "-c", CODE, str(installed), *libraries, cwd=installed)
    listed, end = json.JSONDecoder().raw_decode(printed)
    assert {space["name"] for space in listed["spaces"]} >= SPACES
    *lines, file = printed[end:].split("\n")[1:-1]
    assert Path(file) == installed / "nas_proxy" / "__init__.py"
    for name in SPACES:
        assert f"{name} nas_proxy.search_spaces.{name} (2, 10)" in lines
