"""What the checks of all three kinds of plug-in share."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from nas_proxy.options import Options
from nas_proxy.reproducibility import content_hash, make_generator
from nas_proxy.types import DatasetSpec, ImageDataset

if TYPE_CHECKING:  # needed where a space is checked alone
    import optuna


def require(condition: bool, sentence: str) -> None:
    """Fail a check.

    Raises:
        AssertionError: With `sentence`, unless `condition` holds; also under `python -O`.
    """
    if not condition:
        raise AssertionError(sentence)


@contextmanager
def blame(sentence: str) -> Iterator[None]:
    """Turn whatever a plug-in raises into a failed check.

    Raises:
        AssertionError: With `sentence` and what was raised.
    """
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
        raise AssertionError(f"{sentence}: {type(error).__name__}: {error}") from error


@contextmanager
def global_generators_untouched(who: str) -> Iterator[None]:
    """Fail if the block leaves a global generator of torch, numpy or Python in another state.

    Raises:
        AssertionError: If it does; the message names the generator.
    """
    before = _generator_states()
    yield
    for name, state in _generator_states().items():
        require(
            state == before[name],
            f"{who} changes the global random generator of {name}: draw from the generator that "
            "is handed in, or inside nas_proxy.reproducibility.isolated_rng",
        )


def check_class(plugin: Options) -> None:
    """The class is named, and everything it declares as an option is one."""
    cls = type(plugin)
    require(
        bool(getattr(plugin, "name", "")),
        f"{cls.__name__} has no name: register the class, or load it with the registry's get()",
    )
    options = {field.name for field in fields(plugin)}
    forgotten = [
        name
        for name, annotation in inspect.get_annotations(cls).items()
        if name not in options and "ClassVar" not in str(annotation)
    ]
    require(
        not forgotten,
        f"{', '.join(forgotten)} of {cls.__name__} cannot be set: "
        "put @dataclass(frozen=True, kw_only=True) above the class",
    )


def random_study() -> optuna.Study:
    """A study in memory whose trials are random, begun without Optuna's line that says so."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=7))
    finally:
        optuna.logging.set_verbosity(verbosity)


def tiny_dataset(
    *,
    num_classes: int = 3,
    images_per_class: int = 8,
    image_shape: tuple[int, int, int] = (3, 8, 8),
) -> ImageDataset:
    """Random images whose classes differ in brightness, in mixed order; always the same.

    Args:
        num_classes: Classes, named c0, c1 and so on.
        images_per_class: Images of each.
        image_shape: Channels, height and width.
    """
    generator = make_generator(0)
    num_images = num_classes * images_per_class
    labels = torch.arange(num_images) % num_classes
    labels = labels[torch.randperm(num_images, generator=generator)]
    noise = torch.randint(0, 128, (num_images, *image_shape), generator=generator)
    images = (noise + (labels * 127 // max(1, num_classes - 1)).view(-1, 1, 1, 1)).to(torch.uint8)
    pixels = images.float() / 255
    spec = DatasetSpec(
        name="tiny",
        class_names=tuple(f"c{label}" for label in range(num_classes)),
        image_shape=image_shape,
        mean=tuple(pixels.mean(dim=(0, 2, 3)).tolist()),
        std=tuple(pixels.std(dim=(0, 2, 3)).tolist()),
        licence="none: random numbers",
        source_hash=content_hash(images, labels),
    )
    return ImageDataset(images, labels, spec)


def _generator_states() -> dict[str, object]:
    _, keys, position, *_ = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (np.asarray(keys).tolist(), position),
        "Python": random.getstate(),
    }


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of all weights and buffers, by their names."""
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def finite(*tensors: Tensor) -> bool:
    """Whether all numbers of all tensors are."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def equal_weights(first: nn.Module, second: nn.Module) -> bool:
    """Whether two networks have the same weights and buffers, to the last bit."""
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
