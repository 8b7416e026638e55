"""Names that are no UTF-8 are refused at once, or everything works with them to its last write.

Classes and images of folders are in `tests/data/test_folder.py`.
"""

import os

import pytest

from tests.cases.helpers import (
    NETWORK,
    RETRAINED,
    SPACE,
    assert_one_sentence,
    python,
    write_config,
)

WRONG = os.fsdecode(b"caf\xe9")


@pytest.fixture(autouse=True)
def _names(tmp_path):
    try:
        (tmp_path / WRONG).mkdir()
    except OSError:
        pytest.skip("this file system holds no such names")


def assert_works_or_is_refused(outcome):
    """Never an error after the work was done."""
    if outcome.status == 0:
        return
    assert_one_sentence(outcome, "not UTF-8")
    assert "stage 1" not in outcome.errors


@pytest.mark.parametrize(
    "override",
    [f"results={WRONG}", f"data.root={WRONG}", f"study_name={WRONG}",
     f"tracking.experiment={WRONG}", f"search.storage=sqlite:///{WRONG}/a.db",
     f"space.name={WRONG}/space.py:Own"],
)  # fmt: skip
def test_names_on_the_command_line(nas_proxy, tmp_path, override):
    (tmp_path / WRONG / "space.py").write_text(SPACE + NETWORK)
    write_config(tmp_path, space={"name": "convnet"})
    outcome = nas_proxy("search", "c.yaml", override)
    assert_one_sentence(outcome, "caf")
    outcome.errors.encode()


def test_a_study_in_a_folder_of_such_a_name(nas_proxy, tmp_path, monkeypatch):
    """Neither the folder nor a plug-in in it stands in the configuration with its whole path."""
    here = tmp_path / WRONG
    (here / "space.py").write_text(SPACE + NETWORK)
    write_config(here, space={"name": "space.py:Own"}, retrain=RETRAINED)
    monkeypatch.chdir(here)
    assert_works_or_is_refused(nas_proxy("run", "c.yaml"))


@pytest.mark.parametrize("name", [b"\xe9.yaml", b"caf\xe9/c.yaml"])
def test_a_configuration_of_such_a_name(nas_proxy, tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    write_config(tmp_path)
    os.rename(tmp_path / "c.yaml", path)
    assert_works_or_is_refused(nas_proxy("search", os.fsdecode(name)))


@pytest.mark.exhaustive
def test_the_case_as_it_is_written(case, nas_proxy):
    folder = case("class_folder_not_utf8")
    assert python("make.py", cwd=folder).returncode == 0
    assert_one_sentence(nas_proxy("run", "c.yaml"), r"'caf\\xe9'", "not UTF-8 text")
