import itertools
import logging
import random
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nas_proxy.errors import StudyError, UserError
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.interfaces import SearchSpace
from nas_proxy.scores.combine import SingleSignal
from nas_proxy.search.settings import Constraints, SearchSettings
from nas_proxy.search.study import SearchTask, open_storage, run_search
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status
from search_spaces.nasbench201 import OPERATIONS, NASBench201Space

SAMPLERS = ["tpe", "random", "nsga2", "regularized_evolution"]
SEED = 3


@dataclass(frozen=True, kw_only=True)
class Grid(SearchSpace):
    """Points of a square."""

    side: int = 10

    name = "grid"

    def suggest(self, trial):
        x = trial.suggest_int("x", 0, self.side - 1)
        return Architecture(self.name, [x, trial.suggest_int("y", 0, self.side - 1)])

    def sample(self, generator):
        raise NotImplementedError

    def mutate(self, architecture, generator):
        raise NotImplementedError

    def build(self, architecture, spec):
        raise NotImplementedError

    def encode(self, architecture):
        raise NotImplementedError


def hill(architecture):
    x, y = architecture.genotype
    return -((x - 6) ** 2) - (y - 2) ** 2


@dataclass
class Evaluators:
    """The factory, the evaluator, and a count of what was evaluated."""

    value: object = hill
    reason: object = lambda architecture: ""
    counts: Counter = field(default_factory=Counter)
    fidelity: Fidelity = Fidelity("d", 1, 1, 8)

    def build(self):
        return self

    def evaluate(self, architecture, seed):
        assert seed == SEED
        self.counts[architecture] += 1
        reason = self.reason(architecture)
        if reason:
            return Evaluation(architecture, self.fidelity, seed, Status.FAILED, reason=reason)
        signals = {"val_accuracy": float(self.value(architecture))}
        return Evaluation(architecture, self.fidelity, seed, Status.COMPLETE, signals)


class Instant:
    """Has the answer when asked, like the serial executor."""

    def __init__(self, num_workers=1):
        self.num_workers = num_workers
        self.submitted = []

    def submit(self, factory, architecture, seed):
        self.submitted.append(architecture)
        future = Future()
        future.set_result(factory.build().evaluate(architecture, seed))
        return future


class Threads(Instant):
    """Answers in no particular order."""

    def __init__(self, pool, num_workers, delays):
        super().__init__(num_workers)
        self._pool, self._delays = pool, random.Random(delays)

    def submit(self, factory, architecture, seed):
        self.submitted.append(architecture)
        delay = self._delays.choice([0, 0, 0.002, 0.01])

        def work():
            time.sleep(delay)
            return factory.build().evaluate(architecture, seed)

        return self._pool.submit(work)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture
def log(tmp_path):
    return EvaluationLog(tmp_path / "evaluations.jsonl")


def make_task(evaluators=None, *, space=None, sizes=None, on_trial=None, progress=None, **settings):
    settings = {"n_trials": 12, "sampler": "random", "population_size": 4, **settings}
    more = {"on_trial": on_trial, "progress": progress}
    return SearchTask(
        space=space or Grid(),
        factory=evaluators or Evaluators(),
        score=SingleSignal("val_accuracy"),
        settings=SearchSettings(tournament_size=3, **settings),
        study_name="study",
        seed=SEED,
        sizes=sizes or (lambda architecture: {}),
        **{name: value for name, value in more.items() if value},
    )


def search(task, log, storage=None, executor=None):
    return run_search(task, executor or Instant(), log, storage or InMemoryStorage())


def architectures(outcome):
    return [evaluation.architecture for _, evaluation, _ in outcome.trials]


def optuna_trials(storage):
    return optuna.load_study(study_name="study", storage=storage).trials


# --- what a search does -----------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_evaluates_n_different_architectures_once(sampler, log):
    evaluators, seen, steps = Evaluators(), [], []
    task = make_task(
        evaluators,
        sampler=sampler,
        n_trials=18,
        on_trial=lambda *trial: seen.append(trial),
        progress=lambda done, total, note="": steps.append((done, total)),
    )
    outcome = search(task, log)
    assert len(set(architectures(outcome))) == len(outcome.trials) == 18
    assert set(evaluators.counts.values()) == {1}
    assert set(evaluators.counts) == set(architectures(outcome))
    assert all(score == hill(e.architecture) for _, e, score in outcome.trials)
    assert seen == outcome.trials
    assert steps == [(n, 18) for n in range(19)]
    assert list(log) == [evaluation for _, evaluation, _ in outcome.trials]


