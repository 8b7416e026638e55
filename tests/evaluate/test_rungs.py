"""Evaluations in several jobs: together they are the evaluation in one."""

from dataclasses import dataclass, replace

import pytest

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.core.packing import pack, unpack
from nas_proxy.errors import StudyError
from nas_proxy.evaluate.executors import PartFactory, open_executor
from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.evaluate.rungs import (
    CheckpointFactory,
    SeedFactory,
    continued,
    discard_state,
    with_next_seed,
)
from nas_proxy.types import Evaluation, Status
from tests.evaluate.helpers_fakes import ARCHITECTURE, FakeScore, evaluator, settings, small_net
from tests.evaluate.test_kept import DroppingNet, Killed
from tests.evaluate.test_network import without_seconds

SEED = 5
CHECKPOINTS = (25, 50, 75)
ENDS = (*CHECKPOINTS, None)


@dataclass(frozen=True, eq=False)
class Whole:
    """A factory of what was made before; it counts how often it was asked."""

    evaluator: NetworkEvaluator
    built: list

    @property
    def fidelity(self):
        return self.evaluator.fidelity

    def build(self):
        self.built.append(1)
        return self.evaluator


def whole(**changes):
    """Two trainings with dropout and batch norm, after a zero-cost score."""
    chosen = {"num_steps": 12, "checkpoints": CHECKPOINTS, "num_seeds": 2, **changes}
    scores = {"fake": FakeScore()}
    return Whole(
        evaluator(
            lambda space, spec: DroppingNet(small_net(space, spec)),
            train_settings=settings(norm_statistics="recalibrated", **chosen),
            scores=scores,
        ),
        [],
    )


def jobs(factory, folder):
    return [
        CheckpointFactory(factory, folder, end, is_first=number == 0)
        for number, end in enumerate(ENDS)
    ]


@pytest.fixture(autouse=True)
def nobody_is_killed():
    DroppingNet.steps_seen = DroppingNet.killed_at = 0


def test_a_training_in_several_jobs_is_the_training_in_one(tmp_path):
    factory = whole()
    expected = factory.evaluator.evaluate(ARCHITECTURE, SEED)
    together, rungs = None, []
    for job in jobs(factory, tmp_path):
        DroppingNet.steps_seen = 0
        found = job.build().evaluate(ARCHITECTURE, SEED)
        assert DroppingNet.steps_seen == 2 * 3  # of two trainings, what is new
        assert ("fake" in found.signals) == (together is None)
        together = found if together is None else continued(together, found)
        rungs.append((together.status, together.rung))
        measured = {f"{name}@{p}" for name in ("val_loss", "train_loss_mean") for p in CHECKPOINTS}
        reached = {name for name in measured if int(name.partition("@")[2]) <= (found.rung or 100)}
        assert measured & together.signals.keys() == reached
        assert ("val_loss" in together.signals) == together.complete
        assert Evaluation.from_json(together.to_json()) == together
    assert rungs == [(Status.PARTIAL, p) for p in CHECKPOINTS] + [(Status.COMPLETE, 0)]
    assert without_seconds(together) == without_seconds(expected)
    discard_state(tmp_path, ARCHITECTURE)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_several_jobs_cost_is_added_up(tmp_path):
    found = [job.build().evaluate(ARCHITECTURE, SEED) for job in jobs(whole(), tmp_path)[:2]]
    together = continued(*found)
    for name in ("seconds", "core_seconds"):
        assert getattr(together, name) == sum(getattr(each, name) for each in found)
    assert together.signal_seconds["training"] == sum(e.signal_seconds["training"] for e in found)
    failed = replace(found[1], status=Status.FAILED, signals={}, reason="diverged", rung=0)
    assert continued(found[0], failed).seconds == together.seconds
    assert continued(found[0], failed).signals == {}


def test_a_job_that_was_killed_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpointer, "is_due", True)
    factory = whole(num_seeds=1)
    expected = factory.evaluator.evaluate(ARCHITECTURE, SEED)
    first, second, *_, last = jobs(factory, tmp_path)
    first.build().evaluate(ARCHITECTURE, SEED)
    DroppingNet.steps_seen, DroppingNet.killed_at = 0, 2
    with pytest.raises(Killed):
        second.build().evaluate(ARCHITECTURE, SEED)
    DroppingNet.killed_at = 0
    second.build().evaluate(ARCHITECTURE, SEED)
    # Killed after it, before anybody knew: asked again, it trains nothing.
    DroppingNet.steps_seen = 0
    again = second.build().evaluate(ARCHITECTURE, SEED)
    assert DroppingNet.steps_seen == 0
    assert again.rung == 50
    found = last.build().evaluate(ARCHITECTURE, SEED)  # over a rung that nobody asked for
    own = {name: v for name, v in expected.signals.items() if name not in ("fake", "train_seconds")}
    assert own.items() <= found.signals.items()


def test_a_damaged_state_ends_the_study_and_blames_no_architecture(tmp_path):
    first, second, *_ = jobs(whole(), tmp_path)
    first.build().evaluate(ARCHITECTURE, SEED)
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(StudyError, match="is damaged .*; delete it to train anew"):
        second.build().evaluate(ARCHITECTURE, SEED)


def test_checkpoints_at_one_step_are_rungs_of_their_own(tmp_path):
    factory = whole(num_steps=2)
    for job, reached in zip(jobs(factory, tmp_path), (1, 1, 1, 2), strict=True):
        found = job.build().evaluate(ARCHITECTURE, SEED)
        assert len(found.train_losses) == reached
        assert found.complete or f"val_loss@{found.rung}" in found.signals


def test_trainings_with_different_seeds_are_jobs_too():
    factory = whole(num_seeds=3)
    expected = factory.evaluator.evaluate(ARCHITECTURE, SEED)
    together = None
    for index in range(3):
        found = SeedFactory(factory, index).build().evaluate(ARCHITECTURE, SEED)
        together = found if together is None else with_next_seed(together, found)
        assert together.rung == (index + 1) % 3
        assert together.complete == (index == 2)
        assert len(together.seed_signals) == index + 1
    losses = together.train_losses
    assert losses == pytest.approx(expected.train_losses)
    exact = replace(together, train_losses=expected.train_losses)
    assert without_seconds(exact) == without_seconds(expected)


def test_an_executor_loads_the_images_once_for_all_jobs(tmp_path):
    factory = whole()
    parts = [*jobs(factory, tmp_path), *(SeedFactory(factory, index) for index in range(2))]
    assert all(isinstance(part, PartFactory) for part in parts)
    with open_executor("serial", 1) as executor:
        done = [executor.submit(part, ARCHITECTURE, SEED).result() for part in parts]
        executor.submit(factory, ARCHITECTURE, SEED)
    assert len(factory.built) == 1
    assert [bool(e.build_seconds) for e in done] == [True, *[False] * 5]
    assert unpack(pack(done[0])) == done[0]
