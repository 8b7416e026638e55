"""A distillation that is killed: what it leaves behind, and how it goes on from there."""

import json
import math
from dataclasses import replace
from functools import cache
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nas_proxy.core import checkpoint as checkpoint_module
from nas_proxy.core import costs
from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.distill.common.synthetic import SyntheticImages
from nas_proxy.distill.distribution_matching import DistributionMatching
from nas_proxy.distill.gradient_matching import GradientMatching
from nas_proxy.distill.layerwise_matching import LayerwiseMatching
from nas_proxy.errors import StudyError
from nas_proxy.reproducibility import make_generator
from nas_proxy.testing import tiny_dataset
from tests.distill.helpers import SMALL, Log, distill

DM = DistributionMatching(num_steps=4, **SMALL)
METHODS = {
    "dm": DM,
    "dm_plain": replace(DM, image_momentum=0.0, augment=""),
    "dm_adam": replace(DM, image_optimiser="adam", image_learning_rate=0.01),
    "dm_lamb": replace(DM, image_optimiser="lamb", image_learning_rate=0.01),
    "dm_whitened_tiles": replace(DM, zca=0.1, decode_factor=2),
    "datadam": LayerwiseMatching(num_steps=4, **SMALL),
    "dsa": GradientMatching(num_steps=4, outer_loop=2, inner_loop=1, augment="color_crop", **SMALL),
    "idc": replace(GradientMatching.idc(2), num_steps=4, outer_loop=2, real_steps=1, **SMALL),
}


@pytest.fixture
def always_due(monkeypatch):
    """Every step is checkpointed, however short it was."""
    never = property(lambda self: -math.inf, lambda self, value: None)
    monkeypatch.setattr(Checkpointer, "_saved_at", never, raising=False)


@pytest.fixture
def checkpoint(tmp_path):
    return tmp_path / "checkpoint.safetensors"


@cache
def never_killed(name):
    return distill(METHODS[name], seed=5)


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kills", [pytest.param([4], marks=pytest.mark.exhaustive), [1, 3]])
def test_a_killed_distillation_continues_to_the_identical_set(checkpoint, name, kills):
    undisturbed = never_killed(name)
    for step in kills:
        with pytest.raises(KeyboardInterrupt):
            distill(METHODS[name], seed=5, checkpoint=checkpoint, progress=Log(stop_after=step))
        assert checkpoint.exists()
        torch.rand(3)
    log = Log()
    continued = distill(METHODS[name], seed=5, checkpoint=checkpoint, progress=log)
    assert torch.equal(continued.images, undisturbed.images)
    assert continued.id == undisturbed.id
    assert log.steps == [(step, 4) for step in range(kills[-1] + 1, 5)]
    assert not checkpoint.exists()


@pytest.fixture
def interrupted(always_due, checkpoint):
    """A checkpoint after the second of four steps."""
    with pytest.raises(KeyboardInterrupt):
        distill(METHODS["dm"], checkpoint=checkpoint, progress=Log(stop_after=2))
    return checkpoint