def test_optuna_holds_what_was_found(log):
    storage = InMemoryStorage()
    evaluators = Evaluators(reason=lambda a: "too wide" if a.genotype[0] > 6 else "")
    outcome = search(make_task(evaluators, n_trials=20), log, storage)
    trials = optuna_trials(storage)
    assert {score is None for _, _, score in outcome.trials} == {True, False}
    for number, evaluation, score in outcome.trials:
        trial = trials[number]
        assert [trial.params["x"], trial.params["y"]] == evaluation.architecture.genotype
        assert trial.user_attrs["architecture_id"] == evaluation.architecture.id
        if score is None:
            assert trial.state is TrialState.FAIL
            assert trial.user_attrs["reason"] == evaluation.reason == "too wide"
        else:
            assert (trial.state, trial.value) == (TrialState.COMPLETE, score)
    assert not any(trial.state is TrialState.RUNNING for trial in trials)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_known_proposals_are_answered_from_memory(num_workers, log):
    storage, evaluators = InMemoryStorage(), Evaluators()
    task = make_task(evaluators, space=Grid(side=4), n_trials=14)
    outcome = search(task, log, storage, Instant(num_workers))
    assert len(set(architectures(outcome))) == 14
    assert set(evaluators.counts.values()) == {1}
    trials = optuna_trials(storage)
    assert outcome.num_duplicates == len(trials) - 14 > 0
    # The sampler learns nothing wrong from them.
    for trial in trials:
        if trial.state is TrialState.COMPLETE:
            architecture = Architecture("grid", [trial.params["x"], trial.params["y"]])
            assert trial.value == hill(architecture)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_exhausted_space_ends_with_one_warning(num_workers, log, caplog):
    task = make_task(space=Grid(side=2), n_trials=10)
    with caplog.at_level(logging.WARNING, "nas_proxy"):
        outcome = search(task, log, executor=Instant(num_workers))
    assert len(set(architectures(outcome))) == 4
    (message,) = [r.getMessage() for r in caplog.records if r.name == "nas_proxy"]
    assert "the search ends with 4 of 10 trials" in message


# --- constraints ------------------------------------------------------------------------------


def grid_sizes(architecture):
    x, y = architecture.genotype
    return {"num_params": 100.0 * (x + 1), "flops": 1000.0 * (y + 1)}


@pytest.mark.parametrize(
    ("sampler", "limits", "allowed"),
    [
        *((sampler, {"num_params": 500}, lambda x, y: x <= 4) for sampler in SAMPLERS),
        ("random", {"flops": 2999}, lambda x, y: y <= 1),
        ("random", {"num_params": 499, "flops": 5000}, lambda x, y: x <= 3 and y <= 4),
        ("random", {}, lambda x, y: True),
    ],
)
def test_what_exceeds_a_limit_is_never_evaluated(sampler, limits, allowed, log):
    storage, executor = InMemoryStorage(), Instant()
    constraints = Constraints(**limits)
    task = make_task(sampler=sampler, constraints=constraints, sizes=grid_sizes)
    outcome = search(task, log, storage, executor)
    assert len(outcome.trials) == 12
    assert all(allowed(*architecture.genotype) for architecture in executor.submitted)
    pruned = [t for t in optuna_trials(storage) if t.state is TrialState.PRUNED]
    assert outcome.num_infeasible == len(pruned)
    assert (len(pruned) > 0) == bool(limits)
    for trial in pruned:
        assert not allowed(trial.params["x"], trial.params["y"])
        assert trial.user_attrs["reason"].startswith("exceeds search.constraints: ")


def test_constraints_that_nothing_satisfies(log):
    asked, executor = [], Instant()

    def sizes(architecture):
        asked.append(grid_sizes(architecture))
        return asked[-1]

    task = make_task(sizes=sizes, constraints=Constraints(num_params=99, flops=2000))
    with pytest.raises(StudyError) as caught:
        search(task, log, executor=executor)
    assert executor.submitted == []
    smallest = {name: min(size[name] for size in asked) for name in ("num_params", "flops")}
    message = str(caught.value)
    assert f"num_params {smallest['num_params']:,.0f}" in message
    assert f"flops {smallest['flops']:,.0f}" in message
    assert "search.constraints" in message
    assert "raise the limits" in message


