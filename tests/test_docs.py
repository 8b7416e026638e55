import logging
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import optuna
import pytest
import torch
import yaml
from optuna.trial import FixedTrial
from PIL import Image
from pydantic import TypeAdapter, ValidationError

import nas_proxy
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.study.config import check_config
from nas_proxy.testing import check_search_space, find_faults
from nas_proxy.types import DatasetSpec

README = Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "docs"
GUIDE = DOCS / "search_spaces.md"
PYTHON_PAGE = DOCS / "python_api.md"


def blocks_of(page, language):
    """The page's blocks of a language, as printed."""
    block = rf"^```{language}\n(.*?)^```$"
    return re.findall(block, page.read_text(), re.DOTALL | re.MULTILINE)


def printed_code(first_line, page=GUIDE):
    """The guide's block of Python that begins with `first_line`."""
    return next(block for block in blocks_of(page, "python") if block.startswith(first_line))


@pytest.fixture
def guide_folder(tmp_path, monkeypatch):
    """A folder with the guide's two functions, each in a file as printed."""
    (tmp_path / "my_network.py").write_text(printed_code("# my_network.py\n"))
    (tmp_path / "my_options.py").write_text(printed_code("from typing import Literal\n"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("my_network", None)


def test_the_guide_begins_with_a_space_of_twelve_lines(guide_folder):
    lines = (guide_folder / "my_network.py").read_text().splitlines()
    assert GUIDE.read_text().index("# my_network.py") < 400
    assert sum(bool(line.strip()) and not line.startswith("#") for line in lines) <= 12
    assert find_faults(SEARCH_SPACES.get("my_network.py:network")(), num_samples=2) == ()


def test_the_guides_lines_of_python_take_the_function(guide_folder):
    names = {}
    exec(compile(printed_code("from my_network import network"), GUIDE, "exec"), names)
    assert names["space"].name == "my_network:network"


def test_the_guides_function_has_options(guide_folder):
    kind = SEARCH_SPACES.get("my_options.py:network")
    assert TypeAdapter(kind).validate_python({"max_width": 16, "norm": "none"}).max_width == 16
    check_search_space(kind(max_width=32), num_samples=2)
    for wrong in ({"norm": "layer"}, {"max_width": "wide"}, {"width": 3}):
        with pytest.raises(ValidationError):
            TypeAdapter(kind).validate_python(wrong)


@pytest.fixture
def my_space(tmp_path):
    """The class of the guide, loaded from a file as printed."""
    path = tmp_path / "my_space.py"
    path.write_text(printed_code("# my_space.py\n"))
    return SEARCH_SPACES.get(f"{path}:MySpace")


def test_the_guides_space_keeps_the_contract(my_space):
    check_search_space(my_space())


def test_the_guides_options_are_checked(my_space):
    assert TypeAdapter(my_space).validate_python({"num_blocks": 2}) == my_space(num_blocks=2)
    with pytest.raises(ValidationError):
        TypeAdapter(my_space).validate_python({"num_blocks": 0})


def test_the_guides_check_runs_as_printed(my_space, tmp_path, monkeypatch, capfd):
    """And without output, as the guide promises, though Optuna likes to talk."""
    monkeypatch.chdir(tmp_path)
    said, verbosity = [], optuna.logging.get_verbosity()
    handler = logging.Handler()
    handler.emit = said.append
    monkeypatch.setattr(logging.getLogger("optuna"), "handlers", [handler])
    code = compile(printed_code("from nas_proxy.registry import SEARCH_SPACES"), GUIDE, "exec")
    try:
        optuna.logging.set_verbosity(logging.INFO)  # as it is before a study says otherwise
        exec(code, {})
        assert optuna.logging.get_verbosity() == logging.INFO
    finally:
        optuna.logging.set_verbosity(verbosity)
    assert said == []
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.exhaustive
def test_the_page_on_python_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "photos" / ("owl", "wren")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for block in blocks_of(PYTHON_PAGE, "python"):
        code = block.replace("data=nas.image", "tracking={'enabled': False}, data=nas.image")
        exec(compile(code, PYTHON_PAGE, "exec"), vars(module))
    assert "no interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("page", "file", "check"),
    [
        ("own_distiller.md", "my_distiller.py", "from nas_proxy.registry import DISTILLERS"),
        ("own_score.md", "my_score.py", "from nas_proxy.registry import SCORES"),
    ],
)
def test_the_plugins_of_the_other_guides_pass_their_checks(
    page, file, check, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).write_text(printed_code(f"# {file}\n", DOCS / page))
    exec(compile(printed_code(check, DOCS / page), page, "exec"), {})


SMALL = {
    "study_name": "guide",
    "distill": {"name": "random_subset"},
    "space": {"name": "convnet"},
    "train": {"num_steps": 5},
}


@pytest.mark.parametrize("page", ["own_distiller.md", "own_score.md", "own_images.md"])
def test_what_the_guides_write_into_a_configuration_is_accepted(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks_of(DOCS / page, "python"):
        if block.startswith("# my_"):
            Path(block.split()[1]).write_text(block)
    for block in blocks_of(DOCS / page, "yaml"):
        check_config({**SMALL, **yaml.safe_load(block)})


def photos(folder):
    """A few pictures of two classes."""
    for label in ("owl", "wren"):
        (folder / label).mkdir(parents=True)
        for number in range(10):
            colour = (number * 20, 255 - number * 20, 128 if label == "owl" else 0)
            Image.new("RGB", (16, 16), colour).save(folder / label / f"{number}.png")


def test_readmes_function_builds_a_network():
    definition = blocks_of(README, "python")[0].partition("\nphotos = ")[0]
    names = {}
    exec(definition, names)
    classes, colours = ("owl", "wren", "kite"), (0.5, 0.5, 0.5)
    spec = DatasetSpec("birds", classes, (3, 16, 16), colours, colours, "", "")
    network = names["network"](FixedTrial({"width": 16, "depth": 2}), spec)
    assert network(torch.rand(2, 3, 16, 16)).shape == (2, 3)


@pytest.mark.skipif("Study" not in nas_proxy.__all__, reason="nas_proxy has no Study yet")
def test_readmes_lines_make_a_study(tmp_path, monkeypatch):
    """All but the lines that take minutes; what these call is there."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    lines, called = blocks_of(README, "python")[0].split("study.run()")
    names = {}
    exec(lines, names)
    for name in re.findall(r"study\.(\w+)", called):
        assert hasattr(nas_proxy.Study, name)
    assert names["study"].config.study_name == "birds"


def test_readmes_file_is_a_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    (written,) = blocks_of(README, "yaml")
    assert check_config(yaml.safe_load(written)).study_name == "birds"


def test_readme_is_short():
    assert len(README.read_bytes()) <= 9000
