import contextlib
import json
import os
import pickle
import sys
import threading
import types
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from nas_proxy.data.sources import DataSettings
from nas_proxy.errors import UserError
from nas_proxy.evaluate import executors
from nas_proxy.evaluate.executors import evaluate_all, open_executor
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.scores.num_params import NumParams
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status
from tests.evaluate.helpers import (
    FIDELITY,
    PATIENCE_SECONDS,
    Scripted,
    ScriptedFactory,
    UntrainedFactory,
)

SPACE_FILE = """
import os
import signal
from dataclasses import dataclass

from nas_proxy.interfaces import SearchSpace
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.types import Architecture


@dataclass(frozen=True, kw_only=True)
class MySpace(SearchSpace):
    depth: int = 1

    def build(self, architecture, spec):
        wish = architecture.genotype
        if wish == "exit":
            os._exit(7)
        if wish == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if wish == "raise":
            raise ValueError("no such network")
        return ConvNet(
            spec.image_shape, spec.num_classes, width=4 * wish, depth=self.depth, norm="batch"
        )

    def suggest(self, trial):
        return Architecture(self.name, trial.suggest_int("width", 1, 4))

    def sample(self, generator):
        raise NotImplementedError

    def mutate(self, architecture, generator):
        raise NotImplementedError

    def encode(self, architecture):
        raise NotImplementedError
"""


@pytest.fixture(scope="module")
def file_space(tmp_path_factory):
    """A search space from a file that is not on the module search path."""
    file = tmp_path_factory.mktemp("plugins") / "my_space.py"
    file.write_text(SPACE_FILE)
    assert str(file.parent) not in sys.path
    return SEARCH_SPACES.get(f"{file}:MySpace")(depth=2)


