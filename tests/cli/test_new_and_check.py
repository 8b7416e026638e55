"""`nas-proxy new` writes what `nas-proxy check` finds no fault in; faults are said, one a line."""

import ast

import pytest

from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.testing import Finding, find_faults
from nas_proxy.testing import _findings as findings
from tests.helpers.cli import command_line

WRONG = """
from dataclasses import dataclass
import random
from torch import nn
from nas_proxy.interfaces import ZeroCostScore

class Net(nn.Module):
    def __init__(self, spec, width):
        super().__init__()
        channels, height, across = spec.image_shape
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.last = nn.Linear(width * height * across, spec.num_classes)

    def forward(self, images):
        features = self.first(images)
        return self.last(features.view(len(images), -1))

def views(trial, spec):
    return Net(spec, trial.suggest_categorical("width", [4, 8]))

def chance(trial, spec):
    return Net(spec, trial.suggest_categorical("width", [4, 8]) + random.randrange(1000))

@dataclass(frozen=True, kw_only=True)
class Score(ZeroCostScore):
    value: float = 1.0
    def measure(self, network, images):
        return self.value / 0
"""


@pytest.fixture
def nas_proxy(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.py").write_text(WRONG)
    return command_line(capsys)


def lines_of_code(text):
    """Lines without comments, docstrings and blank ones."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node):
            del node.body[0]
    return len(ast.unparse(tree).split("\n"))


def test_a_new_space_is_checked_without_a_fault(nas_proxy, tmp_path):
    done = nas_proxy("new", "space", "my_space.py")
    assert done.status == 0
    assert "nas-proxy check my_space.py:network" in done.output
    assert lines_of_code((tmp_path / "my_space.py").read_text()) <= 25
    checked = nas_proxy("check", "my_space.py:network", "max_width=16", "--samples", "2")
    assert (checked.status, checked.output) == (0, "my_space.py:network keeps its promises\n")


def test_its_test_runs_every_check(nas_proxy, tmp_path):
    nas_proxy("new", "space", "my_space.py")
    text = (tmp_path / "test_my_space.py").read_text()
    assert "$" not in text
    done = pytest.main(["-q", "-p", "no:cacheprovider", "--collect-only", str(tmp_path)])
    assert done == 0
    assert "SPACE_CHECKS" in text


@pytest.mark.exhaustive
def test_its_test_passes(nas_proxy, tmp_path):
    nas_proxy("new", "space", "my_space.py")
    assert pytest.main(["-q", "-p", "no:cacheprovider", str(tmp_path)]) == 0


@pytest.mark.parametrize("taken", ["my_space.py", "test_my_space.py"])
def test_no_file_is_overwritten(nas_proxy, tmp_path, taken):
    (tmp_path / taken).write_text("mine")
    done = nas_proxy("new", "space", "my_space.py")
    assert done.status == 2
    assert f"{taken} exists" in done.errors
    assert {p.name for p in tmp_path.iterdir()} == {taken, "wrong.py"}
    assert (tmp_path / taken).read_text() == "mine"


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ("my-space.py", "cannot be imported: take a name"),
        ("my_space", "ends in .py"),
        ("class.py", "cannot be imported: take a name"),
        ("torch.py", "would hide the installed module 'torch'"),
        ("absent/my_space.py", "the folder absent does not exist"),
    ],
)
def test_a_file_that_cannot_be_written_or_imported_is_refused(nas_proxy, file, fault):
    done = nas_proxy("new", "space", file)
    assert done.status == 2
    assert fault in done.errors


def test_a_fault_is_a_line_with_its_place(nas_proxy):
    done = nas_proxy("check", "wrong.py:views", "--samples", "2")
    assert done.status == 2
    (line,) = done.output.splitlines()
    assert "wrong.py:views: a sampled architecture" in line
    assert "train.channels_last: false (wrong.py, line 16) [training as studies]" in line


def test_one_fault_that_many_checks_meet_is_one_line(nas_proxy):
    done = nas_proxy("check", "wrong.py:chance", "--samples", "2")
    assert done.status == 2
    assert sum("must depend on its choices alone" in each for each in done.output.splitlines()) == 1
    assert "more]" in done.output


@pytest.mark.exhaustive
def test_scores_and_distillers_are_checked_too(nas_proxy):
    for name in ("num_params", "random_subset"):
        assert nas_proxy("check", name).output == f"{name} keeps its promises\n"


def test_a_score_is_checked_with_its_options(nas_proxy):
    done = nas_proxy("check", "wrong.py:Score", "value=2")
    assert done.status == 2
    assert "ZeroDivisionError: float division by zero" in done.output
    assert nas_proxy("check", "wrong.py:Score", "value=x").status == 2


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["wrong.py"], "wrong.py is a file; name the class or function in it"),
        (["wrong.py:view"], "no class or function 'view'; did you mean 'views'"),
        (["wrong.py:Net"], "is not a search space"),
        (["absent.py:network"], "absent.py does not exist"),
        (["convnt"], "unknown plug-in 'convnt'; did you mean 'convnet'"),
        (["convnet", "widhts=[32]"], "widhts: unknown key; did you mean 'widths'"),
        (["convnet", "widths"], "must look like section.key=value"),
        (["convnet", "--samples", "0"], "0 is not in the range"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_a_sentence(nas_proxy, words, fault):
    done = nas_proxy("check", *words)
    assert done.status == 2
    assert fault in done.errors


def test_progress_counts_the_checks(monkeypatch):
    def check_first(space, num_samples):
        raise AssertionError(f"{num_samples} samples are wrong")

    def check_second(space, num_samples):
        raise AssertionError("4 samples are wrong")

    told = []
    monkeypatch.setattr(findings, "SPACE_CHECKS", (check_first, check_second))
    found = find_faults(
        SEARCH_SPACES.get("convnet")(), progress=lambda *step: told.append(step), num_samples=3
    )
    assert found == (Finding(("first", "second"), "3 samples are wrong"),)
    assert told == [(0, 2, "first"), (1, 2, "second"), (2, 2)]
