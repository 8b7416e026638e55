"""Searches that are killed and continued, and where their trials are kept."""

import itertools
import time
from concurrent.futures import Future

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nas_proxy.errors import StudyError
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.search.settings import Constraints
from nas_proxy.search.storage import open_storage
from tests.search.helpers import (
    SEED,
    Evaluators,
    Grid,
    Instant,
    Killed,
    Threads,
    architectures,
    grid_sizes,
    killed_at,
    make_task,
    optuna_trials,
    search,
)

MOMENTS = dict(study=("ask", "tell"), trial=("set_user_attr",))


# The score alone, and a cost before it.
GOALS = [{}, {"objectives": ("num_params", "score"), "sizes": grid_sizes}]
NUM_EVENTS = 60  # ask, set_user_attr twice, submit, append and tell of five trials: before, after


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("event", range(1, NUM_EVENTS, 4))
def test_killed_anywhere_and_continued(event, goal, monkeypatch, tmp_path):
    storage, evaluators = InMemoryStorage(), Evaluators()
    path = tmp_path / "log.jsonl"
    task = make_task(evaluators, n_trials=5, **goal)
    first = Instant()
    with killed_at(event, monkeypatch, first, **MOMENTS), pytest.raises(Killed):
        search(task, EvaluationLog(path), storage, first)
    finished = {e.architecture for e in EvaluationLog(path)}
    assert set(first.submitted) - finished == set(first.submitted[len(finished) :])
    check_continued(task, storage, path, evaluators, {*finished, *first.submitted})


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("event", range(1, 70, 9))
def test_killed_anywhere_with_several_in_flight(event, goal, monkeypatch, tmp_path, pool):
    storage, evaluators = InMemoryStorage(), Evaluators()
    path = tmp_path / "log.jsonl"
    task = make_task(evaluators, n_trials=7, **goal)
    first = Threads(pool, 2, event)
    with killed_at(event, monkeypatch, first, **MOMENTS), pytest.raises(Killed):
        search(task, EvaluationLog(path), storage, first)
    pool.submit(int).result()
    check_continued(task, storage, path, Evaluators(), {*first.submitted})


@pytest.mark.parametrize("event", range(1, 30, 2))
def test_killed_again_while_it_takes_up_its_work(event, monkeypatch, tmp_path, pool):
    """Four trials are in flight; the next process dies while it puts them back."""
    storage, path = InMemoryStorage(), tmp_path / "log.jsonl"
    task = make_task(Evaluators(), n_trials=7)
    first, second = Instant(2), Instant(2)
    with killed_at(33, monkeypatch, first, **MOMENTS), pytest.raises(Killed, match="append"):
        search(task, EvaluationLog(path), storage, first)
    assert len(first.submitted) == 4
    with killed_at(event, monkeypatch, second, **MOMENTS), pytest.raises(Killed):
        search(task, EvaluationLog(path), storage, second)
    check_continued(task, storage, path, Evaluators(), {*first.submitted, *second.submitted})


@pytest.mark.parametrize("attempt", range(1, 6))
def test_failures_keep_their_trial_when_they_were_in_flight_at_a_kill(attempt, tmp_path):
    """The trial that was asked again is the one that counts, also at the next look."""

    class Dying(Instant):
        def submit(self, factory, architecture, seed):
            if len(self.submitted) + 1 == attempt:
                raise Killed
            return super().submit(factory, architecture, seed)

    storage, path = InMemoryStorage(), tmp_path / "log.jsonl"
    evaluators = Evaluators(reason=lambda a: "" if sum(a.genotype) % 2 else "even")
    task = make_task(evaluators, n_trials=6)
    with pytest.raises(Killed):
        search(task, EvaluationLog(path), storage, Dying())
    check_continued(task, storage, path, evaluators, set())


