"""A study trains in one precision and layout: what was measured when it began."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from nas_proxy.errors import EvaluationError, StudyError
from nas_proxy.evaluate.arithmetic import Arithmetic, StepTime
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.study import arithmetic as arithmetic_module
from nas_proxy.study.arithmetic import StudyArithmetic
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, DatasetSpec
from tests.helpers.display import Quiet
from tests.networks.helpers import make_spec

TRAIN = TrainSettings(num_steps=5)
MEASURED = Arithmetic(
    "another processor",
    "2.6",
    (StepTime("float32", False, 3.0), StepTime("bfloat16", True, 1.0)),
)


def study_arithmetic(folder: Path) -> StudyArithmetic:
    return StudyArithmetic(
        folder / "arithmetic.json", ConvNetSpace(), make_spec(8), TRAIN, torch.device("cpu"),
        Quiet(),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def machine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of a machine that has measured nothing."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NAS_PROXY_CACHE", str(folder))
    return folder


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was measured so far."""
    made: list[object] = []

    def measure(*arguments: object) -> Arithmetic:
        made.append(arguments)
        return MEASURED

    monkeypatch.setattr(arithmetic_module, "measure_arithmetic", measure)
    return made


def test_it_is_measured_once_kept_and_said(tmp_path: Path, measurements: list[object]) -> None:
    first = study_arithmetic(tmp_path)
    settled = first.settle(TRAIN)
    assert (settled.precision, settled.channels_last) == ("bfloat16", True)
    assert first.settle(replace(TRAIN, num_steps=9)) == replace(settled, num_steps=9)
    assert first.display.said[-1] == (
        "precision: bfloat16, channels last (float32, channels first 3 times its seconds)"
    )
    # Continued, on another machine: not measured again, and nothing is mixed.
    second = study_arithmetic(tmp_path)
    assert second.settle(TRAIN) == settled
    assert "as measured on another processor" in second.display.said[0]
    assert len(measurements) == 1


def test_settings_that_leave_nothing_open_measure_nothing(
    tmp_path: Path, measurements: list[object]
) -> None:
    told = replace(TRAIN, precision="float32", channels_last=False)
    assert study_arithmetic(tmp_path).settle(told) == told
    assert not measurements
    assert not list(tmp_path.iterdir())


def test_a_space_that_does_not_train_is_said_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Arithmetic:
        raise EvaluationError("none of 6 networks could be trained: ValueError: no such layer")

    monkeypatch.setattr(arithmetic_module, "measure_arithmetic", fail)
    found = study_arithmetic(tmp_path)
    settled = found.settle(TRAIN)
    assert (settled.precision, settled.channels_last) == ("float32", False)
    assert "no such layer" in found.display.said[-1]
    assert not list(tmp_path.iterdir())


def test_a_machine_measures_once_for_all_studies_of_the_same_networks(
    tmp_path: Path, machine: Path, measurements: list[object]
) -> None:
    settled = [study_arithmetic(tmp_path / name).settle(TRAIN) for name in ("one", "other")]
    assert settled[0] == settled[1]
    assert len(measurements) == 1
    wider = replace(study_arithmetic(tmp_path / "wider"), space=ConvNetSpace(widths=(8,)))
    wider.settle(TRAIN)
    assert len(measurements) == 2


def test_a_damaged_measurement_of_the_machine_is_made_anew(
    tmp_path: Path, machine: Path, measurements: list[object]
) -> None:
    study_arithmetic(tmp_path / "one").settle(TRAIN)
    (file,) = machine.rglob("*.json")
    file.write_text("{")
    study_arithmetic(tmp_path / "other").settle(TRAIN)
    assert len(measurements) == 2
    assert Arithmetic.read(file) == MEASURED


@pytest.mark.parametrize("text", ["{", '{"format": 1}'])
def test_a_damaged_measurement_of_the_study_is_refused_with_what_to_do(
    tmp_path: Path, machine: Path, measurements: list[object], text: str
) -> None:
    study = study_arithmetic(tmp_path)
    study.file.write_text(text)
    with pytest.raises(StudyError, match="is damaged; delete it") as raised:
        study.settle(TRAIN)
    assert str(study.file) in str(raised.value)


def test_two_studies_that_begin_together_take_one_measurement(
    tmp_path: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Barrier(2)
    calls = []

    def measure(*arguments: object) -> Arithmetic:
        calls.append(arguments)
        return replace(MEASURED, torch=f"measurement {len(calls)}")

    monkeypatch.setattr(arithmetic_module, "measure_arithmetic", measure)
    studies = [study_arithmetic(tmp_path / name) for name in ("one", "other")]

    def settle(study: StudyArithmetic) -> None:
        begun.wait()
        study.settle(TRAIN)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(settle, studies))
    assert len(calls) == 1
    assert studies[0].file.read_bytes() == studies[1].file.read_bytes()


def test_a_machine_that_can_keep_nothing_says_what_that_means(
    tmp_path: Path, machine: Path, measurements: list[object]
) -> None:
    (machine / "arithmetic").write_text("a file where the folder should be")
    found = study_arithmetic(tmp_path)
    assert found.settle(TRAIN).precision == "bfloat16"
    assert any("times anew and may choose otherwise" in said for said in found.display.said)


class Deadly(ConvNetSpace):
    """Its networks kill the process that builds them."""

    def build(self, architecture: Architecture, spec: DatasetSpec) -> nn.Module:
        os._exit(7)


@pytest.mark.exhaustive
def test_a_worker_measures_and_its_death_is_said(tmp_path: Path) -> None:
    small = ConvNetSpace(widths=(4,), depths=(1,))
    told = replace(study_arithmetic(tmp_path / "small"), space=small, in_worker=True)
    assert told.settle(TRAIN).precision != "auto"
    assert Arithmetic.read(told.file).step_times
    deadly = replace(study_arithmetic(tmp_path / "deadly"), space=Deadly(), in_worker=True)
    settled = deadly.settle(TRAIN)
    assert (settled.precision, settled.channels_last) == ("float32", False)
    assert "the worker process died (exit code 7)" in deadly.display.said[-1]
