"""A training whose steps are one CUDA graph each, on a stand-in that repeats operations alone."""

import dataclasses
import logging
import random

import pytest
import torch
from torch import nn

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.augment import Augmentation
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.train import graphed
from nas_proxy.train.graphed import NUM_REHEARSALS
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import measure
from nas_proxy.train.objective import Objective, ParameterGroup
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from tests.gpu.helpers import CELL, factory_on, images_on
from tests.helpers.stand_in_gpu import StandInGraph, stand_in_gpu

STEPS = 9
CROPPED = Augmentation(crop=0.125, flip=True, cutout=0.5)


@pytest.fixture(autouse=True)
def nothing_said_yet():
    graphed._say.cache_clear()


def settings(**changes):
    fixed = {"num_steps": STEPS, "batch_size": 8, "learning_rate": 0.05, "precision": "float32"}
    return TrainSettings(**{**fixed, "augmentation": CROPPED, **changes})


def network(norm="batch"):
    with isolated_rng(0):
        return ConvNet((3, 8, 8), 3, width=4, depth=2, norm=norm)


def trained(device, used, *, graphed, make=network, observer=None, **given):
    """Result and weights, the latter on the CPU."""
    training_set = given.pop("training_set", None) or TrainingSet.of(images_on(device))
    model = make().to(device)
    if observer is not None:
        observer = observer(model)
    generator = make_generator(1, device)
    result = train(model, training_set, used, generator, observer, graphed=graphed, **given)
    return result, {name: value.cpu() for name, value in model.state_dict().items()}


def assert_same(one, other):
    assert one[0].losses == pytest.approx(other[0].losses, rel=1e-4)
    for name, value in one[1].items():
        torch.testing.assert_close(value, other[1][name], rtol=1e-3, atol=1e-5, msg=name)


def further(*cases):
    """Of what the case before them shows."""
    return [pytest.param(case, marks=pytest.mark.exhaustive) for case in cases]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        *further(
            {"optimiser": "adam", "learning_rate": 0.001},
            {"optimiser": "adamw", "learning_rate": 0.001},
            {"momentum": 0.0, "nesterov": False},
            {"channels_last": True, "label_smoothing": 0.1},
            {"augmentation": Augmentation(resized_crop=0.5, rotation=15.0, colour_jitter=0.3)},
            {"schedule": "step", "batch_size": 24},
        ),
    ],
    ids=str,
)
def test_the_graph_does_the_steps_of_the_loop(changes):
    used = settings(**changes)
    with stand_in_gpu() as device:
        eager = trained(device, used, graphed=False)
        found = trained(device, used, graphed=True)
    assert eager[0].num_graphed_steps == 0
    assert found[0].num_graphed_steps == STEPS - NUM_REHEARSALS
    if used.optimiser == "sgd":
        assert_same(found, eager)
    else:  # the gradient of a bias before a norm is rounding alone, which Adam makes large
        assert found[0].losses == pytest.approx(eager[0].losses, rel=1e-4)


@pytest.mark.exhaustive
def test_rates_of_groups_differ():
    def run(device, *, graphed):
        model = network().to(device)
        groups = [
            ParameterGroup(list(model.features.parameters()), 0.1),
            ParameterGroup(list(model.classifier.parameters())),
        ]
        training_set = TrainingSet.of(images_on(device))
        generator = make_generator(1, device)
        return train(model, training_set, settings(), generator, groups=groups, graphed=graphed)

    with stand_in_gpu() as device:
        found, eager = run(device, graphed=True), run(device, graphed=False)
    assert found.num_graphed_steps == STEPS - NUM_REHEARSALS
    assert found.losses == pytest.approx(eager.losses, rel=1e-4)


def test_an_observer_sees_every_step_and_may_measure():
    seen = []

    def observer(model):
        def watch(step, indices, logits):
            loss = measure(model, tiny_on_gpu, settings()).loss
            seen.append((step, indices.tolist(), logits, logits.cpu().clone(), loss))

        return watch

    with stand_in_gpu() as device:
        tiny_on_gpu = images_on(device)
        eager = trained(device, settings(), graphed=False, observer=observer)
        expected, seen = seen, []
        found = trained(device, settings(), graphed=True, observer=observer)
        assert_same(found, eager)
        assert [row[:2] for row in seen] == [row[:2] for row in expected]
        for (*_, kept, then, loss), (*_, before, its_loss) in zip(seen, expected, strict=True):
            torch.testing.assert_close(then, before, rtol=1e-3, atol=1e-5)
            assert torch.equal(kept.cpu(), then)  # later steps do not write into it
            assert loss == pytest.approx(its_loss, rel=1e-3)


def test_a_killed_training_continues(tmp_path):
    class AlwaysDue(Checkpointer):
        is_due = True

    def end_the_process(model):
        def watch(step, *_):
            if step == 6:
                raise KeyboardInterrupt

        return watch

    def state():
        return AlwaysDue(tmp_path / "training.state", "a training")

    with stand_in_gpu() as device:
        eager = trained(device, settings(), graphed=False)
        with pytest.raises(KeyboardInterrupt):
            trained(device, settings(), graphed=True, observer=end_the_process, checkpoint=state())
        found = trained(device, settings(), graphed=True, checkpoint=state())
    assert found[0].num_graphed_steps == STEPS - 5 - NUM_REHEARSALS
    assert_same(found, eager)


class LabelsByMean(Objective):
    def forward(self, batch):
        return batch.cross_entropy * float(batch.images.mean() > -100)