def test_what_cannot_be_built_has_no_size_and_fails_in_its_evaluation(log):
    def sizes(architecture):
        return {} if architecture.genotype[0] == 5 else grid_sizes(architecture)

    evaluators = Evaluators(reason=lambda a: "cannot be built" if a.genotype[0] == 5 else "")
    task = make_task(evaluators, n_trials=30, sizes=sizes, constraints=Constraints(num_params=800))
    outcome = search(task, log)
    failed = [e.architecture for _, e, score in outcome.trials if score is None]
    assert failed
    assert all(architecture.genotype[0] == 5 for architecture in failed)


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_failures_do_not_stop_the_search(sampler, log):
    evaluators = Evaluators(reason=lambda a: "odd" if sum(a.genotype) % 2 else "")
    outcome = search(make_task(evaluators, sampler=sampler, n_trials=20), log)
    assert len(outcome.trials) == 20
    for _, evaluation, score in outcome.trials:
        odd = sum(evaluation.architecture.genotype) % 2 == 1
        assert (score is None) == odd == (evaluation.reason == "odd")
    assert {score is None for _, _, score in outcome.trials} == {True, False}


def test_search_in_which_everything_fails_ends_early_with_the_reason(log):
    reasons = itertools.cycle(["no memory", "no memory", "diverged"])
    evaluators = Evaluators(reason=lambda a: next(reasons))
    with pytest.raises(StudyError, match=r"all 8 .* failed, 6 of them because: no memory"):
        search(make_task(evaluators, n_trials=50), log)
    assert len(evaluators.counts) == 8


@pytest.mark.parametrize("num_workers", [1, 2])
def test_short_search_in_which_everything_fails_is_no_success(num_workers, log):
    evaluators, storage = Evaluators(reason=lambda a: "no memory"), InMemoryStorage()
    for _ in range(2):  # and neither is looking at it again
        with pytest.raises(StudyError, match=r"all 3 .* failed, 3 of them because: no memory"):
            search(make_task(evaluators, n_trials=3), log, storage, Instant(num_workers))
    assert len(evaluators.counts) == 3


def test_late_success_after_many_failures(log):
    count = itertools.count(1)
    evaluators = Evaluators(reason=lambda a: "no memory" if next(count) != 7 else "")
    outcome = search(make_task(evaluators, n_trials=20), log)
    assert [score is None for _, _, score in outcome.trials].index(False) == 6
    assert len(outcome.trials) == 20


def test_error_of_the_executor_ends_the_search(log):
    class Gone(Instant):
        def submit(self, factory, architecture, seed):
            future = Future()
            future.set_exception(UserError("the proxy data set is gone"))
            return future

    with pytest.raises(UserError, match="the proxy data set is gone"):
        search(make_task(), log, executor=Gone())


# --- reproducible -----------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_searches_the_same(sampler, tmp_path):
    def run(name, seed):
        task = make_task(sampler=sampler, n_trials=16)
        object.__setattr__(task, "seed", seed)
        evaluators = Evaluators()
        evaluators.evaluate = lambda a, s: Evaluation(
            a, evaluators.fidelity, s, Status.COMPLETE, {"val_accuracy": hill(a)}
        )
        object.__setattr__(task, "factory", evaluators)
        return architectures(search(task, EvaluationLog(tmp_path / name)))

    assert run("first", 1) == run("second", 1) != run("third", 2)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "regularized_evolution"])
def test_who_finishes_first_does_not_matter(sampler, pool, tmp_path):
    """Two workers: whatever the delays, the same is asked in the same order."""
    found = []
    executors = [Instant(2), *(Threads(pool, 2, delays) for delays in (1, 2, 3))]
    for number, executor in enumerate(executors):
        log = EvaluationLog(tmp_path / str(number))
        evaluators = Evaluators(reason=lambda a: "corner" if sum(a.genotype) < 3 else "")
        task = make_task(evaluators, sampler=sampler, n_trials=24)
        outcome = search(task, log, executor=executor)
        assert set(evaluators.counts.values()) == {1}
        assert {e.architecture for e in log} == set(architectures(outcome))
        found.append((executor.submitted, outcome))
    assert all(later == found[0] for later in found[1:])


