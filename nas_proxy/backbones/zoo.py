"""Torchvision's classification networks by name, at any image size that they accept."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import nn

from nas_proxy.backbones._structure import Structure, find_structure
from nas_proxy.errors import ConfigError, did_you_mean, first_line
from nas_proxy.graphs.meta import WeightsOnMeta

SIZE_STEP = 32
"""Pixels: small images are enlarged to a multiple of it, the stride of most of these networks."""

_LARGEST_SIZE = 512
# Of these the published weights expect another scale, and have a second head for training.
_INCEPTION = {"aux_logits": False, "transform_input": True, "init_weights": True}
_OPTIONS: dict[str, dict[str, bool]] = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}
# Networks that must be told the size of the images, and how; 224 is what they assume.
_SIZE_OPTIONS: dict[str, Callable[[int], dict[str, Any]]] = {
    "vit_": lambda size: {"image_size": size},
    "maxvit_": lambda size: {"input_size": (size, size)},
}


def backbone_names() -> list[str]:
    """Every classification network of torchvision, in alphabetical order."""
    from torchvision import models

    return sorted(models.list_models(module=models))


def check_backbone(name: str) -> None:
    """Raise a ConfigError that names the nearest one if torchvision has no such network."""
    known = backbone_names()
    if name not in known:
        raise ConfigError(f"torchvision has no network {name!r}; {did_you_mean(name, known)}")


def build_torchvision(name: str, num_classes: int, image_size: int) -> nn.Module:
    """A network of torchvision with weights from torch's global generator.

    Args:
        name: One of `backbone_names`.
        num_classes: Of its last layer.
        image_size: In pixels, of the images that it will be given.

    Raises:
        ConfigError: If there is no such network, or it cannot be built for that size.
    """
    check_backbone(name)
    from torchvision import models

    options: dict[str, Any] = dict(_OPTIONS.get(name, {}))
    for prefix, says in _SIZE_OPTIONS.items():
        if name.startswith(prefix):
            options |= says(image_size)
    try:
        network: nn.Module = models.get_model(
            name, weights=None, num_classes=num_classes, **options
        )
    except (AssertionError, ValueError) as error:
        raise unsuitable_size(name, image_size, error) from error
    return network


def build_without_weights(name: str, num_classes: int, image_size: int) -> nn.Module:
    """The same on torch's meta device: shapes without numbers, in no time and memory."""
    with WeightsOnMeta():
        network = build_torchvision(name, num_classes, image_size)
    return network.to("meta")


@cache
def structure_of(name: str, image_size: int) -> Structure:
    """Head and layers of a network of torchvision.

    Raises:
        ConfigError: If there is no such network, or it cannot take images of that size.
    """
    num_classes = 7  # other than any of its widths
    network = build_without_weights(name, num_classes, image_size)
    try:
        return find_structure(network, (3, image_size, image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise unsuitable_size(name, image_size, error) from error


@cache
def smallest_size(name: str, at_least: int = SIZE_STEP) -> int:
    """The smallest multiple of 32 pixels, from `at_least` on, that the network accepts.

    Raises:
        ConfigError: If there is no such network, or none up to 512 will do.
    """
    check_backbone(name)
    for image_size in range(-(-at_least // SIZE_STEP) * SIZE_STEP, _LARGEST_SIZE + 1, SIZE_STEP):
        if accepts(name, image_size):
            return image_size
    raise ConfigError(
        f"{name} of torchvision accepts no multiple of {SIZE_STEP} pixels from {at_least} to "
        f"{_LARGEST_SIZE}; set image_size to what it was made for, such as 224"
    )


def accepts(name: str, image_size: int) -> bool:
    """Whether the network can take images of that size."""
    try:
        structure_of(name, image_size)
    except ConfigError:
        return False
    return True


def fitting_size(name: str, image_size: int) -> int:
    """The size at which the network is given images of `image_size` pixels.

    They stay as they are from 32 pixels on if it accepts them so; others are enlarged to the
    next multiple of 32 that it accepts.
    """
    if image_size >= SIZE_STEP and accepts(name, image_size):
        return image_size
    return smallest_size(name, image_size)


def unsuitable_size(name: str, image_size: int, error: Exception) -> ConfigError:
    """What to say where a network cannot take images of a size."""
    return ConfigError(
        f"{name} of torchvision cannot take images of {image_size} pixels "
        f"({first_line(error)}); set image_size to what it was made for, such as 224"
    )
