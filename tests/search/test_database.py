"""A database that goes away for a while: the search waits, and nothing is lost or done twice."""

import tempfile
import threading
import time

import optuna
import pytest
from optuna.storages import get_storage
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError, ProgrammingError

from nas_proxy.errors import ConfigError, StudyError, masked
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.search import settings as search_settings
from nas_proxy.search.database import WaitingStorage, open_database
from nas_proxy.search.settings import SearchSettings
from nas_proxy.search.storage import driver_id, open_storage
from tests.helpers.postgres import Server
from tests.search.helpers import Evaluators, Instant, make_task, optuna_trials, search

GONE = OperationalError("SELECT 1", {}, Exception("connection to server at 10.0.0.1 failed"))


class Flaky:
    """A storage whose server goes away before, or after, some of the calls of a name."""

    def __init__(self, storage, name, *, calls, done, times=2):
        self._storage, self._name, self._done = storage, name, done
        self._calls, self._times, self._left = calls, times, 0
        self._count = 0

    def __getattr__(self, name):
        found = getattr(self._storage, name)
        if not callable(found):
            return found

        def call(*values, **named):
            if self._left:
                self._left -= 1
                raise GONE
            if name != self._name:
                return found(*values, **named)
            self._count += 1
            if self._count not in self._calls:
                return found(*values, **named)
            self._left = self._times - 1
            if self._done:
                found(*values, **named)
            raise GONE

        return call


def trial_list(storage):
    return [(t.number, t.state, t.params, t.values) for t in optuna_trials(storage)]


def a_search(tmp_path, name, storage):
    log = EvaluationLog(tmp_path / f"{name}.jsonl")
    outcome = search(make_task(n_trials=6), log, storage)
    return [(n, e.architecture, score) for n, e, score in outcome.trials]


# What would be done twice if it was asked for twice; all else with the exhaustive tests.
CUT_OFF = [
    pytest.param(name, done, marks=() if done and is_default else pytest.mark.exhaustive)
    for name, is_default in (
        ("create_new_trial", True),
        ("set_trial_param", False),
        ("set_trial_user_attr", False),
        ("set_trial_state_values", True),
    )
    for done in (False, True)
]


@pytest.mark.parametrize(("name", "done"), CUT_OFF)
def test_what_was_asked_for_is_done_once(name, done, tmp_path, caplog):
    whole = get_storage(f"sqlite:///{tmp_path}/whole.db")
    expected = a_search(tmp_path, "whole", whole)
    inner = get_storage(f"sqlite:///{tmp_path}/flaky.db")
    pauses = []
    flaky = Flaky(inner, name, calls=(1, 5), done=done)
    found = a_search(tmp_path, "flaky", WaitingStorage(flaky, sleep=pauses.append))
    assert found == expected
    assert trial_list(inner) == trial_list(whole)
    assert pauses == [0.5, 1.0] * 2
    said = [record.message for record in caplog.records if "search.storage" in record.message]
    assert len(said) == 4
    assert "does not answer (connection to server at 10.0.0.1 failed)" in said[0]
    assert "answers again" in said[1]


def test_a_server_that_stays_away_ends_the_study_in_a_sentence():
    class Away:
        def get_all_studies(self):
            raise GONE

    storage = WaitingStorage(Away(), patience=-1.0)
    with pytest.raises(StudyError, match=r"has not answered .* run the same command"):
        storage.get_all_studies()


def test_a_refusal_is_not_waited_for():
    refused = ProgrammingError("SELECT", {}, Exception("relation does not exist"))

    class Refusing:
        def get_all_studies(self):
            raise refused

    with pytest.raises(ProgrammingError):
        WaitingStorage(Refusing(), sleep=pytest.fail).get_all_studies()


@pytest.mark.parametrize(
    "url", ["postgresql://me:s3cret@127.0.0.1:1/x", "postgresql://127.0.0.1:1/x?password=s3cret"]
)
def test_a_server_that_is_not_there_is_said_at_once_without_the_password(url):
    with pytest.raises(StudyError, match=r"search.storage .* cannot be opened: ") as caught:
        open_database(url)
    assert "s3cret" not in str(caught.value)
    assert "***" in str(caught.value)


def test_without_the_driver_the_configuration_says_what_to_install(monkeypatch):
    monkeypatch.setattr(search_settings, "is_installed", lambda extra: False)
    with pytest.raises((ValueError, ConfigError), match=r"pip install 'nas-proxy\[postgres\]'"):
        SearchSettings(storage="postgresql://me:s3cret@host/x")
    assert masked("a?sslpassword=x&b=1 and c&token=y") == "a?sslpassword=***&b=1 and c&token=***"


def test_two_drivers_of_one_database_leave_each_other_alone(tmp_path):
    """The second begins while a trial of the first runs, which the first then tells."""
    url = f"sqlite:///{tmp_path}/shared.db"
    outcomes, evaluators = {}, Evaluators()

    def task(name, executor):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        made = make_task(evaluators, n_trials=4)
        object.__setattr__(made, "driver", driver_id(url, folder))
        log = EvaluationLog(folder / "log.jsonl")
        outcomes[name] = search(made, log, open_storage(url, folder), executor)

    class Interrupted(Instant):
        def submit(self, factory, architecture, seed):
            if len(self.submitted) == 1:
                task("second", Instant())
            return super().submit(factory, architecture, seed)

    task("first", Interrupted())
    numbers = {name: {n for n, *_ in found.trials} for name, found in outcomes.items()}
    assert len(numbers["first"]) == len(numbers["second"]) == 4
    assert not numbers["first"] & numbers["second"]
    assert {t.state for t in optuna_trials(url)} == {TrialState.COMPLETE}
    before = outcomes["first"].trials
    task("first", Instant())
    assert outcomes["first"].trials == sorted(before, key=lambda trial: trial[0])
    assert driver_id("journal", tmp_path) == ""


@pytest.fixture(scope="module")
def server():
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        found = Server(folder)
        yield found
        found.stop()


@pytest.mark.exhaustive
def test_postgresql_stopped_for_a_while(server, tmp_path, caplog):
    """Cut off in the middle, several times: the search is the one that was left alone."""
    expected = a_search(tmp_path, "whole", get_storage(f"sqlite:///{tmp_path}/whole.db"))

    class Slow(Instant):
        def submit(self, factory, architecture, seed):
            time.sleep(0.3)
            return super().submit(factory, architecture, seed)

    storage = open_database(server.url)
    log = EvaluationLog(tmp_path / "log.jsonl")
    stopper = threading.Timer(0.7, interrupt, args=(server,))
    stopper.start()
    outcome = search(make_task(n_trials=6), log, storage, Slow())
    stopper.join()
    assert [(n, e.architecture, score) for n, e, score in outcome.trials] == expected
    assert not [t for t in optuna_trials(storage) if t.state is not TrialState.COMPLETE]
    assert "answers again after" in caplog.text
    # A dashboard, or whoever knows the URL, sees the study.
    assert [s.study_name for s in optuna.get_all_study_summaries(storage=storage)] == ["study"]


def interrupt(server):
    server.stop()
    time.sleep(3)
    server.start()
