"""SRe2L: its loss and steps recomputed by hand, its batches, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nas_proxy.checkpoint import Checkpointer
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.transforms import denormalise, normalise
from nas_proxy.distill import memory, statistical_matching
from nas_proxy.distill.recovery import Recovery, logits_and_distances, random_view
from nas_proxy.distill.statistical_matching import StatisticalMatching
from nas_proxy.errors import ConfigError, DivergedError
from nas_proxy.interfaces import DistillContext
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.reproducibility import make_generator
from nas_proxy.teach.settings import PretrainedSettings, TeacherSettings
from nas_proxy.teach.training import obtain_teacher
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.settings import TrainSettings


def squeezed(norm="batch", seed=0, num_steps=7, **options):
    network = NetworkSettings(name="convnet", norm=norm, width=4, depth=2)
    train = TrainSettings(num_steps=num_steps, precision="float32", **options)
    return TeacherSettings(network=network, train=train, seed=seed)


SQUEEZED = squeezed()
PLAIN = {"smallest_crop": 1.0, "jitter": 0.0}  # the networks see the images themselves


def distill(images_per_class=2, seed=0, dataset=None, context=None, **options):
    return StatisticalMatching(**{"networks": (SQUEEZED,), "num_steps": 5, **options}).distill(
        dataset or tiny_dataset(),
        images_per_class,
        generator=make_generator(seed),
        context=context or DistillContext(),
    )


@pytest.fixture(scope="module")
def teacher():
    return obtain_teacher(SQUEEZED, tiny_dataset(), DistillContext())


def norms_of(teacher):
    return [layer for layer in teacher.network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]


def noise(num=6, seed=0, **options):
    return torch.randn(num, 3, 8, 8, generator=make_generator(seed), **options)


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
    assert torch.equal(logits, teacher.logits(images))
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


@pytest.mark.slow
def test_two_workers_make_the_identical_set_from_where_one_was_killed(tmp_path, saves_always):
    options = {"batch_size": 3, "num_steps": 3}
    alone = distill(4, **options)
    path = tmp_path / "checkpoint.safetensors"

    def stop(done, total, note=""):
        if note.startswith("loss") and done == 4:  # the first batch is done, the second is not
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(4, context=DistillContext(progress=stop, checkpoint=path), **options)
    steps = []
    context = DistillContext(
        num_workers=2, checkpoint=path, progress=lambda *told: steps.append(told[:2])
    )
    assert distill(4, context=context, **options).id == alone.id
    assert steps[-3:] == [(6, 12), (9, 12), (12, 12)]


# Stopping and going on


@pytest.fixture
def saves_always(monkeypatch):
    """Every step is worth a checkpoint."""
    monkeypatch.setattr(Checkpointer, "save_if_due", Checkpointer.save)


@pytest.mark.parametrize("stop_at", [1, 4, 5, 6, 12])
def test_a_killed_run_ends_with_the_identical_set(tmp_path, saves_always, stop_at):
    options = {"batch_size": 2, "num_steps": 5, "networks": (SQUEEZED, squeezed(seed=1))}
    undisturbed = distill(2, **options)
    path = tmp_path / "checkpoint.safetensors"
    seen = []

    def stop(done, total, note=""):
        if total == 15 and not note.startswith("teaching"):
            seen.append((done, total))
            if done == stop_at:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(2, context=DistillContext(progress=stop, checkpoint=path), **options)
    killed_after = len(seen)
    seen.clear()
    resumed = distill(
        2,
        context=DistillContext(
            progress=lambda *told: seen.append(told[:2]) if told[1] == 15 else None,
            checkpoint=path,
        ),
        **options,
    )
    assert resumed.id == undisturbed.id
    assert seen[0] == (stop_at + 1, 15)  # not a step is done twice
    assert killed_after + len(seen) == 15
    assert not path.exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(
    tmp_path, monkeypatch, saves_always
):
    options = {"batch_size": 2, "num_steps": 5}
    undisturbed = distill(2, **options)
    path, calls = tmp_path / "checkpoint.safetensors", []
    sound = Recovery.loss

    def broken(recovery, teacher, images, classes):
        calls.append(1)
        loss = sound(recovery, teacher, images, classes)
        return loss * float("nan") if len(calls) == 3 + 5 + 3 else loss  # three before the batches

    monkeypatch.setattr(Recovery, "loss", broken)
    sentence = (
        "statistical_matching: batch 2 of 3 diverged at step 3 of 5: the loss is not finite; "
        r"lower distill.image_learning_rate \(now 0.25\); .*checkpoint.safetensors keeps"
    )
    with pytest.raises(DivergedError, match=sentence):
        distill(2, context=DistillContext(checkpoint=path), **options)
    monkeypatch.setattr(Recovery, "loss", sound)
    assert distill(2, context=DistillContext(checkpoint=path), **options).id == undisturbed.id


# What is refused


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (squeezed(norm="instance"), "ConvNet, depth 2, width 4, instance norm"),
        (TeacherSettings(network=NetworkSettings(name="mlp")), "MLP"),
        (TeacherSettings(pretrained=PretrainedSettings(name="alexnet")), "alexnet of torchvision"),
    ],
)
def test_a_network_without_batch_norm_is_refused_before_any_training(settings, name):
    sentence = f"the network {name} has none; name another, or one of convnet, resnet18"
    with pytest.raises(ConfigError, match=sentence) as caught:
        StatisticalMatching(networks=(SQUEEZED, settings))
    assert "mlp" not in str(caught.value).split("one of")[1]


def test_cells_of_nasbench_have_it():
    cell = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"
    StatisticalMatching(networks=(TeacherSettings(architecture=cell),))


def test_a_file_with_a_network_without_it_is_refused(tmp_path):
    file = tmp_path / "teacher.safetensors"
    obtain_teacher(squeezed(norm="group"), tiny_dataset(), DistillContext()).save(file)
    networks = (TeacherSettings(checkpoint=str(file)),)
    with pytest.raises(ConfigError, match=r"teacher\.safetensors has none"):
        distill(networks=networks)


def test_no_network_at_all_is_refused():
    with pytest.raises(ConfigError, match="at least one network"):
        StatisticalMatching(networks=())


def test_a_batch_that_does_not_fit_is_refused_before_the_first_step(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 10 * 2**20)
    monkeypatch.setattr(
        memory.BatchMemory, "measure", lambda *_: memory.BatchMemory(0.0, 4 * 2**20)
    )
    monkeypatch.setattr(Recovery, "__call__", lambda *_: pytest.fail("it starts all the same"))
    with pytest.raises(ConfigError, match="a batch of 6 images .* distill.batch_size to at most 2"):
        distill(2)
    with pytest.raises(ConfigError, match="each of 2 workers.* to at most 1,"):
        distill(2, context=DistillContext(num_workers=2))


def test_running_out_of_memory_later_gives_the_same_sentence(monkeypatch):
    def fail(recovery, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Recovery, "__call__", fail)
    with pytest.raises(ConfigError, match="a batch of 6 images.* distill.batch_size to at most 5"):
        distill(2)


def test_the_record_names_the_networks_and_what_they_cost():
    made = distill(augmentation=Augmentation(flip=True))
    (record,) = made.networks
    assert record.description.startswith("ConvNet, depth 2, width 4, batch norm")
    assert {"distilling"} < made.costs.keys()
    assert made.augmentation == Augmentation(flip=True)
    assert made.learning_rate_rule.optimiser == "adamw"
    json.dumps(made.card())
    assert replace(made, costs={}).id == made.id
