"""One evaluation: what is measured, and what becomes of whatever goes wrong."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas_proxy.errors import EvaluationError
from nas_proxy.interfaces import TransferSpace
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import canonical_json, derive_seed, isolated_rng, make_generator
from nas_proxy.scores.flops import Flops
from nas_proxy.scores.num_params import NumParams
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.loop import train
from nas_proxy.train.phases import Phase
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Architecture, Status
from tests.evaluate.helpers_fakes import (
    ARCHITECTURE,
    FakeScore,
    FakeSpace,
    evaluator,
    settings,
    small_net,
)

TRAINED = {
    *("val_loss", "val_accuracy", "train_loss_mean", "train_loss_tail"),
    *("val_loss_mean", "train_loss_slope"),
    *("train_seconds", "images_seen"),
}


class Raising(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.error = error

    def forward(self, images):
        raise self.error


def without_seconds(evaluation):
    """The evaluation without what a clock said."""
    value = json.loads(canonical_json(evaluation.to_json()))
    for signals in (value["signals"], *value["seed_signals"]):
        signals.pop("train_seconds", None)
    del value["seconds"], value["core_seconds"], value["signal_seconds"]
    return value


def assert_failed(evaluation, *reasons):
    assert evaluation.status is Status.FAILED
    for reason in reasons:
        assert reason in evaluation.reason
    assert "\n" not in evaluation.reason
    assert dict(evaluation.signals) == {}
    assert evaluation.seed_signals == evaluation.train_losses == ()
    assert evaluation.architecture == ARCHITECTURE
    assert evaluation.seed == 5
    assert evaluation.seconds > 0
    json.loads(canonical_json(evaluation.to_json()))


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["build", "forward", "score"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no such operation\nsecond line"), "ValueError: no such operation"),
        (KeyError("width"), "KeyError: 'width'"),
        (AssertionError(), "AssertionError: no message"),
        (EvaluationError("is not defined here"), "is not defined here"),
        (MemoryError(), "does not fit in memory: no message"),
        (torch.OutOfMemoryError("CUDA out of memory"), "does not fit in memory: CUDA out of"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (SystemExit(7), "SystemExit: 7"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_whatever_a_plugin_raises_is_a_failed_evaluation(place, error, reason):
    def fail(*_):
        raise error

    make = {"build": fail, "forward": lambda *_: Raising(error), "score": small_net}[place]
    scores = {"fake": FakeScore(answer=fail)} if place == "score" else {}
    evaluation = evaluator(make, scores=scores).evaluate(ARCHITECTURE, 5)
    assert_failed(evaluation)
    if place == "build" and isinstance(error, SystemExit):  # said as the space's own
        reason = "the search space 'fake' fails in build (helpers_fakes.py, line"
    assert evaluation.reason.startswith(reason)


def test_network_larger_than_the_memory():
    evaluation = evaluator(lambda *_: nn.Linear(2**25, 2**25)).evaluate(ARCHITECTURE, 5)
    assert_failed(evaluation, "does not fit in memory: ", "tried to allocate")


def test_diverging_training():
    hot = settings(learning_rate=1e30, schedule="constant", num_steps=60)
    evaluation = evaluator(train_settings=hot).evaluate(ARCHITECTURE, 5)
    assert_failed(evaluation, "the training loss is not finite from step")
    assert "Error" not in evaluation.reason


def test_network_that_fails_only_when_it_is_judged():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, images):
            logits = images.mean(dim=(1, 2, 3))[:, None] * self.weight
            return logits if self.training else logits * float("nan")

    evaluation = evaluator(lambda *_: Moody()).evaluate(ARCHITECTURE, 5)
    assert_failed(evaluation, "the validation loss is not finite")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_signal_that_is_not_finite(value):
    scores = {"good": FakeScore(), "bad": FakeScore(answer=lambda *_: value)}
    evaluation = evaluator(scores=scores).evaluate(ARCHITECTURE, 5)
    assert_failed(evaluation, f"signal bad is not finite ({value})")


@pytest.mark.parametrize("value", [None, "high", torch.zeros(2), 1j], ids=str)
def test_signal_that_is_no_number(value):
    scores = {"bad": FakeScore(answer=lambda *_: value)}
    assert_failed(evaluator(scores=scores).evaluate(ARCHITECTURE, 5), "Error: ")


@pytest.mark.parametrize("value", [7, np.float32(7), np.int64(7), torch.tensor(7.0)], ids=repr)
def test_signal_of_another_numeric_type_becomes_a_float(value):
    """What JSON cannot hold would stop the whole search when it is logged."""
    scores = {"fake": FakeScore(answer=lambda *_: value)}
    evaluation = evaluator(scores=scores, trained=False).evaluate(ARCHITECTURE, 5)
    assert json.loads(canonical_json(evaluation.to_json()))["signals"] == {"fake": 7.0}


def test_failure_of_one_seed_fails_the_evaluation():
    built = []

    def second_fails(space, spec):
        built.append(space)
        if len(built) == 2:
            raise ValueError("second")
        return small_net(space, spec)

    evaluation = evaluator(second_fails, train_settings=settings(num_seeds=3)).evaluate(
        ARCHITECTURE, 5
    )
    assert_failed(evaluation, "second")
    assert len(built) == 2


def test_keyboard_interrupt_is_no_failure_of_the_candidate():
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator(interrupt).evaluate(ARCHITECTURE, 5)


# --- what is measured -------------------------------------------------------------------------


def test_signals_are_the_means_over_the_seeds():
    evaluation = evaluator(train_settings=settings(num_seeds=3)).evaluate(ARCHITECTURE, 5)
    assert evaluation.complete
    assert len(evaluation.seed_signals) == 3
    assert set(evaluation.signals) == TRAINED
    for name, value in evaluation.signals.items():
        values = [signals[name] for signals in evaluation.seed_signals]
        assert value == pytest.approx(np.mean(values), rel=1e-12)
    losses = [signals["val_loss"] for signals in evaluation.seed_signals]
    assert len(set(losses)) == 3


def test_one_seed_recomputed_by_hand():
    """Train with the library's loop, but build, seed and judge here."""
    dataset, used = tiny_dataset(), settings(num_seeds=2, num_steps=5)
    evaluation = evaluator(train_settings=used).evaluate(ARCHITECTURE, 5)
    images = (dataset.images.double() / 255 - torch.tensor(dataset.spec.mean).view(1, 3, 1, 1)) / (
        torch.tensor(dataset.spec.std).view(1, 3, 1, 1)
    )
    curves = []
    for index, signals in enumerate(evaluation.seed_signals):
        seed = derive_seed("training", 5, index)
        with isolated_rng(seed):
            network = ConvNet((3, 8, 8), 3, width=8, depth=1, norm="batch")
        result = train(network, TrainingSet.of(dataset), used, make_generator(seed))
        with torch.no_grad():
            logits = network.eval()(images.float())
        loss = F.cross_entropy(logits.double(), dataset.labels)
        correct = (logits.argmax(1) == dataset.labels).double().mean()
        assert signals["val_loss"] == pytest.approx(float(loss), rel=1e-5)
        assert signals["val_accuracy"] == pytest.approx(float(correct))
        assert signals["train_loss_mean"] == pytest.approx(np.mean(result.losses))
        assert signals["train_loss_tail"] == pytest.approx(result.losses[-1])
        curves.append(result.losses)
    assert evaluation.train_losses == pytest.approx(np.mean(curves, axis=0))


