"""How long a training is, and how its learning rate goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_proxy.data.proxy_dataset import LearningRateRule
from nas_proxy.reproducibility import make_generator
from nas_proxy.train.loop import train
from nas_proxy.train.schedules import image_size_at, learning_rate_factor
from nas_proxy.train.settings import TrainSettings
from tests.train.helpers import SCHEDULES, Recorder, random_set, reference_factor


@given(st.integers(1, 50), st.integers(1, 1000), st.integers(1, 2000))
def test_epochs_are_counted_in_steps_rounded_up(num_epochs, batch_size, num_images):
    told = TrainSettings(num_epochs=num_epochs, batch_size=batch_size)
    steps = told.steps_for(num_images)
    seen = steps * min(batch_size, num_images)
    assert seen >= num_epochs * num_images
    assert seen - min(batch_size, num_images) < num_epochs * num_images
    assert TrainSettings(num_steps=num_epochs).steps_for(num_images) == num_epochs


def test_epochs_reach_every_image_that_often():
    training_set, network = random_set(10), Recorder()
    told = TrainSettings(num_epochs=3, batch_size=4, precision="float32")
    train(network, training_set, told, make_generator(0))
    stream = sum(network.indices(training_set), [])
    assert len(stream) == 32
    assert all(stream[:30].count(image) == 3 for image in range(10))


@pytest.mark.parametrize("length", [{}, {"num_steps": 3, "num_epochs": 3}])
def test_a_length_is_given_exactly_once(length):
    with pytest.raises(ValueError, match="exactly one of num_steps and num_epochs"):
        TrainSettings(**length)


def test_nesterov_needs_a_momentum():
    with pytest.raises(ValueError, match="nesterov needs a momentum above 0"):
        TrainSettings(num_steps=1, momentum=0.0)
    assert not TrainSettings(num_steps=1, momentum=0.0, nesterov=False).nesterov


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(num_steps=st.integers(1, 3000))
def test_no_step_is_wasted_and_the_peak_is_reached(schedule, num_steps):
    factors = [learning_rate_factor(schedule, step, num_steps) for step in range(num_steps)]
    assert min(factors) > 0
    assert max(factors) == 1.0
    peak = factors.index(1.0)
    assert peak == (num_steps // 4 if schedule == "one_cycle" else 0)
    assert factors[: peak + 1] == sorted(set(factors[: peak + 1]))  # rises strictly
    falling = factors[peak:]
    assert falling == sorted(falling, reverse=True)
    if schedule in ("one_cycle", "cosine"):
        assert len(set(falling)) == len(falling)
        assert num_steps < 40 or falling[-1] < 0.01
    if schedule == "step":
        assert set(falling) <= {1.0, 0.1}
        assert falling.count(0.1) == num_steps - min(num_steps, num_steps // 2 + 1)
    for step in (0, num_steps // 3, num_steps - 1):
        assert factors[step] == pytest.approx(reference_factor(schedule, step, num_steps))


# Settings


def test_the_rule_of_a_proxy_data_set_is_followed_to_the_letter():
    rule = LearningRateRule("adamw", 0.003, 0.7, 0.02, 33, "cosine", 77)
    told = TrainSettings.of_rule(rule)
    for name in vars(rule):
        assert getattr(told, name) == getattr(rule, name)
    assert told.num_steps is None
    assert not told.nesterov


def test_the_field_s_evaluator_is_the_default_rule():
    told = TrainSettings.of_rule(LearningRateRule())
    assert (told.optimiser, told.learning_rate, told.momentum) == ("sgd", 0.01, 0.9)
    assert (told.weight_decay, told.batch_size, told.num_epochs) == (5e-4, 256, 1000)
    # Zhao and Bilen: a tenth of the rate after epoch 1000 // 2 + 1.
    num_steps = told.steps_for(100)
    rates = [learning_rate_factor(told.schedule, step, num_steps) for step in range(num_steps)]
    assert [rates[500], rates[501]] == [1.0, 0.1]


def test_settings_are_keys_of_a_mapping():
    first = TrainSettings(num_steps=3, space_fidelity={"num_cells": 1})
    same, other = (TrainSettings(num_steps=3, space_fidelity={"num_cells": n}) for n in (1, 2))
    assert len({first, same, other, TrainSettings(num_steps=4)}) == 3


def test_three_steps_are_those_of_the_distillation_literature():
    """240 epochs, the rate times 0.1 at 150, 180 and 210."""
    rates = [learning_rate_factor("three_steps", step, 240) for step in range(240)]
    assert [step for step in range(1, 240) if rates[step] != rates[step - 1]] == [150, 180, 210]
    assert rates[::30] == pytest.approx([1, 1, 1, 1, 1, 0.1, 0.01, 0.001])


def test_images_grow_to_full_size_by_four_pixels_at_a_time():
    sizes = [image_size_at(8, 32, step, 100) for step in range(100)]
    assert sizes[0] == 8
    assert sizes == sorted(sizes)
    assert set(sizes[75:]) == {32}
    assert set(sizes[:75]) == {8, 12, 16, 20, 24, 28}
    assert [image_size_at(14, 16, step, 4) for step in range(4)] == [14, 14, 14, 16]