# --- better than chance -----------------------------------------------------------------------


def convolutions(architecture):
    """Smooth: every edge adds its part, and later edges weigh more."""
    worth = dict(zip(OPERATIONS, (0, 2, 3, 5, 1), strict=True))
    return sum(weight * worth[name] for weight, name in enumerate(architecture.genotype, start=2))


def mean_of_the_last_third(sampler, log):
    task = make_task(
        Evaluators(convolutions),
        space=NASBench201Space(),
        sampler=sampler,
        n_trials=75,
        population_size=15,
    )
    scores = [score for _, _, score in search(task, log).trials]
    return sum(scores[50:]) / 25


def test_evolution_and_tpe_learn_and_random_does_not(tmp_path):
    means = {
        name: mean_of_the_last_third(name, EvaluationLog(tmp_path / name)) for name in SAMPLERS
    }
    chance = sum(range(2, 8)) * (0 + 2 + 3 + 5 + 1) / 5
    # One draw has a deviation of about 20; twenty-five of them, 4.
    assert abs(means["random"] - chance) < 12
    assert means["regularized_evolution"] > means["random"] + 20
    assert means["tpe"] > means["random"] + 20
    assert means["nsga2"] > means["random"]


# --- killed and continued ---------------------------------------------------------------------


class Killed(BaseException):
    """The program ends here."""


@contextmanager
def killed_at(event_number, monkeypatch, executor):
    """Die just before or just after the given one of the moments that change what is stored."""
    events = itertools.count(1)

    def instrument(owner, name):
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            if next(events) == event_number:
                raise Killed(f"before {name}")
            answer = original(*args, **kwargs)
            if next(events) == event_number:
                raise Killed(f"after {name}")
            return answer

        patch.setattr(owner, name, wrapped)

    with monkeypatch.context() as patch:
        for name in ("ask", "tell", "enqueue_trial"):
            instrument(optuna.Study, name)
        instrument(optuna.Trial, "set_user_attr")
        instrument(EvaluationLog, "append")
        instrument(executor, "submit")
        yield


NUM_EVENTS = 52  # ask, set_user_attr, submit, append and tell of five trials, before and after


@pytest.mark.parametrize("event", range(1, NUM_EVENTS, 4))
def test_killed_anywhere_and_continued(event, monkeypatch, tmp_path):
    storage, evaluators = InMemoryStorage(), Evaluators()
    path = tmp_path / "log.jsonl"
    task = make_task(evaluators, n_trials=5)
    first = Instant()
    with killed_at(event, monkeypatch, first), pytest.raises(Killed):
        search(task, EvaluationLog(path), storage, first)
    finished = {e.architecture for e in EvaluationLog(path)}
    assert set(first.submitted) - finished == set(first.submitted[len(finished) :])
    check_continued(task, storage, path, evaluators, {*finished, *first.submitted})


@pytest.mark.parametrize("event", range(1, 70, 9))
def test_killed_anywhere_with_several_in_flight(event, monkeypatch, tmp_path, pool):
    storage, evaluators = InMemoryStorage(), Evaluators()
    path = tmp_path / "log.jsonl"
    task = make_task(evaluators, n_trials=7)
    first = Threads(pool, 2, event)
    with killed_at(event, monkeypatch, first), pytest.raises(Killed):
        search(task, EvaluationLog(path), storage, first)
    pool.submit(int).result()
    check_continued(task, storage, path, Evaluators(), {*first.submitted})


@pytest.mark.parametrize("event", range(1, 30, 2))
def test_killed_again_while_it_takes_up_its_work(event, monkeypatch, tmp_path, pool):
    """Four trials are in flight; the next process dies while it puts them back."""
    storage, path = InMemoryStorage(), tmp_path / "log.jsonl"
    task = make_task(Evaluators(), n_trials=7)
    first, second = Instant(2), Instant(2)
    with killed_at(25, monkeypatch, first), pytest.raises(Killed, match="append"):
        search(task, EvaluationLog(path), storage, first)
    assert len(first.submitted) == 4
    with killed_at(event, monkeypatch, second), pytest.raises(Killed):
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
    assert open_storage(url, tmp_path) == url
    evaluators = Evaluators()
    for n_trials in (2, 4):
        outcome = search(make_task(evaluators, n_trials=n_trials), EvaluationLog(path), url)
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
