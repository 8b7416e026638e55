"""`nas-proxy plan` as its user meets it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.cli import Outcome, command_line

TINY: dict[str, Any] = {
    "study_name": "tiny",
    "data": {"name": "digits", "images_per_class": 20},
    "distill": {"name": "random_subset", "images_per_class": 2},
    "space": {"name": "convnet", "widths": [4, 8], "depths": [1]},
    "train": {
        "num_steps": 3,
        "learning_rate": 0.02,
        "precision": "float32",
        "channels_last": False,
    },
    "score": {"signals": ["val_loss"]},
    "search": {"n_trials": 2},
    "tracking": {"enabled": False},
}
SPACE = """
from dataclasses import dataclass

from nas_proxy.interfaces import SearchSpace
from nas_proxy.types import Architecture


@dataclass(frozen=True, kw_only=True)
class Broken(SearchSpace):
    name = "broken"

    def suggest(self, trial):
        return Architecture(self.name, trial.suggest_int("number", 0, 99))

    def sample(self, generator):
        import torch

        return Architecture(self.name, int(torch.randint(100, (), generator=generator)))

    def build(self, architecture, spec):
        raise RuntimeError("there is no such layer")
"""
DISTILLER = """
import time
from dataclasses import dataclass

from nas_proxy.distill import RandomSubset


@dataclass(frozen=True, kw_only=True)
class Slow(RandomSubset):
    name = "slow"
    num_steps: int = 1000

    def distill(self, task):
        for step in range(self.num_steps):
            until = time.process_time() + 0.05
            while time.process_time() < until:
                pass
            task.context.progress(step + 1, self.num_steps)
        return super().distill(task)
"""


@pytest.fixture
def nas_proxy(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs the command line in a folder of its own with `tiny.yaml` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "space.py").write_text(SPACE)
    (tmp_path / "slow.py").write_text(DISTILLER)
    return command_line(capsys)


def assert_one_sentence(outcome: Outcome, *expected: str) -> None:
    assert outcome.status == 2, outcome.errors
    assert "Traceback" not in outcome.errors + outcome.output
    for words in expected:
        assert words in outcome.errors, outcome.errors


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["absent.yaml"], ["absent.yaml"]),
        (["tiny.yaml", "train.num_stepz=3"], ["did you mean 'num_steps'"]),
        (["tiny.yaml", "data={name: cifar10, root: here}"], ["here", "data.download=true"]),
        (["tiny.yaml", "--timing-seconds", "0"], ["--timing-seconds"]),
        (["tiny.yaml", "device=cuda"], ["device"]),
        (
            ["tiny.yaml", "validate={num_architectures: 9, reference: {table: absent.csv}}"],
            ["absent.csv"],
        ),
    ],
)
def test_wrong_inputs_get_one_sentence(nas_proxy, tmp_path, words, expected) -> None:
    assert_one_sentence(nas_proxy("plan", *words), *expected)
    assert not (tmp_path / "results").exists()


@pytest.mark.exhaustive
def test_another_configuration_than_the_folders_is_refused(nas_proxy) -> None:
    assert nas_proxy("search", "tiny.yaml").status == 0
    refused = nas_proxy("plan", "tiny.yaml", "train.num_steps=4")
    assert_one_sentence(refused, "train.num_steps: 3 -> 4", "study_name")


@pytest.mark.exhaustive
def test_plan_then_run_then_plan(nas_proxy, tmp_path: Path) -> None:
    planned = nas_proxy("plan", "tiny.yaml", "--json", "--timing-seconds", "2")
    assert planned.status == 0, planned.errors
    assert "timing" in planned.errors
    assert "for up to 2 s" in planned.errors
    found = json.loads(planned.output)
    assert found["core_seconds"]["expected"] > 0
    search = next(stage for stage in found["stages"] if stage["stage"] == "search")
    assert [(task["total"], task["done"]) for task in search["tasks"]] == [(2, 0)]
    assert not (tmp_path / "results").exists()
    ran = nas_proxy("run", "tiny.yaml")
    assert "plan: search: 2 trainings; about" in ran.errors  # as the plan has timed them
    again = nas_proxy("plan", "tiny.yaml", "--timing-seconds", "2")
    assert again.status == 0
    assert "done" in again.output


def test_networks_that_cannot_be_built_are_said(nas_proxy) -> None:
    planned = nas_proxy(
        "plan", "tiny.yaml", "space={name: 'space.py:Broken'}", "--timing-seconds", "2"
    )
    assert planned.status == 0, planned.errors
    assert "there is no such layer" in planned.output.replace("\n", " ")


@pytest.mark.exhaustive
def test_an_own_distiller_is_timed_by_its_progress(nas_proxy) -> None:
    planned = nas_proxy(
        "plan",
        "tiny.yaml",
        "distill={name: 'slow.py:Slow', images_per_class: 2}",
        "--json",
        "--timing-seconds",
        "3",
    )
    assert planned.status == 0, planned.errors
    stages = {stage["stage"]: stage for stage in json.loads(planned.output)["stages"]}
    assert stages["distill"]["core_seconds"]["expected"] == pytest.approx(50, rel=0.2)
    assert any("distill.num_steps=100" in words for words in stages["distill"]["cheaper"])