def check_continued(task, storage, path, evaluators, expected):
    """Continue without a kill: nothing is lost, repeated, or left over."""
    log = EvaluationLog(path)
    finished = {e.architecture for e in log}
    before = dict(evaluators.counts)
    object.__setattr__(task, "factory", evaluators)
    executor = Instant()
    outcome = search(task, log, storage, executor)
    found = architectures(outcome)
    assert len(set(found)) == len(found) == task.settings.n_trials
    assert expected <= set(found)
    assert finished.isdisjoint(executor.submitted)
    assert set(executor.submitted) == set(found) - finished
    assert {e.architecture for e in EvaluationLog(path)} == set(found)
    for architecture in finished:
        assert evaluators.counts[architecture] == before.get(architecture, 0)
    assert not any(t.state is TrialState.RUNNING for t in optuna_trials(storage))
    # And a look at what is finished changes nothing.
    idle = Instant()
    again = search(task, EvaluationLog(path), storage, idle)
    assert idle.submitted == []
    assert again.trials == sorted(outcome.trials, key=lambda trial: trial[0])


def test_what_finished_out_of_turn_is_kept(tmp_path, pool):
    """While a slow first candidate holds up the telling, a kill must not end the others."""
    path = tmp_path / "log.jsonl"
    slow = Future()

    class SlowFirst(Instant):
        def submit(self, factory, architecture, seed):
            future = super().submit(factory, architecture, seed)
            return slow if len(self.submitted) == 1 else future

    executor = SlowFirst(2)
    running = pool.submit(search, make_task(n_trials=6), EvaluationLog(path), None, executor)
    end = time.monotonic() + 20
    while (not path.exists() or path.read_bytes().count(b"\n") < 3) and time.monotonic() < end:
        time.sleep(0.01)
    kept = list(EvaluationLog(path))
    slow.set_result(Evaluators().evaluate(executor.submitted[0], SEED))
    assert len(architectures(running.result())) == 6
    assert {e.architecture for e in kept} == set(executor.submitted[1:4])


def test_killed_between_the_log_and_optuna(monkeypatch, tmp_path):
    """The result is on the disk, the trial still runs: it is told, and not evaluated again."""
    evaluators, path = Evaluators(), tmp_path / "log.jsonl"
    task = make_task(evaluators, n_trials=4)
    with monkeypatch.context() as patch:
        calls = itertools.count(1)
        tell = optuna.Study.tell

        def dying_tell(self, trial, *args, **kwargs):
            if next(calls) == 3:
                raise Killed
            return tell(self, trial, *args, **kwargs)

        patch.setattr(optuna.Study, "tell", dying_tell)
        with pytest.raises(Killed):
            search(task, EvaluationLog(path), open_storage("journal", tmp_path))
    assert len(EvaluationLog(path)) == 3
    storage = open_storage("journal", tmp_path)
    outcome = search(task, EvaluationLog(path), storage)
    assert set(evaluators.counts.values()) == {1}
    assert len(set(architectures(outcome))) == 4
    complete = [t for t in optuna_trials(storage) if t.state is TrialState.COMPLETE]
    assert len(complete) == 4


def test_larger_n_trials_continues_a_finished_search(tmp_path):
    evaluators, path = Evaluators(), tmp_path / "log.jsonl"
    outcomes = []
    for n_trials in (4, 7, 7):
        storage = open_storage("journal", tmp_path)
        task = make_task(evaluators, n_trials=n_trials)
        outcomes.append(search(task, EvaluationLog(path), storage))
    assert [len(outcome.trials) for outcome in outcomes] == [4, 7, 7]
    assert outcomes[1].trials[:4] == outcomes[0].trials
    assert outcomes[2].trials == outcomes[1].trials
    assert set(evaluators.counts.values()) == {1}
    assert len(evaluators.counts) == 7


def test_continued_search_does_not_repeat_its_proposals(tmp_path):
    """A sampler that started from the same seed again would propose what is known."""
    storage, path = InMemoryStorage(), tmp_path / "log.jsonl"
    for n_trials in range(5, 41, 5):
        outcome = search(
            make_task(space=Grid(side=1000), n_trials=n_trials), EvaluationLog(path), storage
        )
    assert outcome.num_duplicates == 0


