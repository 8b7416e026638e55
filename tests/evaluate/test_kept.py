"""Trainings whose weights stay: they continue after a kill and are measured on the test split."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.data.transforms import normalise
from nas_proxy.errors import StudyError
from nas_proxy.evaluate._kept import KeptTraining
from nas_proxy.evaluate.factory import training_fidelity
from nas_proxy.evaluate.final_test import FinalTestFactory
from nas_proxy.evaluate.network import NetworkEvaluator, training_seed
from nas_proxy.reproducibility import isolated_rng
from tests.evaluate.helpers_fakes import ARCHITECTURE, FakeSpace, evaluator, settings, small_net
from tests.evaluate.test_network import without_seconds

SEED = 5
TRAIN = settings(num_steps=12, checkpoints=(25, 50, 75), norm_statistics="recalibrated")


class Killed(BaseException):
    """As Ctrl-C: nothing catches it."""


class DroppingNet(nn.Module):
    """Draws from the global generator, and is killed at a training step if it is told to."""

    steps_seen = 0
    killed_at = 0

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            DroppingNet.steps_seen += 1
            if DroppingNet.steps_seen == DroppingNet.killed_at:
                raise Killed
            images = nn.functional.dropout(images, 0.1)
        return self.network(images)  # type: ignore[no-any-return]


def kept_evaluator(folder: Path) -> NetworkEvaluator:
    made = evaluator(lambda space, spec: DroppingNet(small_net(space, spec)), train_settings=TRAIN)
    return replace(made, keep=folder)


def run(folder: Path, killed_at: int = 0) -> tuple[Any, dict[str, torch.Tensor], int]:
    """The evaluation without clocks, the kept weights, and the training steps it took."""
    DroppingNet.steps_seen, DroppingNet.killed_at = 0, killed_at
    evaluation = kept_evaluator(folder).evaluate(ARCHITECTURE, SEED)
    assert evaluation.complete, evaluation.reason
    kept = KeptTraining.of(folder, ARCHITECTURE, training_seed(SEED))
    return without_seconds(evaluation), load_file(kept.weights_file), DroppingNet.steps_seen


@pytest.fixture
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpointer, "is_due", True)


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("killed_at", [2, 7, 11])
def test_a_killed_training_continues_to_the_same_result(killed_at: int, tmp_path: Path) -> None:
    expected, weights, _ = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", killed_at)
    found, found_weights, steps = run(tmp_path / "killed")
    assert steps == 12 - (killed_at - 1)
    assert found == expected
    assert {"val_loss@25", "val_loss@50", "val_loss@75"} <= found["signals"].keys()
    assert found_weights.keys() == weights.keys()
    assert all(value.equal(weights[name]) for name, value in found_weights.items())


def test_keeping_changes_nothing_and_weights_are_those_that_were_measured(tmp_path: Path) -> None:
    without = kept_evaluator(tmp_path)
    without = replace(without, keep=None)
    DroppingNet.killed_at = 0
    plain = without_seconds(without.evaluate(ARCHITECTURE, SEED))
    kept, weights, _ = run(tmp_path)
    assert kept == plain
    with isolated_rng(0):
        network = without.space.build(ARCHITECTURE, without.spec)
    KeptTraining.of(tmp_path, ARCHITECTURE, training_seed(SEED)).restore(network)
    assert without.evaluation_data is not None
    judge = without.evaluation_data.measured_on
    with torch.no_grad():
        logits = network.eval()(normalise(judge.images, judge.spec))
    accuracy = float((logits.argmax(dim=1) == judge.labels).float().mean())
    assert accuracy == pytest.approx(kept["signals"]["val_accuracy"])


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("file", ["checkpoint", "measurements"])
def test_what_is_damaged_ends_the_study_and_blames_no_architecture(
    file: str, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, 8)
    kept = KeptTraining.of(tmp_path, ARCHITECTURE, training_seed(SEED))
    if file == "checkpoint":
        (damaged,) = kept.checkpoint_file.parent.glob("*.safetensors")
    else:
        damaged = kept.measurements_file
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(StudyError, match=r"(is|are) damaged .*; delete (it|them)"):
        run(tmp_path)


@pytest.mark.usefixtures("always_due")
def test_another_training_does_not_continue_it(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, 8)
    slower = replace(TRAIN, learning_rate=0.01)
    other = replace(kept_evaluator(tmp_path), settings=slower)
    with pytest.raises(StudyError, match="belongs to a training with other options, data or seed"):
        other.evaluate(ARCHITECTURE, SEED)


def test_a_full_disk_ends_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: KeptTraining, network: nn.Module) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(KeptTraining, "save", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path)


def final_test(folder: Path, **changes: Any) -> FinalTestFactory:
    data = DataSettings()
    train = settings(**changes)
    return FinalTestFactory(
        data=data,
        space=FakeSpace(),
        settings=train,
        device="cpu",
        fidelity=training_fidelity(train, load_splits(data).spec, "d", 10),
        keep=folder,
    )


def keep_network(factory: FinalTestFactory, spec: Any) -> nn.Module:
    with isolated_rng(3):
        network = small_net(replace(FakeSpace(), **factory.settings.space_fidelity), spec)
    KeptTraining.of(factory.keep, ARCHITECTURE, training_seed(SEED)).save(network)
    return network.eval()


def test_kept_networks_are_measured_on_the_test_split(tmp_path: Path) -> None:
    factory = final_test(tmp_path, space_fidelity={"width": 4})
    splits = load_splits(factory.data)
    network = keep_network(factory, splits.spec)
    found = factory.build().evaluate(ARCHITECTURE, SEED)
    with torch.no_grad():
        logits = network(normalise(splits.test.images, splits.spec))
    taken = logits.argmax(dim=1)
    assert found.signals["test_accuracy"] == pytest.approx(
        float((taken == splits.test.labels).float().mean())
    )
    expected = nn.functional.cross_entropy(logits, splits.test.labels)
    assert found.signals["test_loss"] == pytest.approx(float(expected), rel=1e-5)
    assert sum(map(sum, found.confusion)) == len(splits.test)
    assert json.dumps(found.to_json())


def test_weights_that_are_missing_or_of_another_network_are_said(tmp_path: Path) -> None:
    factory = final_test(tmp_path)
    with pytest.raises(StudyError, match="are missing or damaged .*; pass --force"):
        factory.build().evaluate(ARCHITECTURE, SEED)
    narrow = final_test(tmp_path, space_fidelity={"width": 4})
    keep_network(narrow, load_splits(factory.data).spec)
    with pytest.raises(StudyError, match="are missing or damaged .*size mismatch"):
        factory.build().evaluate(ARCHITECTURE, SEED)


class Drawn(nn.Module):
    """Holds something that is drawn when it is built, and that no file of weights has."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("scale", torch.rand(()), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images) * self.scale  # type: ignore[no-any-return]


def test_a_network_that_its_weights_do_not_bring_back_is_refused(tmp_path: Path) -> None:
    made = evaluator(lambda space, spec: Drawn(small_net(space, spec)), train_settings=TRAIN)
    assert made.evaluate(ARCHITECTURE, SEED).complete  # nobody uses its weights
    found = replace(made, keep=tmp_path).evaluate(ARCHITECTURE, SEED)
    assert "do not bring the trained network back" in found.reason