def test_same_seed_same_evaluation_whatever_the_global_generator_says():
    used = settings(num_seeds=2)
    scores = {
        "norm": FakeScore(answer=lambda net, _: sum(p.sum().item() for p in net.parameters()))
    }
    torch.manual_seed(1)
    first = evaluator(train_settings=used, scores=scores).evaluate(ARCHITECTURE, 5)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = evaluator(train_settings=used, scores=scores).evaluate(ARCHITECTURE, 5)
    assert torch.equal(before, torch.get_rng_state())
    assert without_seconds(first) == without_seconds(second)
    third = evaluator(train_settings=used, scores=scores).evaluate(ARCHITECTURE, 6)
    for name in ("norm", "val_loss", "train_loss_mean"):
        assert third.signals[name] != first.signals[name]


def test_earlier_evaluations_leave_no_trace():
    shared = evaluator()
    first = shared.evaluate(ARCHITECTURE, 5)
    shared.evaluate(Architecture("fake", 1), 9)
    assert without_seconds(shared.evaluate(ARCHITECTURE, 5)) == without_seconds(first)


def test_dropout_is_seeded_too():
    def with_dropout(space, spec):
        return nn.Sequential(nn.Dropout(0.5), small_net(space, spec))

    evaluations = [evaluator(with_dropout).evaluate(ARCHITECTURE, 5) for _ in range(2)]
    assert without_seconds(evaluations[0]) == without_seconds(evaluations[1])
    plain = evaluator().evaluate(ARCHITECTURE, 5)
    assert evaluations[0].signals["train_loss_mean"] != plain.signals["train_loss_mean"]


