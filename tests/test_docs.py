import logging
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import optuna
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.testing import check_search_space, find_faults

PYTHON_PAGE = Path(__file__).parents[1] / "docs" / "python_api.md"
GUIDE = Path(__file__).parents[1] / "docs" / "search_spaces.md"


def printed_code(first_line):
    """The guide's block of Python that begins with `first_line`."""
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    return next(block for block in blocks if block.startswith(first_line))


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
    page = PYTHON_PAGE.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for block in blocks:
        code = block.replace("data=nas.image", "tracking={'enabled': False}, data=nas.image")
        exec(compile(code, PYTHON_PAGE, "exec"), vars(module))
    assert "no interval" in capsys.readouterr().out
