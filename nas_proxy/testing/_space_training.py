"""Checks that networks of a search space can be trained, in the ways in which studies do it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from nas_proxy.errors import DivergedError
from nas_proxy.evaluate.network import failure_reason
from nas_proxy.interfaces import SearchSpace
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.testing._common import blame, finite, require, tiny_dataset
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import measure
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Architecture, DatasetSpec

BATCH_SIZE = 4
_ODD_SHAPES = ((1, 9, 9), (3, 15, 15))


def check_training_small(space: SearchSpace, num_samples: int) -> None:
    """One step of training works on three classes of 8x8 images with one channel."""
    for architecture in samples(space, num_samples):
        train_once(space, architecture, small_spec(), "a sampled architecture")


def check_training_large(space: SearchSpace, num_samples: int) -> None:
    """The same for seven classes of 32x32 images with three channels; on three samples at most."""
    spec = tiny_dataset(num_classes=7, image_shape=(3, 32, 32)).spec
    for architecture in samples(space, num_samples)[:3]:
        train_once(space, architecture, spec, "a sampled architecture")


def check_training_odd(space: SearchSpace, num_samples: int) -> None:
    """The same for images whose sizes no power of two divides; on two samples at most."""
    for shape, architecture in zip(_ODD_SHAPES, samples(space, num_samples), strict=False):
        spec = tiny_dataset(image_shape=shape).spec
        train_once(space, architecture, spec, "a sampled architecture")


def check_training_as_studies(space: SearchSpace, num_samples: int) -> None:
    """A training in bfloat16 with channels-last images works; on two samples at most.

    That is what a study computes with wherever it is faster.
    """
    dataset = tiny_dataset(images_per_class=2)
    settings = TrainSettings(
        num_steps=1,
        batch_size=BATCH_SIZE,
        learning_rate=1e-3,
        precision="bfloat16",
        channels_last=True,
    )
    for architecture in samples(space, num_samples)[:2]:
        where = f"{space.name}: a sampled architecture, {architecture.genotype_json}"
        network = built(space, architecture, dataset.spec, seed=0)
        try:
            with isolated_rng(0):
                train(network, TrainingSet.of(dataset), settings, make_generator(0))
                measure(network, dataset, settings)
        except DivergedError:
            continue  # the learning rate's fault
        except Exception as error:  # noqa: BLE001 - a network may raise anything
            raise AssertionError(
                f"{where}, cannot be trained in bfloat16 with channels-last images, which studies "
                f"do where it is faster: {failure_reason(error)}"
            ) from error


def check_one_image(space: SearchSpace, num_samples: int) -> None:
    """A network answers to one image as it does to the same one among others; on three samples.

    The images have 16x16 pixels: where one is down to one pixel, norms have nothing to go by.
    """
    spec = tiny_dataset(image_shape=(1, 16, 16)).spec
    images = torch.randn(BATCH_SIZE, *spec.image_shape, generator=make_generator(0))
    for architecture in samples(space, num_samples)[:3]:
        where = f"{space.name}: a sampled architecture, {architecture.genotype_json}"
        network = built(space, architecture, spec, seed=0).eval()
        with blame(f"{where}, fails on a single image"), torch.no_grad():
            alone, among = network(images[:1]), network(images)[:1]
        require(
            alone.shape == among.shape,
            f"{where}, gives logits of shape {tuple(alone.shape)} for one image; expected "
            f"{tuple(among.shape)}: squeeze or reshape by name of the dimension",
        )
        require(
            torch.allclose(alone, among, rtol=1e-3, atol=1e-4),
            f"{where}, answers otherwise to an image alone than among others",
        )


TRAINING_CHECKS: tuple[Callable[[SearchSpace, int], None], ...] = (
    check_training_small,
    check_training_large,
    check_training_odd,
    check_training_as_studies,
    check_one_image,
)


def small_spec() -> DatasetSpec:
    """Three classes of 8x8 images with one channel."""
    return tiny_dataset(image_shape=(1, 8, 8)).spec


def samples(space: SearchSpace, num_samples: int) -> list[Architecture]:
    """Different architectures, `num_samples` of them or fewer."""
    generator = make_generator(0)
    return list(dict.fromkeys(space.sample(generator) for _ in range(num_samples)))


def built(
    space: SearchSpace, architecture: Architecture, spec: DatasetSpec, *, seed: int
) -> nn.Module:
    """An architecture's network, with weights of a seed."""
    with blame(f"{space.name}: {architecture.genotype_json} does not build"), isolated_rng(seed):
        return space.build(architecture, spec)


def train_once(
    space: SearchSpace, architecture: Architecture, spec: DatasetSpec, what: str
) -> None:
    """One step of gradient descent, and an evaluation afterwards."""
    shape = "x".join(map(str, reversed(spec.image_shape)))
    where = (
        f"{space.name}: {what}, {architecture.genotype_json}, on {spec.num_classes} classes of "
        f"{shape} images"
    )
    network = built(space, architecture, spec, seed=0)
    generator = make_generator(0)
    images = torch.randn(BATCH_SIZE, *spec.image_shape, generator=generator)
    labels = torch.randint(spec.num_classes, (BATCH_SIZE,), generator=generator)
    before = images.clone()
    with blame(f"{where}, cannot be trained"), isolated_rng(0):
        network.train()
        logits = network(images)
        require(
            logits.shape == (BATCH_SIZE, spec.num_classes),
            f"{where}, gives logits of shape {tuple(logits.shape)} for {BATCH_SIZE} images; "
            f"expected {(BATCH_SIZE, spec.num_classes)}",
        )
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        torch.optim.SGD(network.parameters(), lr=0.01).step()
        network.eval()
        with torch.no_grad():
            trained_logits = network(images)
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    require(bool(gradients), f"{where}, has no parameter that training could change")
    require(bool(loss.isfinite()), f"{where}, has a loss that is not finite")
    require(finite(*gradients), f"{where}, has a gradient that is not finite")
    require(finite(trained_logits), f"{where}, gives logits that are not finite after one step")
    require(torch.equal(images, before), f"{where}, changes the images it is given")