def test_failures_and_turned_down_ones_are_remembered(tmp_path):
    storage, path = InMemoryStorage(), tmp_path / "log.jsonl"
    evaluators = Evaluators(reason=lambda a: "odd" if sum(a.genotype) % 2 else "")
    first, second = (
        search(
            make_task(
                evaluators,
                space=Grid(side=6),
                n_trials=15,
                sizes=grid_sizes,
                constraints=Constraints(num_params=400),
            ),
            EvaluationLog(path),
            storage,
        )
        for _ in range(2)
    )
    assert second == first
    assert first.num_duplicates > 0
    assert first.num_infeasible > 0


@pytest.mark.parametrize("cut", [1, 7, 60, 200])
def test_truncated_journal_is_repaired(cut, tmp_path):
    evaluators, path = Evaluators(), tmp_path / "log.jsonl"
    task = make_task(evaluators, n_trials=4)
    expected = search(task, EvaluationLog(path), open_storage("journal", tmp_path))
    journal = tmp_path / "optuna_journal.log"
    journal.write_bytes(journal.read_bytes()[:-cut])
    storage = open_storage("journal", tmp_path)
    outcome = search(task, EvaluationLog(path), storage)
    assert set(architectures(outcome)) == set(architectures(expected))
    assert set(evaluators.counts.values()) == {1}
    assert len(optuna_trials(open_storage("journal", tmp_path))) >= 4


def test_journal_damaged_in_the_middle_is_refused(tmp_path):
    evaluators, path = Evaluators(), tmp_path / "log.jsonl"
    task = make_task(evaluators, n_trials=3)
    search(task, EvaluationLog(path), open_storage("journal", tmp_path))
    journal = tmp_path / "optuna_journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], lines[3][:9] + b"\n", *lines[4:]]))
    with pytest.raises(StudyError, match=r"optuna_journal.log is damaged .* move it away"):
        open_storage("journal", tmp_path)
    # The advice helps.
    journal.unlink()
    outcome = search(task, EvaluationLog(path), open_storage("journal", tmp_path))
    assert len(outcome.trials) == 3
    assert set(evaluators.counts.values()) == {1}


@pytest.mark.parametrize(
    "url", ["nonsense", "nonsense://x", "sqlite:////no/such/folder/x.db", "redis://localhost:1"]
)
def test_unusable_storage(url, log, tmp_path):
    with pytest.raises(StudyError, match=r"search.storage '.*' cannot be opened: ") as caught:
        search(make_task(), log, open_storage(url, tmp_path))
    assert url in str(caught.value)


def test_database_keeps_a_search_too(tmp_path):
    url, path = f"sqlite:///{tmp_path}/study.db", tmp_path / "log.jsonl"
    evaluators = Evaluators()
    for n_trials in (2, 4):
        outcome = search(
            make_task(evaluators, n_trials=n_trials),
            EvaluationLog(path),
            open_storage(url, tmp_path),
        )
    assert len(outcome.trials) == 4
    assert set(evaluators.counts.values()) == {1}


def test_candidate_that_kills_three_times_is_given_up(tmp_path):
    path, attempts = tmp_path / "log.jsonl", []

    class Deadly(Instant):
        def submit(self, factory, architecture, seed):
            is_third = not attempts and len(EvaluationLog(path)) == 2
            if is_third or architecture in attempts:
                attempts.append(architecture)
                raise Killed
            return super().submit(factory, architecture, seed)

    task = make_task(n_trials=5)
    for _ in range(3):
        with pytest.raises(Killed):
            search(task, EvaluationLog(path), open_storage("journal", tmp_path), Deadly())
    executor = Deadly()
    outcome = search(task, EvaluationLog(path), open_storage("journal", tmp_path), executor)
    assert len(attempts) == 3
    assert attempts[0] not in executor.submitted
    (failure,) = [e for _, e, score in outcome.trials if score is None]
    assert failure.architecture == attempts[0]
    assert failure.reason == "the program was killed 3 times while this was evaluated"
    assert len(set(architectures(outcome))) == 5
    # It stays given up.
    again = search(task, EvaluationLog(path), open_storage("journal", tmp_path), Deadly())
    assert failure in [evaluation for _, evaluation, _ in again.trials]
    assert len(attempts) == 3
