"""What an installed wheel offers, in a process that sees nothing of the repository."""

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
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


# The same, where the libraries of all extras are missing: a whole study on the example's images.
WITHOUT_EXTRAS = """
import importlib.util, sys
installed, *libraries = sys.argv[1:]
sys.path[:0] = [installed]
sys.path += libraries

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"onnx", "onnxscript", "onnxruntime", "onnx_ir", "torchao",
                                      "torch_pruning", "optuna_dashboard", "psycopg"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

find = importlib.util.find_spec
def find_spec(name, package=None):
    try:
        return find(name, package)
    except ModuleNotFoundError:
        return None
importlib.util.find_spec = find_spec
sys.meta_path.insert(0, Missing())
from nas_proxy.cli.main import main
sys.argv = [
    "nas-proxy", "run", f"{installed}/nas_proxy/configs/quickstart.yaml", "results=RESULTS",
    "distill={name: random_subset, images_per_class: 1}", "data.images_per_class=24",
    "train.num_steps=2", "search={n_trials: 2}", "validate=null", "retrain.num_seeds=1",
    "retrain.train={num_steps: 2, batch_size: 16}",
]
if __name__ == "__main__":
    main()
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
    examples = {path.name for path in (ROOT / "configs").iterdir()}
    assert {path.name for path in (installed / "nas_proxy" / "configs").iterdir()} == examples
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


def test_a_study_needs_no_extra_and_says_which_file_it_cannot_write(installed, tmp_path) -> None:
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    code = WITHOUT_EXTRAS.replace("RESULTS", str(tmp_path))
    command = [sys.executable, "-I", "-S", "-c", code, str(installed), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "writes no ONNX file: onnx, " in done.stderr
    assert "pip install 'nas-proxy[export]'" in done.stderr
    champion = tmp_path / "quickstart" / "retrain" / "champion"
    assert (champion / "model.pt2").is_file()
    assert not (champion / "model.onnx").exists()


def test_the_source_distribution_builds_the_same_wheel(installed: Path, tmp_path) -> None:
    build = (sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path), "-t")
    run(*build, "sdist", cwd=ROOT)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    run(*build, "wheel", cwd=source)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as built:
        names = {name for name in built.namelist() if ".dist-info/" not in name}
    package = installed / "nas_proxy"
    found = {p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert names == {str(path.relative_to(installed)) for path in found}
