"""The distillers: their losses and steps recomputed by hand, and what a kill leaves behind."""

import math
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nas_proxy.data.augment import DSA_STRATEGY, Augmentation
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.transforms import normalise
from nas_proxy.distill import checkpoint as checkpoint_module
from nas_proxy.distill import pixels
from nas_proxy.distill.checkpoint import Checkpointer
from nas_proxy.distill.distribution_matching import DistributionMatching
from nas_proxy.distill.file import ProxyDatasetFile
from nas_proxy.distill.gradient_matching import GradientMatching, gradient_distance
from nas_proxy.distill.pixels import RealImages, SyntheticImages
from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.errors import ConfigError, DivergedError, ProxyFileError, StudyError
from nas_proxy.interfaces import DistillContext
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.testing import tiny_dataset

SMALL = {"network_width": 4, "network_depth": 2}
NUM_CLASSES = 3


def distill(distiller, images_per_class=2, seed=0, dataset=None, **context):
    return distiller.distill(
        dataset or tiny_dataset(),
        images_per_class,
        generator=make_generator(seed),
        context=DistillContext(**context),
    )


class Log:
    """A progress display that keeps what it is told, and stops the work after a given step."""

    def __init__(self, stop_after=None):
        self.steps, self.losses, self._stop_after = [], [], stop_after

    def __call__(self, done, total, note=""):
        self.steps.append((done, total))
        self.losses.append(float(note.removeprefix("matching loss ")))
        if done == self._stop_after:
            raise KeyboardInterrupt


# The network, and the same by hand


def small_network(seed=0, image_shape=(3, 8, 8)):
    with isolated_rng(seed):
        return ConvNet(image_shape, NUM_CLASSES, width=4, depth=2)


def weights_of(network):
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def embed_by_hand(weights, images):
    """Two blocks of convolution, instance norm, rectifier and average pooling, flattened."""
    x = images
    for block in ("features.0", "features.4"):
        norm = block.replace("0", "1").replace("4", "5")
        num, _, height, width = x.shape
        columns = torch.nn.functional.unfold(x, kernel_size=3, padding=1)
        kernel = weights[f"{block}.weight"].flatten(1)
        x = (kernel @ columns).view(num, len(kernel), height, width)
        x = x + weights[f"{block}.bias"].view(1, -1, 1, 1)
        mean = x.mean(dim=(2, 3), keepdim=True)
        variance = (x - mean).square().mean(dim=(2, 3), keepdim=True)
        x = (x - mean) / (variance + 1e-5).sqrt()
        x = x * weights[f"{norm}.weight"].view(1, -1, 1, 1) + weights[f"{norm}.bias"].view(
            1, -1, 1, 1
        )
        x = x.clamp(min=0)
        x = (
            x[:, :, :-1:2, :-1:2]
            + x[:, :, 1::2, :-1:2]
            + x[:, :, :-1:2, 1::2]
            + x[:, :, 1::2, 1::2]
        ) / 4
    return x.flatten(1)


def loss_by_hand(weights, images, labels):
    logits = embed_by_hand(weights, images) @ weights["classifier.weight"].T
    logits = logits + weights["classifier.bias"]
    return (logits.logsumexp(dim=1) - logits[torch.arange(len(labels)), labels]).mean()


def mean_embedding_distance(weights, dataset, images, per_class):
    """The loss of distribution matching, without augmentation, on all real images."""
    real = normalise(dataset.images, dataset.spec)
    total = 0.0
    for label in range(NUM_CLASSES):
        goal = embed_by_hand(weights, real[dataset.labels == label]).mean(dim=0)
        mean = embed_by_hand(weights, images[label * per_class : (label + 1) * per_class]).mean(
            dim=0
        )
        total = total + ((goal - mean) ** 2).sum()
    return total


