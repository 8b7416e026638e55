"""Trajectory matching: the published settings, and options that are refused."""

import pytest

from nas_proxy.data.augment import DSA_STRATEGY
from nas_proxy.distill.trajectory_matching._published import CIFAR10_ZCA
from nas_proxy.distill.trajectory_matching.distiller import TrajectoryMatching
from nas_proxy.errors import ConfigError
from nas_proxy.registry import DISTILLERS
from tests.distill.helpers import distill

# Published settings


@pytest.mark.parametrize(
    ("images_per_class", "steps", "end", "images", "rate", "start", "zca"),
    [
        (1, 50, 2, 100, 1e-7, 0.01, CIFAR10_ZCA),
        (10, 30, 20, 100, 1e-5, 0.001, CIFAR10_ZCA),
        (50, 30, 40, 1000, 1e-5, 0.001, None),
        (7, 50, 2, 100, 1e-7, 0.01, CIFAR10_ZCA),
        (100, 30, 40, 1000, 1e-5, 0.001, None),
    ],
)
def test_the_defaults_are_those_of_mtt(images_per_class, steps, end, images, rate, start, zca):
    rules = TrajectoryMatching().in_force(images_per_class)
    assert (rules.num_inner_steps, rules.max_start_epoch) == (steps, end)
    assert (rules.image_learning_rate, rules.learning_rate_learning_rate) == (images, rate)
    assert (rules.initial_learning_rate, rules.zca) == (start, zca)
    assert (rules.num_steps, rules.init, rules.expert_num_epochs) == (5000, "real", 50)
    assert (rules.min_start_epoch, rules.initial_max_start_epoch) == (0, end)
    assert rules.max_loss is None
    assert rules.inner_batch_size is None


@pytest.mark.parametrize(
    ("images_per_class", "window", "growth", "images", "labels", "limit"),
    [
        (1, (0, 4, 4), 0, 100, 5, 1.1),
        (10, (0, 10, 20), 1000, 100, 2, 1),
        (50, (0, 20, 40), 2000, 1000, 2, 1),
        (500, (40, 60, 60), 0, 50, 10, 1),
        (1000, (40, 60, 60), 0, 50, 10, 1),
    ],
)
def test_the_variant_datm_has_its_window(images_per_class, window, growth, images, labels, limit):
    rules = TrajectoryMatching(variant="datm").in_force(images_per_class)
    found = (rules.min_start_epoch, rules.initial_max_start_epoch, rules.max_start_epoch)
    assert (found, rules.window_growth_steps) == (window, growth)
    assert (rules.image_learning_rate, rules.label_learning_rate) == (images, labels)
    assert (rules.max_loss, rules.init, rules.zca) == (limit, "correct", CIFAR10_ZCA)
    assert (rules.num_steps, rules.expert_num_epochs) == (10_000, 100)
    assert rules.inner_batch_size == (1000 if images_per_class >= 500 else None)
    steps = {500: 40, 1000: 100}.get(images_per_class, 80)
    assert rules.num_inner_steps == steps
    assert rules.learning_rate_learning_rate == (1e-7 if images_per_class == 1 else 1e-5)


def test_what_does_not_depend_on_the_number_of_images_is_published_too():
    method = TrajectoryMatching()
    assert (method.matched_epochs, method.image_momentum, method.augment) == (2, 0.5, DSA_STRATEGY)
    assert (method.num_experts, method.expert_learning_rate) == (100, 0.01)
    assert (method.real_batch_size, method.expert_augment) == (256, DSA_STRATEGY)
    assert method.label_momentum == 0.9
    assert DISTILLERS.get("trajectory_matching") is TrajectoryMatching


def test_the_published_whitening_is_in_the_unit_of_normalised_images():
    deviations = (0.2470, 0.2435, 0.2616)  # of CIFAR-10's pixels in [0, 1]
    variance = sum(deviation**2 for deviation in deviations) / 3
    assert pytest.approx(0.1 / variance, rel=0.01) == CIFAR10_ZCA


def test_options_win_over_what_is_published():
    method = TrajectoryMatching(zca=0, num_inner_steps=7, min_start_epoch=3, init="noise")
    rules = method.in_force(10)
    assert (rules.zca, rules.num_inner_steps, rules.min_start_epoch) == (None, 7, 3)
    assert (rules.init, rules.max_start_epoch) == ("noise", 20)
    assert TrajectoryMatching(zca=0.5).in_force(50).zca == 0.5


# Wrong input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_start_epoch": 10, "expert_num_epochs": 10}, "raise expert_num_epochs to 11"),
        ({"min_start_epoch": 4, "max_start_epoch": 4}, "no epoch to start from"),
        ({"min_start_epoch": 4, "initial_max_start_epoch": 2}, "initial_max_start_epoch 2"),
        ({"expert_augment": "crop_sclae"}, "did you mean 'scale'"),
        ({"augment": "crop_sclae"}, "did you mean 'scale'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        TrajectoryMatching(**options)


def test_options_that_do_not_go_with_published_ones_are_refused_before_training(tmp_path):
    distiller = TrajectoryMatching(expert_num_epochs=2)  # one image per class: 1 + 2 epochs
    with pytest.raises(ConfigError, match="raise expert_num_epochs to 3"):
        distill(distiller, images_per_class=1, cache=tmp_path)
    assert not list(tmp_path.iterdir())
