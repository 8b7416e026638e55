import itertools
import json
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas_proxy.core.files import drop_partial_line
from nas_proxy.errors import StudyError
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.reproducibility import canonical_json
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status

FINITE = st.floats(allow_nan=False, allow_infinity=False)
SIGNALS = st.dictionaries(st.text(max_size=8), FINITE, max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
EVALUATIONS = st.builds(
    Evaluation,
    architecture=st.builds(Architecture, st.text(max_size=8), JSON),
    fidelity=st.builds(
        Fidelity,
        dataset_id=st.text(max_size=8),
        num_steps=st.integers(0),
        batch_size=st.integers(0),
        image_size=st.integers(0),
        space_fidelity=st.dictionaries(st.text(max_size=8), st.integers(), max_size=2),
        num_seeds=st.integers(1, 9),
    ),
    seed=st.integers(0, 2**63),
    status=st.sampled_from(Status),
    signals=SIGNALS,
    seed_signals=st.lists(SIGNALS, max_size=2).map(tuple),
    train_losses=st.lists(FINITE, max_size=4).map(tuple),
    phases=st.lists(st.tuples(st.text(max_size=5), st.integers(0)), max_size=2).map(tuple),
    signal_seconds=SIGNALS,
    seconds=FINITE,
    reason=st.text(max_size=30),
)


def evaluation(number, seed=0, **more):
    signals = {"val_loss": 1 / (number + 3)}
    architecture, fidelity = Architecture("s", number), Fidelity("d", 1, 1, 8)
    return Evaluation(architecture, fidelity, seed, Status.COMPLETE, signals, **more)


def log_of(path, numbers):
    log = EvaluationLog(path)
    for number in numbers:
        log.append(evaluation(number))
    return log


# --- round trips ------------------------------------------------------------------------------


@settings(max_examples=60)
@given(EVALUATIONS)
def test_evaluation_survives_json(original):
    text = canonical_json(original.to_json())
    assert Evaluation.from_json(json.loads(text)) == original


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(EVALUATIONS, max_size=4, unique_by=lambda e: (e.architecture.id, e.seed)))
def test_log_gives_back_what_was_appended(tmp_path, evaluations):
    path = tmp_path / "log.jsonl"
    path.unlink(missing_ok=True)
    log = EvaluationLog(path)
    for original in evaluations:
        log.append(original)
    for reader in (log, EvaluationLog(path)):
        assert list(reader) == evaluations
        assert len(reader) == len(evaluations)
        assert [reader.get(e.architecture, e.seed) for e in evaluations] == evaluations


def test_no_file_before_the_first_evaluation_and_folders_are_made_with_it(tmp_path):
    path = tmp_path / "search" / "evaluations.jsonl"
    log = EvaluationLog(path)
    assert len(log) == 0
    assert list(log) == []
    assert log.get(Architecture("s", 0), 0) is None
    assert not path.parent.exists()
    log.append(evaluation(0))
    assert path.read_bytes().count(b"\n") == 1


def test_seed_and_architecture_both_tell_evaluations_apart(tmp_path):
    log = EvaluationLog(tmp_path / "log.jsonl")
    log.append(evaluation(0, seed=1))
    assert log.get(Architecture("s", 0), 1) == evaluation(0, seed=1)
    assert log.get(Architecture("s", 0), 2) is None
    assert log.get(Architecture("s", 1), 1) is None
    assert log.get(Architecture("other space", 0), 1) is None


def test_failures_are_kept_like_results(tmp_path):
    path = tmp_path / "log.jsonl"
    failure = replace(evaluation(0), status=Status.FAILED, signals={}, reason="diverged\nbadly")
    EvaluationLog(path).append(failure)
    assert EvaluationLog(path).get(failure.architecture, 0) == failure


# --- what a kill leaves -----------------------------------------------------------------------


@pytest.mark.parametrize("kept", [1, 10, -1])
def test_partial_last_line_is_dropped_and_the_file_goes_on(tmp_path, kept):
    path = tmp_path / "log.jsonl"
    log_of(path, [0, 1])
    whole = path.read_bytes()
    line = canonical_json(evaluation(2).to_json()).encode() + b"\n"
    path.write_bytes(whole + line[:kept])
    log = EvaluationLog(path)
    assert list(log) == [evaluation(0), evaluation(1)]
    assert path.read_bytes() == whole
    log.append(evaluation(2))
    assert path.read_bytes() == whole + line
    assert list(EvaluationLog(path)) == [evaluation(n) for n in range(3)]


def test_file_of_one_partial_line_becomes_empty(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"architecture')
    assert len(EvaluationLog(path)) == 0
    assert path.read_bytes() == b""


def test_file_that_ends_well_is_not_touched(tmp_path):
    path = tmp_path / "log.jsonl"
    log_of(path, range(3))
    before = path.read_bytes(), path.stat().st_mtime_ns
    drop_partial_line(path)
    EvaluationLog(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    drop_partial_line(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def broken(line, **changes):
    value = {**json.loads(line), **changes}
    return json.dumps({k: v for k, v in value.items() if v is not ...}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:40],
        lambda _: b"",
        lambda _: b"null",
        lambda _: b"[1, 2]",
        lambda _: b"\x00\x00\x00",
        lambda line: line[:20] + b"\xff\xfe" + line[22:],
        lambda line: broken(line, seed=...),
        lambda line: broken(line, status="done"),
        lambda line: broken(line, verdict=1),
        lambda line: broken(line, fidelity={"num_epochs": 3}),
        lambda line: broken(line, architecture="c0"),
        lambda line: broken(line, train_losses=None),
    ],
    ids=itertools.count(),
)
def test_damaged_line_in_the_middle_is_refused_with_its_number(tmp_path, damage):
    path = tmp_path / "log.jsonl"
    log_of(path, range(3))
    lines = path.read_bytes().splitlines()
    lines[1] = damage(lines[1])
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(StudyError, match=r"log.jsonl, line 2, is damaged .*remove the line"):
        EvaluationLog(path)
    # The advice helps.
    path.write_bytes(b"\n".join([lines[0], lines[2]]) + b"\n")
    assert [e.architecture.genotype for e in EvaluationLog(path)] == [0, 2]


WRITER = """
import itertools, sys
from pathlib import Path
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status

log = EvaluationLog(Path(sys.argv[1]))
for number in itertools.count(len(log)):
    signals = {"val_loss": 1 / (number + 3)}
    architecture, fidelity = Architecture("s", number), Fidelity("d", 1, 1, 8)
    log.append(Evaluation(architecture, fidelity, 0, Status.COMPLETE, signals))
    print(number, flush=True)
"""


def test_nothing_finished_is_lost_when_the_writer_is_killed(tmp_path):
    path = tmp_path / "log.jsonl"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        while int(writer.stdout.readline()) < 50:
            pass
        writer.send_signal(signal.SIGKILL)
        reported = [int(line) for line in writer.stdout]
    assert writer.returncode == -signal.SIGKILL
    last = max(reported, default=50)
    log = EvaluationLog(path)
    assert len(log) in (last + 1, last + 2)  # killed before it could report the last
    assert list(log) == [evaluation(number) for number in range(len(log))]
    log.append(evaluation(len(log)))
    assert list(EvaluationLog(path)) == [evaluation(number) for number in range(len(log))]


def test_evaluations_from_before_there_were_phases_are_read(tmp_path):
    line = evaluation(1).to_json()
    del line["phases"]
    path = tmp_path / "log.jsonl"
    path.write_text(canonical_json(line) + "\n")
    assert list(EvaluationLog(path)) == [evaluation(1)]