def gradient_mismatch(weights, dataset, images, per_class):
    """The loss of gradient matching, without augmentation, on all real images."""
    weights = {name: value.clone().requires_grad_() for name, value in weights.items()}
    real = normalise(dataset.images, dataset.spec).to(images.dtype)
    total = 0.0
    for label in range(NUM_CLASSES):
        mine = images[label * per_class : (label + 1) * per_class]
        goal, made = (
            torch.autograd.grad(
                loss_by_hand(weights, x, torch.full((len(x),), label)),
                list(weights.values()),
                create_graph=True,
            )
            for x in (real[dataset.labels == label], mine)
        )
        for one, other in zip(goal, made, strict=True):
            if one.ndim == 1:
                continue
            for row, other_row in zip(one.detach().flatten(1), other.flatten(1), strict=True):
                lengths = row.square().sum().sqrt() * other_row.square().sum().sqrt()
                total = total + 1 - (row * other_row).sum() / (lengths + 1e-6)
    return total


@pytest.fixture
def networks(monkeypatch):
    """The weights that each network of a distillation started from."""
    seen = []

    class Remembered(ConvNet):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            seen.append(weights_of(self))

    monkeypatch.setattr(pixels, "ConvNet", Remembered)
    return seen


def test_the_network_by_hand_is_the_network():
    network, images = small_network(), torch.randn(3, 3, 8, 8, generator=make_generator(0))
    torch.testing.assert_close(embed_by_hand(weights_of(network), images), network.embed(images))


def test_the_matching_network_of_the_field_has_its_published_size():
    network = ConvNet((3, 32, 32), 10)
    assert sum(weight.numel() for weight in network.parameters()) == 320_010
    assert network.embed(torch.zeros(2, 3, 32, 32)).shape == (2, 128 * 4 * 4)


# Distribution matching


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_distribution_matching_is_descent_on_the_distance_of_mean_embeddings(networks, momentum):
    dataset, log = tiny_dataset(), Log()
    distiller = DistributionMatching(
        num_steps=3, image_learning_rate=0.7, image_momentum=momentum, augment="", **SMALL
    )
    result = distill(distiller, progress=log)
    images, _ = distiller.initialise(dataset, 2, make_generator(0))
    start, velocity, losses = images.clone(), 0.0, []
    assert len(networks) == 3
    for weights in networks:
        images = images.detach().requires_grad_()
        loss = mean_embedding_distance(weights, dataset, images, 2)
        losses.append(float(loss.detach()))
        velocity = momentum * velocity + torch.autograd.grad(loss, images)[0]
        images = images - 0.7 * velocity
    torch.testing.assert_close(result.images, images.detach(), rtol=1e-4, atol=1e-5)
    assert log.losses == pytest.approx(losses, rel=0.01)
    assert float((result.images - start).abs().max()) > 0.01
    first = networks[0]["features.0.weight"]
    assert not any(torch.equal(first, other["features.0.weight"]) for other in networks[1:])


def test_distribution_matching_moves_noise_towards_the_data():
    dataset = tiny_dataset()
    distiller = DistributionMatching(
        num_steps=30, image_learning_rate=1.0, init="noise", augment="", **SMALL
    )
    start, _ = distiller.initialise(dataset, 2, make_generator(0))
    result = distill(distiller)
    probes = [weights_of(small_network(seed)) for seed in range(100, 106)]

    def distance(images):
        return sum(float(mean_embedding_distance(w, dataset, images, 2)) for w in probes)

    assert distance(result.images) < 0.8 * distance(start)


@pytest.mark.parametrize("augment", ["", "color", "crop", "flip", "rotate", DSA_STRATEGY])
def test_all_images_of_a_class_match_themselves_under_the_same_change(augment):
    """Only if real and synthetic batches get equal changes is there nothing left to match."""
    log = Log()
    distiller = DistributionMatching(num_steps=6, augment=augment, **SMALL)
    distill(distiller, images_per_class=8, progress=log)
    assert max(log.losses) < 1e-9


# Gradient matching


