"""Small wrong inputs, each of which is one sentence; those of the configuration are in
`tests/study/test_config.py`, damaged records of stages in `tests/study/test_stage_folder.py`."""

import shutil
from pathlib import Path

import pytest

from tests.cases.helpers import NETWORK, RETRAINED, SPACE, assert_one_sentence, write_config

LIKE_CONVNET = {"signals": ["val_loss", "num_params"], "combine": "rank_mean"}


def test_words_without_quotes_and_addresses_without_a_beginning(nas_proxy, tmp_path):
    write_config(tmp_path)
    folder = {"name": "image_folder", "root": "imgs", "image_size": 8, "classes": [False, True]}
    write_config(tmp_path, name="classes.yaml", data=folder)
    assert_one_sentence(
        nas_proxy("search", "classes.yaml"), "classes.0: without quotes YAML reads no", "reads yes"
    )
    address = ("tracking.enabled=true", "tracking.uri=localhost:5000")
    assert_one_sentence(nas_proxy("search", "c.yaml", *address), "write http://localhost:5000")


def test_a_space_of_two_networks_has_too_few_to_rank_among(nas_proxy, tmp_path):
    (tmp_path / "space.py").write_text(SPACE + NETWORK)
    write_config(tmp_path, space={"name": "space.py:Own"}, score=LIKE_CONVNET)
    outcome = nas_proxy("search", "c.yaml")
    assert_one_sentence(
        outcome, "score.num_reference: ", "only 2 could be drawn", "combine: single"
    )
    assert not (tmp_path / "results/s").exists() or not list(tmp_path.glob("results/s/search/*"))


FINISHED = "search: finished already"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study up to its report, with a copy of it for each damage."""
    from nas_proxy.study.config import load_config
    from nas_proxy.study.pipeline import run_pipeline
    from tests.helpers.display import Quiet

    folder = tmp_path_factory.mktemp("finished")
    file = write_config(folder, results=str(folder / "results"), retrain=RETRAINED)
    run_pipeline(load_config(file), Quiet())
    return folder


def damages(folder: Path):
    for path in sorted((folder / "results/s").rglob("*")):
        if path.is_file():
            yield path.relative_to(folder)


@pytest.mark.exhaustive
@pytest.mark.parametrize("content", [b"", b"{", b"null", b"\xff\x00"])
def test_any_file_of_a_study_may_be_damaged(finished, nas_proxy, tmp_path, content):
    """It goes on, or says in one sentence what is damaged and what to do."""
    faults = []
    for path in damages(finished):
        here = tmp_path / "copy"
        shutil.copytree(finished, here)
        text = (here / "c.yaml").read_text().replace(str(finished), str(here))
        (here / "c.yaml").write_text(text)
        (here / path).write_bytes(content)
        for command in ("search", "run"):
            outcome = nas_proxy(command, str(here / "c.yaml"))
            if outcome.status not in (0, 2) or "unexpected" in outcome.errors:
                faults.append(f"{command} after {path}: {outcome.status} {outcome.errors[-300:]}")
        shutil.rmtree(here)
    assert not faults, "\n".join(faults)


def test_an_emptied_configuration_of_a_study_is_written_again(nas_proxy, tmp_path):
    write_config(tmp_path)
    assert nas_proxy("search", "c.yaml").status == 0
    resolved = tmp_path / "results/s/config.yaml"
    before = resolved.read_text()
    resolved.write_text("")
    again = nas_proxy("search", "c.yaml")
    assert (again.status, FINISHED in again.errors) == (0, True)
    assert resolved.read_text() == before
    resolved.write_text("")
    assert_one_sentence(nas_proxy("search", str(resolved)), "must hold sections")