@pytest.mark.parametrize(("batch_size", "seen"), [(8, 3 * 8), (1, 3), (100, 3 * 24)])
def test_images_seen(batch_size, seen):
    used = settings(batch_size=batch_size, num_seeds=2)
    evaluation = evaluator(train_settings=used).evaluate(ARCHITECTURE, 5)
    assert evaluation.signals["images_seen"] == seen
    assert evaluation.fidelity.num_steps * evaluation.fidelity.batch_size == seen
    assert len(evaluation.train_losses) == 3


def test_zero_cost_signals_alone_need_no_training():
    scores = {"params": NumParams(), "flops": Flops()}
    evaluation = evaluator(scores=scores, trained=False).evaluate(ARCHITECTURE, 5)
    network = small_net(FakeSpace(), tiny_dataset().spec)
    assert dict(evaluation.signals) == {
        "params": sum(p.numel() for p in network.parameters()),
        "flops": 2 * (8 * 8 * 27 * 8 + 8 * 4 * 4 * 3),
    }
    assert set(evaluation.signal_seconds) == {"params", "flops"}
    assert evaluation.train_losses == ()


def test_every_score_gets_its_own_fresh_network_of_equal_weights():
    def spoil(network, images):
        value = sum(p.abs().sum().item() for p in network.parameters())
        for parameter in network.parameters():
            parameter.data.zero_()
        return value

    scores = {"first": FakeScore(answer=spoil), "second": FakeScore(answer=spoil)}
    evaluation = evaluator(scores=scores).evaluate(ARCHITECTURE, 5)
    assert evaluation.signals["first"] == evaluation.signals["second"] > 0
    assert (
        without_seconds(evaluation)["seed_signals"]
        == (without_seconds(evaluator().evaluate(ARCHITECTURE, 5))["seed_signals"])
    )


def test_cost_of_each_part_is_reported():
    scores = {"a": FakeScore(), "b": FakeScore()}
    evaluation = evaluator(scores=scores).evaluate(ARCHITECTURE, 5)
    assert set(evaluation.signal_seconds) == {"a", "b", "training"}
    assert 0 < sum(evaluation.signal_seconds.values()) <= evaluation.seconds
    assert evaluation.signals["train_seconds"] <= evaluation.signal_seconds["training"]


def test_the_phases_of_a_training_are_kept():
    @dataclass(frozen=True, kw_only=True)
    class TwoPhases(FakeSpace, TransferSpace):
        def training_phases(self, architecture, settings):
            short = replace(settings, num_steps=1)
            return (Phase("first", short), Phase("second", settings))

    found = evaluator(space=TwoPhases()).evaluate(ARCHITECTURE, 0)
    assert found.phases == (("first", 1), ("second", 3))
    assert len(found.train_losses) == 4
    assert evaluator().evaluate(ARCHITECTURE, 0).phases == (("training", 3),)