def test_the_seconds_of_all_runs_are_added_up(always_due, checkpoint, monkeypatch):
    clock = count(0, 100)  # seconds between any two looks at it
    monkeypatch.setattr(costs, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    kept = checkpoint.with_name("costs.json")
    with pytest.raises(KeyboardInterrupt):
        distill(
            METHODS["dm"],
            checkpoint=checkpoint,
            costs=costs.CostMeter(kept),
            progress=Log(stop_after=2),
        )
    paid = costs.CostMeter(kept).seconds["distilling"]
    assert paid > 0
    once = distill(METHODS["dm"]).cost_seconds
    assert distill(METHODS["dm"], checkpoint=checkpoint, costs=costs.CostMeter(kept)).costs == {
        "distilling": paid + once
    }


@pytest.mark.parametrize(
    "other",
    [
        lambda path: distill(replace(METHODS["dm"], num_steps=5), checkpoint=path),
        lambda path: distill(replace(METHODS["dm"], image_learning_rate=2.0), checkpoint=path),
        lambda path: distill(replace(METHODS["dm"], augment="color"), checkpoint=path),
        lambda path: distill(METHODS["dm"], images_per_class=3, checkpoint=path),
        lambda path: distill(METHODS["dm"], seed=1, checkpoint=path),
        lambda path: distill(METHODS["dm"], labels="learned", checkpoint=path),
        lambda path: distill(METHODS["dsa"], checkpoint=path),
        lambda path: distill(
            METHODS["dm"], dataset=tiny_dataset(images_per_class=9), checkpoint=path
        ),
    ],
    ids=["num_steps", "rate", "augment", "images_per_class", "seed", "labels", "method", "data"],
)
def test_the_checkpoint_of_another_distillation_is_refused_and_kept(interrupted, other):
    before = interrupted.read_bytes()
    with pytest.raises(StudyError, match="other options, data or seed; delete it") as caught:
        other(interrupted)
    assert str(interrupted) in str(caught.value)
    assert interrupted.read_bytes() == before


def test_a_truncated_checkpoint_is_refused_with_the_way_out(interrupted):
    whole = interrupted.read_bytes()
    for length in (0, 5, 8, 60, len(whole) // 2, len(whole) - 1):
        interrupted.write_bytes(whole[:length])
        with pytest.raises(StudyError, match=r"is damaged \(.*\); delete it to distil anew"):
            distill(METHODS["dm"], checkpoint=interrupted)
        assert interrupted.stat().st_size == length


def test_a_flipped_bit_anywhere_in_a_checkpoint_is_noticed(interrupted):
    """Also one in a name, a step, a key, or a number that would be as good as any other."""
    whole = interrupted.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    state = json.loads(json.loads(whole[8:header])["__metadata__"]["state"])
    checkpointer = Checkpointer(interrupted, state["key"])
    assert checkpointer.load().step == 2
    places = [*range(8, header, 3), *range(header, len(whole), 997), len(whole) - 1]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        interrupted.write_bytes(damaged)
        with pytest.raises(StudyError, match=r"is damaged \(.*\); delete it to distil anew"):
            checkpointer.load()


@pytest.mark.parametrize(
    "header", [None, {}, {"state": "{"}, {"state": "[]"}, {"state": "3"}, {"state": "{}"}]
)
def test_a_checkpoint_of_another_program_is_refused(checkpoint, header):
    save_file({"images": torch.zeros(2)}, checkpoint, header)
    with pytest.raises(StudyError, match="is damaged .*; delete it to distil anew"):
        distill(METHODS["dm"], checkpoint=checkpoint)


def test_tensors_of_every_kind_come_back_as_they_were(checkpoint):
    tensors = {
        "bits": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "nothing": torch.zeros(0, 3),
        "transposed": torch.arange(6).view(2, 3).T,
        "half": torch.randn(3, generator=make_generator(0)).to(torch.bfloat16),
    }
    checkpointer = Checkpointer(checkpoint, "key")
    checkpointer.save(7, tensors, 1.5)
    state = checkpointer.load()
    assert (state.step, state.seconds) == (7, 1.5)
    assert state.tensors.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(state.tensors[name], value)
        assert state.tensors[name].dtype == value.dtype


def test_without_a_checkpoint_nothing_is_written(tmp_path, always_due, monkeypatch):
    monkeypatch.chdir(tmp_path)
    distill(METHODS["dm"])
    assert list(tmp_path.iterdir()) == []


def test_saving_takes_about_two_per_cent_of_the_time(checkpoint, monkeypatch):
    now = [0.0]
    saved_at = []

    def slow_write(path, data):
        saved_at.append(now[0])
        now[0] += 2.0

    monkeypatch.setattr(checkpoint_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(checkpoint_module, "write_atomically", slow_write)
    checkpointer = Checkpointer(checkpoint, "key")
    for step in range(5000):
        now[0] += 0.1
        checkpointer.save_if_due(step, {"images": torch.zeros(1)}, now[0])
    assert saved_at[0] == pytest.approx(1.0, abs=0.2)
    assert len(saved_at) == 5
    assert np.diff(saved_at) == pytest.approx(102, abs=0.2)


# The state of what is learned


def learner(optimiser):
    """Two images, and a learned scalar beside them."""
    images = torch.ones(2, 1, 2, 2, requires_grad=True)
    rate = torch.tensor(0.5, requires_grad=True)
    return SyntheticImages(
        images=images,
        classes=torch.arange(2),
        images_per_class=1,
        spec=tiny_dataset().spec,
        optimiser=optimiser([{"params": [images]}, {"params": [rate], "lr": 0.01}]),
        learning_rate=rate,
    )


OPTIMISERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    "plain": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.1),
}


def go_on(synthetic, num_steps):
    for _ in range(num_steps):
        synthetic.descend((synthetic.images**2).sum() * synthetic.learning_rate)
    return synthetic


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("num_steps", [0, 2])
def test_going_back_forgets_every_later_step(name, num_steps):
    synthetic = go_on(learner(OPTIMISERS[name]), num_steps)
    before = {key: value.detach().clone() for key, value in synthetic.state().items()}
    go_on(synthetic, 3).restore(before)
    assert synthetic.state().keys() == before.keys()
    for key, value in before.items():
        assert torch.equal(synthetic.state()[key], value), key
    again, straight = go_on(synthetic, 2), go_on(learner(OPTIMISERS[name]), num_steps + 2)
    assert torch.equal(again.images, straight.images)
    assert torch.equal(again.learning_rate, straight.learning_rate)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_another_process_continues_from_the_state(name):
    first = go_on(learner(OPTIMISERS[name]), 3)
    state = {key: value.detach().clone() for key, value in first.state().items()}
    other = learner(OPTIMISERS[name])
    other.restore(state)
    assert torch.equal(go_on(other, 2).images, go_on(first, 2).images)
