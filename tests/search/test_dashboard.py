"""What Optuna's dashboard shows of a search."""

import json
import os
import signal
import threading
import urllib.request

import optuna
import pytest

from nas_proxy.errors import UserError
from nas_proxy.search import dashboard
from nas_proxy.search.dashboard import launch_dashboard, write_note
from nas_proxy.search.importance import choice_importances
from nas_proxy.search.settings import SearchSettings
from nas_proxy.search.storage import open_optuna_study, open_storage
from tests.tracking.helpers import closed_port


@pytest.fixture
def study():
    return optuna.create_study(study_name="s", storage=optuna.storages.InMemoryStorage())


def note_of(study):
    return pytest.importorskip("optuna_dashboard").get_note(study)


def test_the_dashboard_reads_our_note_however_long_it_was(study):
    long = "verdict é " * 1000
    for text in ("short", long, "short again", ""):
        assert write_note(study._storage, "s", text)
        assert note_of(study) == f"# nas_proxy\n\n{text}"


def test_the_note_of_a_person_stays(study):
    pytest.importorskip("optuna_dashboard").save_note(study, "my own words")
    assert not write_note(study._storage, "s", "verdict")
    assert note_of(study) == "my own words"


def test_a_note_for_a_study_that_is_not_there_is_an_error(study):
    with pytest.raises(KeyError):
        write_note(study._storage, "another", "verdict")


def search_in(folder, objectives=("score",)):
    storage = open_storage("journal", folder)
    return open_optuna_study(SearchSettings(objectives=objectives), "s", storage)


def test_objectives_have_names(tmp_path, recwarn):
    (tmp_path / "search").mkdir()
    objectives = ("score", "num_params")
    for _ in range(2):  # new, and opened again
        assert search_in(tmp_path / "search", objectives).metric_names == list(objectives)
    assert not recwarn.list


def test_it_is_served_until_ctrl_c(tmp_path):
    pytest.importorskip("optuna_dashboard")
    folder = tmp_path / "mine" / "search"
    folder.mkdir(parents=True)
    search_in(folder).ask().set_user_attr("description", "two blocks")
    pages, served, port = [], [], closed_port()

    def visit():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies/0") as answer:
                served.append(json.load(answer))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    def announce(page):
        pages.append(page)
        threading.Thread(target=visit).start()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        launch_dashboard(tmp_path, port=port, announce=announce)
    finally:
        signal.signal(signal.SIGINT, before)
    assert pages == [f"http://127.0.0.1:{port}/dashboard/studies/0"]
    (trial,) = served[0]["trials"]
    assert {"key": "description", "value": "two blocks"} in trial["user_attrs"]
    assert served[0]["objective_names"] == ["score"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "no search is kept in"),
        ({"study_name": "absent"}, "no search of a study 'absent'"),
        ({"storage": "sqlite:////nowhere/at/all.db"}, "cannot be opened"),
    ],
)
def test_what_is_missing_is_one_sentence(tmp_path, options, said):
    pytest.importorskip("optuna_dashboard")
    with pytest.raises(UserError, match=said):
        launch_dashboard(tmp_path, **options)


def test_without_the_extra_the_command_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(dashboard, "is_installed", lambda extra: False)
    monkeypatch.setattr(dashboard, "missing_words", lambda extra: f"pip install [{extra}]")
    with pytest.raises(UserError, match=r"pip install \[dashboard\]"):
        launch_dashboard(tmp_path)


# --- importances ------------------------------------------------------------------------------


def searched(num_trials, directions=("maximize",), score_at=0):
    study = optuna.create_study(
        directions=list(directions), sampler=optuna.samplers.RandomSampler(seed=0)
    )
    for _ in range(num_trials):
        trial = study.ask()
        decisive = trial.suggest_categorical("decisive", ["a", "b", "c"])
        trial.suggest_int("idle", 0, 9)
        values = [float(trial.number)] * len(directions)
        values[score_at] = {"a": 1.0, "b": 0.0, "c": -1.0}[decisive] + trial.number / 1e6
        study.tell(trial, values)
    return study


@pytest.mark.parametrize("goal", [(("maximize",), 0), (("minimize", "maximize"), 1)])
def test_what_decides_about_the_score_is_the_most_important(goal):
    directions, at = goal
    found = choice_importances(searched(60, directions, at), at)
    assert list(found) == ["decisive", "idle"]
    assert sum(found.values()) == pytest.approx(1)
    assert found["decisive"] > 0.7


def test_few_trials_have_no_importances():
    assert choice_importances(searched(9), 0) == {}
    assert choice_importances(searched(10), 0) != {}
