"""SRe2L: its loss and steps recomputed by hand, and its batches."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nas_proxy.data.transforms import denormalise, normalise
from nas_proxy.distill import statistical_matching
from nas_proxy.distill.common.recovery import Recovery, logits_and_distances, random_view
from nas_proxy.distill.statistical_matching import StatisticalMatching
from nas_proxy.interfaces import DistillContext
from nas_proxy.reproducibility import make_generator
from nas_proxy.teachers.training import obtain_teacher
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.settings import TrainSettings
from tests.distill.helpers_recovery import PLAIN, SQUEEZED, distill, noise, norms_of, squeezed


@pytest.fixture(scope="module")
def teacher():
    return obtain_teacher(SQUEEZED, tiny_dataset(), DistillContext())


# The loss


def test_the_distances_are_those_of_the_activations_statistics(teacher):
    images, inputs = noise(), []
    handles = [
        layer.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
        for layer in norms_of(teacher)
    ]
    logits, distances = logits_and_distances(teacher, images)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(logits, teacher.logits(images))
    assert len(distances) == 2
    for distance, values, layer in zip(distances, inputs, norms_of(teacher), strict=True):
        channels = values.detach().double().numpy().transpose(1, 0, 2, 3).reshape(4, -1)
        means = np.array([np.sum(channel) / channel.size for channel in channels])
        variances = np.mean((channels - means[:, None]) ** 2, axis=1)
        expected = np.sqrt(np.sum((variances - layer.running_var.numpy()) ** 2))
        expected += np.sqrt(np.sum((means - layer.running_mean.numpy()) ** 2))
        assert float(distance) == pytest.approx(expected, rel=1e-5)


def test_looking_leaves_nothing_behind(teacher):
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    logits_and_distances(teacher, noise())
    assert all(torch.equal(v, before[k]) for k, v in teacher.network.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in teacher.network.modules())


def test_the_gradient_of_the_loss_is_that_of_finite_differences():
    teacher = obtain_teacher(SQUEEZED, tiny_dataset(), DistillContext())
    teacher.network.double()
    options = StatisticalMatching(networks=(SQUEEZED,), statistics_weight=0.3, **PLAIN)
    recovery = Recovery(options._settings(teacher.spec), [teacher], teacher.spec)
    classes = torch.tensor([0, 1, 2, 0])
    images = noise(4, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(recovery.loss(teacher, images, classes), images)
    for index in (0, 77, 191, 400, 767):
        nudge = torch.zeros(images.numel(), dtype=torch.float64)
        nudge[index] = 1e-6
        up, down = (
            float(recovery.loss(teacher, images.detach() + sign * nudge.view_as(images), classes))
            for sign in (1, -1)
        )
        assert float(gradient.flatten()[index]) == pytest.approx((up - down) / 2e-6, rel=1e-4)


# The steps


def by_hand(teachers, start, classes, spec, *, rate, weight, first, num_steps):
    """Adam with the published decays, along a cosine, clipped to pixels that exist."""
    images, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    lowest, highest = (
        torch.tensor([(edge - m) / s for m, s in zip(spec.mean, spec.std, strict=True)])
        for edge in (0.0, 1.0)
    )
    for step in range(num_steps):
        leaf = images.requires_grad_()
        logits, distances = logits_and_distances(teachers[step % len(teachers)], leaf)
        loss = F.cross_entropy(logits, classes) + weight * (
            first * distances[0] + sum(distances[1:])
        )
        (gradient,) = torch.autograd.grad(loss, leaf)
        mean = 0.5 * mean + 0.5 * gradient
        square = 0.9 * square + 0.1 * gradient**2
        unbiased = mean / (1 - 0.5 ** (step + 1)), square / (1 - 0.9 ** (step + 1))
        pace = rate * 0.5 * (1 + np.cos(np.pi * step / num_steps))
        images = leaf.detach() - pace * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        images = torch.minimum(torch.maximum(images, lowest.view(1, 3, 1, 1)),
                               highest.view(1, 3, 1, 1))  # fmt: skip
    return images


def test_a_batch_is_descent_on_the_loss_with_each_network_in_turn():
    dataset, both = tiny_dataset(), (SQUEEZED, squeezed(seed=1))
    options = {"networks": both, "image_learning_rate": 0.1, "statistics_weight": 0.2, **PLAIN}
    made = distill(first_layer_weight=3.0, num_steps=5, init="real", **options)
    teachers = [obtain_teacher(each, dataset, DistillContext()) for each in both]
    start, classes = StatisticalMatching(init="real", **options).initialise(
        dataset, 2, make_generator(0)
    )
    expected = by_hand(
        teachers, start, classes, dataset.spec, rate=0.1, weight=0.2, first=3.0, num_steps=5
    )
    difference = made.pixels().int() - denormalise(expected, dataset.spec).int()
    assert int(difference.abs().max()) <= 1
    assert float((difference != 0).float().mean()) < 0.01
    assert int((made.pixels().int() - denormalise(start, dataset.spec).int()).abs().max()) > 10


def test_images_become_what_the_network_has_seen():
    dataset = tiny_dataset()
    settings = squeezed(num_steps=60, learning_rate=0.05)
    teacher = obtain_teacher(settings, dataset, DistillContext())
    start, labels = StatisticalMatching(networks=(settings,)).initialise(
        dataset, 4, make_generator(0)
    )
    made = distill(4, networks=(settings,), num_steps=60)

    def misfit(images):
        logits, distances = logits_and_distances(teacher, images)
        return float(F.cross_entropy(logits, labels)), float(sum(distances))

    before, after = misfit(start), misfit(made.images)
    assert after[0] < 0.5 * before[0]
    assert after[1] < 0.5 * before[1]
    assert torch.equal(teacher.logits(made.images).argmax(dim=1), made.labels)


def test_pixels_have_eight_bits():
    made, spec = distill(), tiny_dataset().spec
    torch.testing.assert_close(normalise(made.pixels(), spec), made.images, atol=1e-6, rtol=0)


def test_the_view_is_one_change_of_all_images():
    images = torch.arange(64.0).view(1, 1, 8, 8).expand(3, -1, -1, -1)
    seen = set()
    for seed in range(40):
        view = random_view(images, 1.0, 0.25, make_generator(seed))
        assert torch.equal(view[0], view[2])
        seen |= {(d, r) for d in range(8) for r in range(8)
                 if torch.equal(view, images.roll((d, r), (2, 3)))}  # fmt: skip
    assert seen == {(down, right) for down in range(3) for right in range(3)}
    assert torch.equal(random_view(images, 1.0, 0.0, make_generator(0)), images)


def test_crops_are_enlarged_and_mirrored_and_pass_gradients():
    images = torch.rand(2, 3, 16, 16, generator=make_generator(0)).requires_grad_()
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    directions, reaches = set(), []
    for seed in range(20):
        view = random_view(images, 0.2, 0.0, make_generator(seed))
        assert view.shape == images.shape
        row = random_view(ramp, 0.2, 0.0, make_generator(seed))[0, 0, 8]
        directions.add(bool(row[-1] > row[0]))
        reaches.append(float((row[-1] - row[0]).abs()))
    assert directions == {True, False}
    assert min(reaches) < 10 < max(reaches)
    view.sum().backward()
    assert float(images.grad.abs().sum()) > 0


@pytest.mark.parametrize(("size", "crops"), [(8, False), (32, False), (64, True), (224, True)])
def test_crops_and_the_later_training_are_the_published_ones_at_each_size(size, crops):
    spec = tiny_dataset(image_shape=(3, 8, 8)).spec.with_image_size(size)
    method = StatisticalMatching()
    assert method._settings(spec).smallest_crop == (0.08 if crops else 1.0)
    rule = statistical_matching._learning_rate_rule(spec)
    TrainSettings.of_rule(rule)  # is one that the training loop knows
    assert (rule.optimiser, rule.learning_rate, rule.weight_decay) == ("adamw", 0.001, 0.01)
    assert rule.num_epochs == (300 if crops else 400)
    augmentation = statistical_matching._augmentation(spec)
    assert (augmentation.resized_crop > 0, augmentation.cutmix > 0) == (crops, crops)
    assert (augmentation.crop > 0, augmentation.mixup > 0) == (not crops, not crops)


def test_the_authors_settings_are_the_defaults():
    method = StatisticalMatching()
    assert (method.num_steps, method.batch_size, method.image_learning_rate) == (1000, 100, 0.25)
    assert (method.statistics_weight, method.first_layer_weight) == (0.01, 10.0)
    assert method.jitter * 32 == 4
    (network,) = method.networks
    assert (network.network.name, network.network.norm) == ("resnet18", "batch")
    assert (network.train.num_epochs, network.train.learning_rate) == (200, 0.1)


# Batches


def test_batches_are_even_mix_the_classes_and_know_what_they_hold(monkeypatch):
    batches = []

    def remember(recovery, batch):
        batches.append(batch)
        return torch.stack(  # an image that says which class and batch it belongs to
            [torch.full((3, 8, 8), 10 * int(label) + len(batches)) for label in batch.classes]
        ).to(torch.uint8)

    monkeypatch.setattr(Recovery, "__call__", remember)
    made = distill(4, batch_size=5)  # 12 images
    assert [len(batch.classes) for batch in batches] == [4, 4, 4]
    assert [batch.classes.tolist() for batch in batches] == [
        [0, 1, 2, 0],
        [1, 2, 0, 1],
        [2, 0, 1, 2],
    ]
    assert made.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert made.pixels()[:, 0, 0, 0].tolist() == [1, 1, 2, 3, 11, 12, 12, 13, 21, 22, 23, 23]
    assert len({batch.seed for batch in batches}) == 3
    assert not torch.equal(batches[0].start, batches[1].start)


def test_a_batch_knows_nothing_of_the_others():
    """The first batch is the same whether the second is large, small or absent."""
    two, three = (distill(num, batch_size=6, networks=(SQUEEZED,)) for num in (2, 4))
    first_of_each = [0, 1], [0, 1]
    for label in range(3):
        images = [
            made.images[label * num + torch.tensor(which)]
            for made, num, which in zip((two, three), (2, 4), first_of_each, strict=True)
        ]
        assert torch.equal(*images)


def test_real_starts_are_real_images_and_tiles_hold_reduced_ones():
    dataset = tiny_dataset()
    real = normalise(dataset.images, dataset.spec)
    images, labels = StatisticalMatching(init="real").initialise(dataset, 3, make_generator(4))
    for image, label in zip(images, labels, strict=True):
        matches = [int(dataset.labels[i]) for i in range(24) if torch.equal(real[i], image)]
        assert matches == [int(label)]
    method = StatisticalMatching(init="real", decode_factor=2)
    tiles, _ = method.initialise(dataset, 3, make_generator(4))
    assert tiles.shape == (9, 3, 8, 8)
    reduced = F.interpolate(real, size=(4, 4), mode="bilinear", antialias=True)
    quarter = tiles[3, :, 4:, :4]
    matches = [int(dataset.labels[i]) for i in range(24) if torch.allclose(reduced[i], quarter)]
    assert matches == [1]


def test_with_tiles_there_are_more_training_images_with_the_right_labels():
    made = distill(2, decode_factor=2)
    assert made.decode_factor == 2
    assert made.training_images().shape == (24, 3, 8, 8)
    assert made.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    made.check_labels()
