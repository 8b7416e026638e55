"""Precision and layout are chosen by what was timed, within what the settings allow."""

import pytest
import torch
from torch import nn

from nas_proxy.errors import EvaluationError
from nas_proxy.evaluate import arithmetic as arithmetic_module
from nas_proxy.evaluate.arithmetic import Arithmetic, StepTime, measure_arithmetic
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.train.settings import TrainSettings
from tests.networks.helpers import make_spec

CPU = torch.device("cpu")
SPACE = ConvNetSpace(widths=(4,), depths=(1,))


def settings(**options):
    return TrainSettings(num_steps=5, batch_size=8, **options)


def arithmetic(first=2.0, last=1.0, bfloat16=4.0):
    return Arithmetic(
        "a processor",
        "2.6",
        (
            StepTime("float32", False, first),
            StepTime("float32", True, last),
            StepTime("bfloat16", True, bfloat16),
        ),
    )


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ((2.0, 1.0, 4.0), ("float32", True)),
        ((1.0, 2.0, 4.0), ("float32", False)),
        ((2.0, 1.0, 0.5), ("bfloat16", True)),
        ((2.0, 1.0, 0.95), ("float32", True)),  # no clear gain
    ],
)
def test_the_fastest_is_taken_and_bfloat16_for_a_clear_gain_alone(seconds, chosen):
    settled = arithmetic(*seconds).settle(settings())
    assert (settled.precision, settled.channels_last) == chosen


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        ({"precision": "bfloat16"}, ("bfloat16", True)),
        ({"precision": "float32"}, ("float32", True)),
        ({"channels_last": False}, ("float32", False)),
        ({"precision": "bfloat16", "channels_last": False}, ("bfloat16", False)),
    ],
)
def test_what_is_said_stays(said, chosen):
    settled = arithmetic().settle(settings(**said))
    assert (settled.precision, settled.channels_last) == chosen


def test_a_precision_that_was_too_slow_to_be_timed_stays_if_it_is_said():
    timed = Arithmetic("a processor", "2.6", arithmetic().step_times[:2])
    assert timed.settle(settings(precision="bfloat16")) == settings(precision="bfloat16")


def test_measured_times_decide_and_survive_their_file(monkeypatch, tmp_path):
    asked = []

    def timed(network, noise, told):
        asked.append((told.precision, told.channels_last, tuple(noise.images.shape)))
        return {"float32": 3.0, "bfloat16": 1.0}[told.precision] - 0.5 * told.channels_last

    monkeypatch.setattr(arithmetic_module, "_step_seconds", timed)
    spec = make_spec(16)
    found = measure_arithmetic(SPACE, spec, settings(image_size=8), CPU)
    assert {shape for *_, shape in asked} == {(8, 3, 8, 8)}
    # float32 with channels last is too slow to be timed twice; plain float32 always is.
    assert [(t.precision, t.channels_last) for t in found.step_times] == [
        ("float32", False),
        ("bfloat16", True),
        ("bfloat16", False),
    ]
    found.write(tmp_path / "arithmetic.json")
    assert Arithmetic.read(tmp_path / "arithmetic.json") == found


def test_real_steps_are_timed():
    found = measure_arithmetic(SPACE, make_spec(8), settings(), CPU)
    assert found.step_times
    assert all(timed.seconds > 0 for timed in found.step_times)


def test_a_space_whose_networks_do_not_train_is_said(monkeypatch):
    def build(self, architecture, spec):
        raise ValueError("no such layer")

    monkeypatch.setattr(ConvNetSpace, "build", build)
    with pytest.raises(EvaluationError, match="could be trained: ValueError: no such layer"):
        measure_arithmetic(SPACE, make_spec(8), settings(), CPU)


class Views(nn.Module):
    """Features are read by `view`, which refuses those that are laid out channels-last."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, padding=1)
        self.classifier = nn.Linear(4 * 8 * 8, 10)

    def forward(self, images):
        features = self.features(images)
        return self.classifier(features.view(len(images), -1))


def test_a_layout_that_a_network_refuses_is_not_chosen(monkeypatch):
    monkeypatch.setattr(ConvNetSpace, "build", lambda *_: Views())
    found = measure_arithmetic(SPACE, make_spec(8), settings(), CPU)
    assert {t.channels_last for t in found.step_times} == {False}
    for told in (settings(), settings(precision="bfloat16")):
        assert found.settle(told).channels_last is False


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_what_no_clock_says_is_no_measurement(seconds):
    with pytest.raises(ValueError, match=f"takes {seconds} seconds"):
        StepTime("float32", False, seconds)


def test_a_measurement_without_plain_float32_is_none():
    with pytest.raises(ValueError, match="channels first, was timed"):
        Arithmetic("a processor", "2.6", (StepTime("float32", True, 1.0),))


@pytest.mark.parametrize(
    ("size", "batch_size", "shown"), [(8, 128, 64), (32, 128, 64), (32, 16, 16), (224, 128, 8)]
)
def test_large_images_are_timed_in_small_batches(size, batch_size, shown, monkeypatch):
    seen = []

    def timed(network, noise, told):
        seen.append(len(noise))
        return 1.0

    monkeypatch.setattr(arithmetic_module, "_step_seconds", timed)
    monkeypatch.setattr(ConvNetSpace, "build", lambda *_: Views())
    told = TrainSettings(num_steps=5, batch_size=batch_size)
    measure_arithmetic(SPACE, make_spec(size), told, CPU)
    assert set(seen) == {shown}
