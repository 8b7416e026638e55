"""What is installed by an extra alone is asked for before it is used, and named where it lacks."""

import re
import tomllib
from pathlib import Path

import pytest

from nas_proxy.core import extras
from nas_proxy.errors import ConfigError
from nas_proxy.study.config import check_config

ROOT = Path(__file__).parents[2]
MINIMAL = {
    "study_name": "tiny",
    "distill": {"name": "random_subset"},
    "space": {"name": "convnet"},
    "train": {"num_steps": 2},
    "score": {"signals": ["val_loss"]},
}
RETRAIN = {"train": {"num_steps": 2}}


@pytest.fixture
def without(monkeypatch):
    """Pretends that modules are not installed."""

    def hide(*modules: str) -> None:
        def find(name: str):
            return None if name in modules else object()

        monkeypatch.setattr(extras, "find_spec", find)

    return hide


def test_the_modules_are_those_of_pyproject() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {
        extra: {re.split(r"[>=\[<]", line)[0].replace("-", "_") for line in lines} - {"nas_proxy"}
        for extra, lines in listed["optional-dependencies"].items()
        if extra != "all"
    }
    known = {extra: set(modules) for extra, modules in extras._MODULES.items()}
    assert found["compress"] < known["compress"]
    assert {**found, "compress": found["compress"] | found["export"]} == known
    required = {re.split(r"[>=\[<]", line)[0] for line in listed["dependencies"]}
    assert not required & {name.replace("_", "-") for names in known.values() for name in names}


def test_what_is_asked_for_and_not_installed_is_refused_before_anything_is_trained(without) -> None:
    without("onnxruntime")
    asked = {**RETRAIN, "formats": ["onnx"]}
    with pytest.raises(
        ConfigError,
        match=r"retrain\.formats: onnxruntime is not installed; pip install 'nas-proxy\[export\]', "
        "or take onnx out",
    ):
        check_config({**MINIMAL, "retrain": asked})
    without("torchao", "torch_pruning")
    with pytest.raises(
        ConfigError, match=r"torchao, torch_pruning are not .* 'nas-proxy\[compress\]'"
    ):
        check_config({**MINIMAL, "retrain": {**RETRAIN, "compress": {}}})


def test_by_default_the_formats_are_those_that_can_be_written(without) -> None:
    without()
    with_all = check_config({**MINIMAL, "retrain": RETRAIN}).retrain
    without("onnx")
    without_onnx = check_config({**MINIMAL, "retrain": RETRAIN})
    assert with_all.formats == ("onnx", "torch_export")
    assert without_onnx.retrain.formats == ("torch_export",)
    assert without_onnx.resolved["retrain"]["formats"] == ["torch_export"]