class Dice(nn.Module):
    """Draws by Python's own generator, which a graph would ask once."""

    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, images):
        random.random()
        return self.network(images)


class Waiting(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, images):
        return self.network(images) * float(images.abs().max() > 0)


def host_labeller(images):
    chosen = [int(value > 0) for value in images.mean(dim=(1, 2, 3))]
    return nn.functional.one_hot(torch.tensor(chosen, device=images.device), 3).float()


@pytest.mark.parametrize(
    ("changes", "given", "reason"),
    [
        ({"augmentation": Augmentation(mixup=0.5)}, {}, "has to wait"),
        ({}, {"make": Dice}, "random numbers are drawn on the host"),
        *(
            pytest.param(changes, given, "has to wait", marks=pytest.mark.exhaustive)
            for changes, given in [
                ({"augmentation": Augmentation(cutmix=0.5)}, {}),
                ({"augmentation": Augmentation(dsa="color_crop")}, {}),
                ({}, {"objective": LabelsByMean()}),
                ({}, {"make": Waiting}),
            ]
        ),
    ],
    ids=["mixup", "dice", "cutmix", "dsa", "objective", "network"],
)
def test_what_needs_the_host_goes_step_by_step_and_says_so(changes, given, reason, caplog):
    used = settings(**changes)
    with stand_in_gpu() as device, caplog.at_level(logging.WARNING):
        eager = trained(device, used, graphed=False, **given)
        found = trained(device, used, graphed=True, **given)
    assert found[0].num_graphed_steps == 0
    assert [reason in record.getMessage() for record in caplog.records] == [True]
    assert "training goes step by step" in caplog.text
    assert_same(found, eager)


@pytest.mark.exhaustive
def test_a_labeller_that_needs_the_host(caplog):
    with stand_in_gpu() as device:
        labelled = TrainingSet.of(images_on(device), None)
        labelled = TrainingSet(
            labelled.images, labelled.labels, labelled.spec, labeller=host_labeller
        )
        found, _ = trained(device, settings(), graphed=True, training_set=labelled)
    assert found.num_graphed_steps == 0
    assert "has to wait" in caplog.text


class FailsOnceRecorded(nn.Module):
    """What cannot be recorded though it makes nobody wait, such as a library's own allocation."""

    def __init__(self, error):
        super().__init__()
        self.network = network()
        self.error = error
        self.num_calls = 0

    def forward(self, images):
        self.num_calls += 1
        if self.num_calls == NUM_REHEARSALS + 1:
            raise self.error
        return self.network(images)


def test_a_network_that_cannot_be_recorded(caplog):
    error = RuntimeError("CUDA error: operation not permitted\nmore lines")
    with stand_in_gpu() as device:
        eager = trained(device, settings(), graphed=False)
        found = trained(device, settings(), graphed=True, make=lambda: FailsOnceRecorded(error))
    assert found[0].num_graphed_steps == 0
    assert "not as a CUDA graph: CUDA error: operation not permitted" in caplog.text
    assert "more lines" not in caplog.text
    assert found[0].losses == pytest.approx(eager[0].losses, rel=1e-4)


def test_memory_that_runs_out_while_recording_is_no_reason_to_go_on():
    error = torch.OutOfMemoryError("CUDA out of memory")
    with stand_in_gpu() as device, pytest.raises(torch.OutOfMemoryError):
        trained(device, settings(), graphed=True, make=lambda: FailsOnceRecorded(error))


def test_on_a_cpu_steps_are_done_as_usual_and_it_says_so(caplog):
    cpu = torch.device("cpu")
    found = trained(cpu, settings(), graphed=True)
    assert found[0].num_graphed_steps == 0
    assert "a CUDA graph needs a GPU" in caplog.text
    assert_same(found, trained(cpu, settings(), graphed=False))


def test_a_short_training_ends_before_anything_is_recorded():
    with stand_in_gpu() as device:
        found, _ = trained(device, settings(num_steps=NUM_REHEARSALS), graphed=True)
    assert found.num_graphed_steps == 0


def test_the_stand_in_repeats_operations_and_not_python():
    """A number that Python passed on stays what it was, as on a GPU."""

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()
            self.num_calls = 0

        def forward(self, images):
            self.num_calls += 1
            return self.network(images) * self.num_calls

    with stand_in_gpu() as device:
        eager = trained(device, settings(), graphed=False, make=Counting)
        found = trained(device, settings(), graphed=True, make=Counting)
    until = NUM_REHEARSALS + 1
    assert found[0].losses[:until] == pytest.approx(eager[0].losses[:until], rel=1e-4)
    assert found[0].losses[until] != pytest.approx(eager[0].losses[until], rel=1e-4)


@pytest.mark.exhaustive
def test_an_evaluation_says_what_the_loop_would_have_said(monkeypatch):
    replays = []
    replay = StandInGraph.replay
    monkeypatch.setattr(StandInGraph, "replay", lambda graph: (replays.append(1), replay(graph))[1])

    def signals(device, **changes):
        factory = factory_on(device, **changes)
        evaluation = factory.build().evaluate(factory.space.from_string(CELL), 0)
        assert evaluation.complete, evaluation.reason
        return {name: v for name, v in evaluation.signals.items() if name != "train_seconds"}

    longer = {"settings": dataclasses.replace(factory_on("cpu").settings, num_steps=6)}
    with stand_in_gpu() as device:
        expected = signals(device, **longer)
        assert not replays
        assert signals(device, **longer, cuda_graph=True) == pytest.approx(expected, rel=1e-3)
    assert len(replays) == 6 - NUM_REHEARSALS