def test_the_distance_of_gradients_is_that_of_a_loop():
    generator = make_generator(0)
    shapes = [(4, 3, 3, 3), (4,), (2, 5), (1,)]
    gradients, target = (
        [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        for _ in range(2)
    )
    target[2][1] = 0.0  # the row of a dead unit
    expected = 0.0
    for one, other in zip(gradients, target, strict=True):
        if one.ndim == 1:
            continue
        for row, goal in zip(one.numpy(), other.numpy(), strict=True):
            row, goal = row.ravel(), goal.ravel()
            expected += 1 - row @ goal / (math.sqrt(row @ row) * math.sqrt(goal @ goal) + 1e-6)
    assert float(gradient_distance(gradients, target)) == pytest.approx(expected, rel=1e-12)


def test_rows_without_gradient_count_one_and_give_finite_derivatives():
    gradient = torch.zeros(3, 4, requires_grad=True)
    target = torch.tensor([[0.0] * 4, [1.0] * 4, [2.0] * 4])
    distance = gradient_distance([gradient], [target])
    assert float(distance.detach()) == 3.0
    distance.backward()
    assert gradient.grad.isfinite().all()


def test_equal_and_opposite_gradients_are_the_extremes():
    gradient = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert float(gradient_distance([gradient], [7 * gradient])) == pytest.approx(0, abs=1e-5)
    assert float(gradient_distance([gradient], [-gradient])) == pytest.approx(4, abs=1e-5)


class DoubleImages(RealImages):
    """Real images in double precision."""

    def batch(self, label, generator):
        return super().batch(label, generator).double()


def test_the_derivative_to_the_pixels_is_that_of_finite_differences():
    dataset = tiny_dataset(image_shape=(3, 6, 6))
    distiller = GradientMatching(outer_loop=1, image_learning_rate=1.0, image_momentum=0.0)
    network = small_network(image_shape=(3, 6, 6)).double()
    start = torch.randn(6, 3, 6, 6, generator=make_generator(0), dtype=torch.float64)
    labels = torch.arange(3).repeat_interleave(2)

    def step(images):
        """The loss at `images`, and the images after one step of length one."""
        images = images.clone().requires_grad_()
        synthetic = SyntheticImages(
            images, labels, 2, dataset.spec, torch.optim.SGD([images], lr=1.0)
        )
        loss = distiller.iterate(synthetic, DoubleImages(dataset, 256), network, seed=0)
        return loss, images.detach()

    loss, moved = step(start)
    assert loss == pytest.approx(
        float(gradient_mismatch(weights_of(network), dataset, start, 2).detach()), rel=1e-6
    )
    gradient = (start - moved).flatten()
    assert float(gradient.abs().max()) > 1e-3
    for pixel in (0, 50, 130, 200, 333, 600, 647):
        nudge = torch.zeros_like(start)
        nudge.view(-1)[pixel] = 1e-5
        slope = (step(start + nudge)[0] - step(start - nudge)[0]) / 2e-5
        assert float(gradient[pixel]) == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("init", ["noise", "real"])
def test_gradient_matching_follows_the_training_of_each_network(networks, init):
    dataset, log = tiny_dataset(), Log()
    distiller = GradientMatching(
        num_steps=2,
        outer_loop=3,
        inner_loop=2,
        init=init,
        image_learning_rate=0.2,
        network_learning_rate=0.05,
        **SMALL,
    )
    result = distill(distiller, progress=log)
    images, labels = distiller.initialise(dataset, 2, make_generator(0))
    velocity, losses = 0.0, []
    for weights in networks:
        for update in range(3):
            images = images.detach().requires_grad_()
            loss = gradient_mismatch(weights, dataset, images, 2)
            losses.append(float(loss.detach()))
            velocity = 0.5 * velocity + torch.autograd.grad(loss, images)[0]
            images = (images - 0.2 * velocity).detach()
            for _ in range(2 if update < 2 else 0):  # six images are one batch
                leaves = {name: value.requires_grad_() for name, value in weights.items()}
                slopes = torch.autograd.grad(
                    loss_by_hand(leaves, images, labels), list(leaves.values())
                )
                weights = {
                    name: (value - 0.05 * slope).detach()
                    for (name, value), slope in zip(leaves.items(), slopes, strict=True)
                }
    torch.testing.assert_close(result.images, images, rtol=1e-3, atol=1e-4)
    means = [sum(losses[at : at + 3]) / 3 for at in (0, 3)]
    assert log.losses == pytest.approx(means, rel=0.01)
    assert len(networks) == 2


def test_gradient_matching_makes_noise_push_like_the_data():
    dataset = tiny_dataset()
    distiller = GradientMatching(
        num_steps=30, outer_loop=1, inner_loop=1, image_learning_rate=1.0, **SMALL
    )
    start, _ = distiller.initialise(dataset, 2, make_generator(0))
    result = distill(distiller)
    probes = [weights_of(small_network(seed)) for seed in range(100, 105)]

    def distance(images):
        return sum(float(gradient_mismatch(w, dataset, images, 2).detach()) for w in probes)

    assert distance(result.images) < 0.8 * distance(start)


@pytest.mark.parametrize("augment", ["color", "crop", "cutout", "rotate", DSA_STRATEGY])
def test_gradients_are_compared_under_the_same_change(augment):
    log = Log()
    options = {"num_steps": 4, "outer_loop": 1, "init": "real", **SMALL}
    distill(GradientMatching(augment=augment, **options), images_per_class=8, progress=log)
    assert max(log.losses) < 0.01  # of 33 rows


@pytest.mark.parametrize(
    ("images_per_class", "outer", "inner"),
    [
        (1, 1, 1),
        (10, 10, 50),
        (20, 20, 25),
        (30, 30, 20),
        (40, 40, 15),
        (50, 50, 10),
        (2, 2, 250),
        (5, 5, 100),
        (100, 100, 5),
        (1000, 1000, 1),
    ],
)
def test_loops_are_the_published_ones_unless_they_are_said(images_per_class, outer, inner):
    assert GradientMatching().loops(images_per_class) == (outer, inner)
    assert GradientMatching(outer_loop=3).loops(images_per_class) == (3, inner)
    assert GradientMatching(inner_loop=7).loops(images_per_class) == (outer, 7)


def test_the_defaults_are_the_published_settings():
    matching = DistributionMatching()
    assert (matching.num_steps, matching.image_learning_rate) == (20_000, 1.0)
    assert (matching.init, matching.augment) == ("real", DSA_STRATEGY)
    condensation = GradientMatching()
    assert (condensation.num_steps, condensation.image_learning_rate) == (1000, 0.1)
    assert (condensation.init, condensation.augment) == ("noise", "")
    assert condensation.network_learning_rate == 0.01
    for method in (matching, condensation):
        assert (method.image_momentum, method.real_batch_size) == (0.5, 256)
        assert (method.network_width, method.network_depth) == (128, 3)


# What both methods share


def test_batches_of_real_images_are_of_one_class_without_repeats():
    dataset = tiny_dataset()
    real, generator = RealImages(dataset, 5), make_generator(0)
    normalised = normalise(dataset.images, dataset.spec)
    seen = set()
    for label in range(NUM_CLASSES):
        members = [tuple(image.flatten().tolist()) for image in normalised[dataset.labels == label]]
        for _ in range(6):
            batch = [tuple(image.flatten().tolist()) for image in real.batch(label, generator)]
            assert len(set(batch)) == 5
            assert set(batch) <= set(members)
            seen.update(batch)
    assert len(seen) == len(dataset)
    assert len(RealImages(dataset, 256).batch(0, generator)) == 8


def test_distilling_starts_from_real_images_or_from_noise():
    dataset = tiny_dataset()
    real, labels = DistributionMatching().initialise(dataset, 4, make_generator(0))
    drawn, _ = RandomSubset().initialise(dataset, 4, make_generator(0))
    assert torch.equal(real, drawn)
    noise, noise_labels = DistributionMatching(init="noise").initialise(
        dataset, 8, make_generator(0)
    )
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert noise_labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert abs(float(noise.mean())) < 0.1
    assert float(noise.std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("method", [DistributionMatching, GradientMatching])
def test_an_unknown_augmentation_is_refused_at_once(method):
    with pytest.raises(ConfigError, match="did you mean 'flip'"):
        method(augment="color_flipp")


def test_the_result_asks_for_the_augmentation_that_it_was_made_with():
    result = distill(DistributionMatching(num_steps=1, augment="color_crop", **SMALL))
    assert result.augmentation == Augmentation(dsa="color_crop")
    assert result.parameters["num_steps"] == 1
    assert result.seed == 0
    assert result.cost_seconds > 0


# A kill, and what it leaves behind


METHODS = {
    "dm": DistributionMatching(num_steps=4, **SMALL),
    "dm_plain": DistributionMatching(num_steps=4, image_momentum=0.0, augment="", **SMALL),
    "dsa": GradientMatching(num_steps=4, outer_loop=2, inner_loop=1, augment="color_crop", **SMALL),
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
@pytest.mark.parametrize("kills", [[4], [1, 3]])
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
    monkeypatch.setattr(pixels, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with pytest.raises(KeyboardInterrupt):
        distill(METHODS["dm"], checkpoint=checkpoint, progress=Log(stop_after=2))
    assert distill(METHODS["dm"], checkpoint=checkpoint).cost_seconds == 200 + 300


@pytest.mark.parametrize(
    "other",
    [
        lambda path: distill(replace(METHODS["dm"], num_steps=5), checkpoint=path),
        lambda path: distill(replace(METHODS["dm"], image_learning_rate=2.0), checkpoint=path),
        lambda path: distill(replace(METHODS["dm"], augment="color"), checkpoint=path),
        lambda path: distill(METHODS["dm"], images_per_class=3, checkpoint=path),
        lambda path: distill(METHODS["dm"], seed=1, checkpoint=path),
        lambda path: distill(METHODS["dsa"], checkpoint=path),
        lambda path: distill(
            METHODS["dm"], dataset=tiny_dataset(images_per_class=9), checkpoint=path
        ),
    ],
    ids=["num_steps", "rate", "augment", "images_per_class", "seed", "method", "data"],
)
def test_the_checkpoint_of_another_distillation_is_refused_and_kept(interrupted, other):
    before = interrupted.read_bytes()
    with pytest.raises(StudyError, match="other options, data or seed; delete it") as caught:
        other(interrupted)
    assert str(interrupted) in str(caught.value)
    assert interrupted.read_bytes() == before


def test_a_damaged_checkpoint_is_refused_with_the_way_out(interrupted):
    whole = interrupted.read_bytes()
    for length in (0, 5, 8, 60, len(whole) // 2, len(whole) - 1):
        interrupted.write_bytes(whole[:length])
        with pytest.raises(StudyError, match=r"is damaged \(.*\); delete it to distil anew"):
            distill(METHODS["dm"], checkpoint=interrupted)
        assert interrupted.stat().st_size == length


@pytest.mark.parametrize(
    "header", [None, {}, {"state": "{"}, {"state": "[]"}, {"state": "3"}, {"state": "{}"}]
)
def test_a_checkpoint_of_another_program_is_refused(checkpoint, header):
    save_file({"images": torch.zeros(2)}, checkpoint, header)
    with pytest.raises(StudyError, match="is damaged .*; delete it to distil anew"):
        distill(METHODS["dm"], checkpoint=checkpoint)


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
        checkpointer.save_if_due(step, now[0], {"images": torch.zeros(1)})
    assert saved_at[0] == pytest.approx(1.0, abs=0.2)
    assert len(saved_at) == 5
    assert np.diff(saved_at) == pytest.approx(102, abs=0.2)


# A loss that is not finite


class Breaks(DistributionMatching):
    """Loses its way at the third step."""

    value = math.nan
    done = 0

    def iterate(self, synthetic, real, network, seed):
        loss = super().iterate(synthetic, real, network, seed)
        type(self).done += 1
        if self.done < 3:
            return loss
        with torch.no_grad():
            synthetic.images.fill_(math.nan)
        return self.value


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "the matching loss is not finite"),
        (math.inf, "the matching loss is not finite"),
        (1.0, "a pixel is not finite"),
    ],
)
def test_a_breakdown_names_its_step_and_keeps_the_state_before_it(checkpoint, value, said):
    broken = type("Breaks", (Breaks,), {"value": value})(num_steps=4, **SMALL)
    with pytest.raises(
        DivergedError, match=rf"diverged at step 3 of 4: {said}; lower .*\(now 1\.0\)"
    ):
        distill(broken, checkpoint=checkpoint)
    assert all(value.isfinite().all() for value in load_file(checkpoint).values())
    log = Log()
    continued = distill(METHODS["dm"], checkpoint=checkpoint, progress=log)
    assert log.steps == [(3, 4), (4, 4)]
    assert continued == replace(distill(METHODS["dm"]), cost_seconds=continued.cost_seconds)


def test_pixels_that_break_at_the_last_step_are_noticed_too():
    broken = type("Breaks", (Breaks,), {"value": 1.0})(num_steps=3, **SMALL)
    with pytest.raises(DivergedError, match="diverged at step 3 of 3: a pixel is not finite"):
        distill(broken)


@pytest.mark.parametrize(
    "distiller",
    [
        DistributionMatching(num_steps=5, image_learning_rate=3e38, **SMALL),
        GradientMatching(num_steps=5, image_learning_rate=3e38, outer_loop=1, **SMALL),
        GradientMatching(num_steps=5, image_learning_rate=3e38, outer_loop=3, **SMALL),
    ],
    ids=["dm", "dc", "dc_trains"],
)
def test_a_learning_rate_that_is_much_too_high_is_named(distiller):
    with pytest.raises(DivergedError, match=r"at step [12] of 5: .*rate \(now 3e\+38\)"):
        distill(distiller)


# Real images, and files


@pytest.mark.parametrize("images_per_class", [1, 3, 8])
def test_the_control_is_made_of_different_real_images_of_each_class(images_per_class):
    dataset = tiny_dataset()
    result = distill(RandomSubset(augmentation=Augmentation(flip=True)), images_per_class)
    pixels_of = {
        label: {tuple(x.flatten().tolist()) for x in dataset.images[dataset.labels == label]}
        for label in range(NUM_CLASSES)
    }
    assert result.labels.tolist() == [x for x in range(3) for _ in range(images_per_class)]
    drawn = [tuple(image.flatten().tolist()) for image in result.pixels()]
    for image, label in zip(drawn, result.labels.tolist(), strict=True):
        assert image in pixels_of[label]
    assert len(set(drawn)) == len(drawn)
    assert result.augmentation == Augmentation(flip=True)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "proxy.safetensors"
    distill(RandomSubset()).save(path)
    return path


def test_a_file_is_taken_as_it_is(saved, monkeypatch):
    assert distill(ProxyDatasetFile(path=str(saved)), seed=9) == ProxyDataset.load(saved)
    monkeypatch.setenv("HOME", str(saved.parent))
    assert distill(ProxyDatasetFile(path=f"~/{saved.name}")) == ProxyDataset.load(saved)


def test_a_file_of_other_images_is_refused(saved):
    with pytest.raises(ProxyFileError, match="made from tiny, whose search-training split is"):
        distill(ProxyDatasetFile(path=str(saved)), dataset=tiny_dataset(images_per_class=9))


def test_a_file_with_another_number_of_images_is_refused_and_both_are_named(saved):
    with pytest.raises(ProxyFileError, match=r"holds 2 images per class.* is 5; set it to 2"):
        distill(ProxyDatasetFile(path=str(saved)), images_per_class=5)


def test_a_file_that_is_missing_or_damaged_is_refused(saved):
    missing = Path(f"{saved}.not")
    with pytest.raises(ProxyFileError, match=r"\.not does not exist"):
        distill(ProxyDatasetFile(path=str(missing)))
    saved.write_bytes(saved.read_bytes()[:-5])
    with pytest.raises(ProxyFileError, match="truncated or damaged"):
        distill(ProxyDatasetFile(path=str(saved)))