@pytest.fixture(scope="module")
def processes(file_space, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_PROXY_CACHE", str(tmp_path_factory.mktemp("cache")))
        with open_executor("processes", 2) as executor:
            yield executor


@pytest.fixture
def log(tmp_path):
    return EvaluationLog(tmp_path / "log.jsonl")


def scripts(*genotypes):
    return [Architecture("scripted", genotype) for genotype in genotypes]


def network_factory(space, folder):
    """Of noise in files: scikit-learn's digits would take each worker seconds to import."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 15, 8, 8, 3), dtype=np.uint8)
    for (label, number), picture in zip(np.ndindex(2, 15), noise.reshape(30, 8, 8, 3), strict=True):
        file = folder / f"class{label}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
    return NetworkEvaluatorFactory(
        data=DataSettings(name="image_folder", root=str(folder), image_size=8),
        space=space,
        scores={"num_params": NumParams()},
        settings=TrainSettings(num_steps=3, batch_size=8, num_seeds=2),
        train_on="search_train",
        device="cpu",
        fidelity=Fidelity("d", 3, 8, 8, num_seeds=2),
    )


def without_seconds(evaluation):
    value = evaluation.to_json()
    for signals in (value["signals"], *value["seed_signals"]):
        signals.pop("train_seconds", None)
    for name in (
        "seconds",
        "core_seconds",
        "build_seconds",
        "signal_seconds",
        "started_unix_seconds",
    ):
        del value[name]
    return json.loads(json.dumps(value))


# --- evaluate_all, whatever the executor ------------------------------------------------------


@dataclass
class Recorder:
    """Answers at once; counts what it is asked."""

    num_workers: int = 1

    def __post_init__(self):
        self.submitted = []

    def submit(self, factory, architecture, seed):
        self.submitted.append(architecture)
        future = Future()
        future.set_result(
            Evaluation(architecture, FIDELITY, seed, Status.COMPLETE, {"n": architecture.genotype})
        )
        return future


def numbers(*values):
    """Widths of networks, where the evaluator builds any."""
    return [Architecture("s", value) for value in values]


def test_one_answer_for_each_in_their_order_and_each_is_evaluated_once(log):
    recorder = Recorder()
    found = evaluate_all(recorder, ScriptedFactory(), numbers(3, 1, 3, 2, 1), 0, log)
    assert [evaluation.signals["n"] for evaluation in found] == [3, 1, 3, 2, 1]
    assert recorder.submitted == numbers(3, 1, 2)
    assert len(log) == 3


def test_what_the_log_holds_is_not_evaluated_again(log):
    evaluate_all(Recorder(), ScriptedFactory(), numbers(1, 2), 0, log)
    recorder, calls = Recorder(), []
    again = evaluate_all(
        recorder, ScriptedFactory(), numbers(2, 3, 1), 0, log, lambda *call: calls.append(call)
    )
    assert recorder.submitted == numbers(3)
    assert [evaluation.signals["n"] for evaluation in again] == [2, 3, 1]
    assert calls == [(2, 3), (3, 3)]
    other_seed = Recorder()
    evaluate_all(other_seed, ScriptedFactory(), numbers(1), 1, log)
    assert other_seed.submitted == numbers(1)


def test_failures_are_answers_too(log):
    class Failing(Recorder):
        def submit(self, factory, architecture, seed):
            self.submitted.append(architecture)
            future = Future()
            future.set_result(
                Evaluation(architecture, FIDELITY, seed, Status.FAILED, reason="diverged")
            )
            return future

    failing = Failing()
    for _ in range(2):
        found = evaluate_all(failing, ScriptedFactory(), numbers(1, 2), 0, log)
        assert [evaluation.reason for evaluation in found] == ["diverged"] * 2
    assert failing.submitted == numbers(1, 2)


def test_nothing_to_do(log):
    assert evaluate_all(Recorder(), ScriptedFactory(), [], 0, log) == []


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_queue_is_kept_short(log, num_workers):
    """Thousands of waiting evaluations would make an interrupt slow and fill the memory."""
    most = 0

    class Counting(Recorder):
        def submit(self, factory, architecture, seed):
            nonlocal most
            future = Future()
            running.append((future, architecture))
            most = max(most, len(running))
            return future

    running, finish = [], threading.Event()

    def work():
        while not finish.is_set():
            for future, architecture in list(running):
                running.remove((future, architecture))
                future.set_result(Evaluation(architecture, FIDELITY, 0, Status.COMPLETE))

    worker = threading.Thread(target=work)
    worker.start()
    with contextlib.ExitStack() as stack:
        stack.callback(worker.join)
        stack.callback(finish.set)
        found = evaluate_all(Counting(num_workers), ScriptedFactory(), numbers(*range(60)), 0, log)
    assert [evaluation.architecture for evaluation in found] == numbers(*range(60))
    assert most <= 2 * num_workers


# --- in this process --------------------------------------------------------------------------


def test_serial_logs_each_result_before_the_next_evaluation(log):
    seen = []

    class Watching(ScriptedFactory):
        def build(self):
            return self

        def evaluate(self, architecture, seed):
            seen.append(len(log))
            return Evaluation(architecture, FIDELITY, seed, Status.COMPLETE)

    with open_executor("serial", 1) as executor:
        evaluate_all(executor, Watching(), numbers(1, 2, 3, 4, 5), 0, log)
    assert seen == [0, 1, 2, 3, 4]


def test_serial_builds_one_evaluator_for_each_factory():
    before = Scripted.num_built
    architecture = Architecture("scripted", ["pass", 0])
    first, second = ScriptedFactory(), ScriptedFactory(fidelity=Fidelity("other", 1, 1, 8))
    with open_executor("serial", 7) as executor:
        assert executor.num_workers == 1
        for factory in (first, first, ScriptedFactory(), second):
            answer = executor.submit(factory, architecture, 0).result()
            assert answer.fidelity == factory.fidelity
    assert Scripted.num_built - before == 2


def test_serial_hands_on_what_building_raises(log):
    with open_executor("serial", 1) as executor, pytest.raises(UserError, match="distil it again"):
        evaluate_all(executor, ScriptedFactory("user"), scripts(["pass", 0]), 0, log)


# --- in worker processes ----------------------------------------------------------------------


def test_processes_and_serial_give_identical_evaluations(file_space, processes, tmp_path):
    """Of a search space from a file, trained for real."""
    factory = network_factory(file_space, tmp_path / "images")
    architectures = numbers(1, 2, 3, "raise")
    logs = [EvaluationLog(tmp_path / name) for name in ("serial", "processes")]
    with open_executor("serial", 1) as serial:
        expected = evaluate_all(serial, factory, architectures, 5, logs[0])
    found = evaluate_all(processes, factory, architectures, 5, logs[1])
    assert [e.complete for e in found] == [True, True, True, False]
    assert found[3].reason == "ValueError: no such network"
    assert [without_seconds(e) for e in found] == [without_seconds(e) for e in expected]
    assert {e.architecture.id: without_seconds(e) for e in logs[0]} == {
        e.architecture.id: without_seconds(e) for e in EvaluationLog(tmp_path / "processes")
    }


def test_a_worker_that_dies_costs_its_own_evaluation_alone(file_space, processes, log):
    architectures = numbers(1, "exit", 2, "kill", 3)
    factory = UntrainedFactory(file_space, Fidelity("mine", 1, 2, 3))
    found = evaluate_all(processes, factory, architectures, 0, log)
    assert [e.complete for e in found] == [True, False, True, False, True]
    assert found[1].reason == "the worker process died (exit code 7)"
    assert "exit code -9" in found[3].reason
    assert "out of memory" in found[3].reason
    for evaluation, architecture in zip(found, architectures, strict=True):
        assert evaluation.architecture == architecture
        assert evaluation.fidelity == factory.fidelity
    assert found[1].signals == found[3].signals == {}
    for lost in (found[1], found[3]):
        assert lost.core_seconds == lost.seconds > 0


def test_the_building_of_an_evaluator_is_borne_by_its_first_evaluation(log):
    with open_executor("serial", 1) as serial:
        first = evaluate_all(serial, ScriptedFactory(), scripts(["pass", 0], ["pass", 1]), 0, log)
    assert [e.build_seconds > 0 for e in first] == [True, False]
    again = EvaluationLog(log._path)
    assert [e.build_seconds for e in again] == [e.build_seconds for e in first]


def test_a_worker_takes_the_next_job_when_one_ends(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(executors, "perf_counter", lambda: now[0])
    clock = executors._WorkerClock(2)
    first, second, third = (clock.queue() for _ in range(3))
    now[0] = 5.0
    assert [clock.seconds(each) for each in (first, second, third)] == [5.0, 5.0, 0.0]
    clock.end(second)
    now[0] = 7.0
    assert [clock.seconds(each) for each in (first, third)] == [7.0, 2.0]
    waiting, gone = clock.queue(), clock.queue()
    clock.end(gone)  # given up before it was begun
    clock.end(first)
    now[0] = 8.0
    assert clock.seconds(waiting) == 1.0


def test_results_are_logged_as_they_arrive(processes, log, tmp_path):
    """The first evaluation ends only once the second one is on the disk."""
    slow, quick = scripts(["wait_for", str(tmp_path / "go")], ["pass", 0])

    def progress(done, total, note=""):
        kept = EvaluationLog(tmp_path / "log.jsonl")
        assert len(kept) == done
        if kept.get(quick, 0) is not None:
            (tmp_path / "go").touch()

    found = evaluate_all(processes, ScriptedFactory(), [slow, quick], 0, log, progress)
    assert found[0].signals["in_time"] == 1.0


def test_each_worker_has_one_thread_and_builds_once(processes, log):
    scripted = scripts(*(["pass", n] for n in range(12)))
    found = evaluate_all(processes, ScriptedFactory(), scripted, 3, log)
    assert {e.signals["num_threads"] for e in found} == {1}
    assert {e.signals["val_loss"] for e in found} == {3.0}
    built = {(e.signals["process"], e.signals["num_built"]) for e in found}
    assert os.getpid() not in {process for process, _ in built}
    assert len(built) == len({process for process, _ in built}) <= 2


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("user", UserError, "the proxy data set is gone; distil it again"),
        ("boom", ArithmeticError, "boom"),
    ],
)
def test_what_building_raises_reaches_the_caller(processes, log, fault, kind, message):
    with pytest.raises(kind) as caught:
        evaluate_all(processes, ScriptedFactory(fault), scripts(["pass", 0], ["pass", 1]), 0, log)
    assert str(caught.value) == message
    assert len(log) == 0
    # The workers live on.
    assert evaluate_all(processes, ScriptedFactory(), scripts(["pass", 0]), 0, log)[0].complete


def test_factory_that_workers_cannot_import_is_an_error_not_a_wait(processes, monkeypatch, log):
    """As when a plug-in's file was edited while workers were replaced."""
    module = types.ModuleType("only_here")
    module.Late = type("Late", (ScriptedFactory,), {"__module__": "only_here"})
    monkeypatch.setitem(sys.modules, "only_here", module)
    future = processes.submit(module.Late(), *scripts(["pass", 0]), 0)
    with pytest.raises(ModuleNotFoundError, match="only_here"):
        future.result(timeout=PATIENCE_SECONDS)
    assert evaluate_all(processes, ScriptedFactory(), scripts(["pass", 0]), 0, log)[0].complete


def test_factory_that_cannot_be_sent_is_an_error(processes):
    class Local(ScriptedFactory):
        pass

    with pytest.raises((pickle.PicklingError, AttributeError), match="Local"):
        processes.submit(Local(), *scripts(["pass", 0]), 0).result(timeout=PATIENCE_SECONDS)
