"""Feature extraction and fine-tuning: what learns, at which rate, and for how long."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import nn

from nas_proxy.backbones.backbone import Backbone
from nas_proxy.errors import instance_of
from nas_proxy.train.objective import ParameterGroup
from nas_proxy.train.settings import TrainSettings

RateDecay = Literal["none", "linear", "exponential"]


def head_group(network: nn.Module) -> list[ParameterGroup]:
    """The head alone learns; the body is a fixed function."""
    return [ParameterGroup(instance_of(network, Backbone).head_parameters())]


def fine_tuning_groups(
    network: nn.Module,
    *,
    num_groups: int,
    frozen_share: float,
    decay: RateDecay = "none",
    factor: float = 1.0,
) -> list[ParameterGroup]:
    """The head and the body learn, deeper layers faster ("discriminative fine-tuning").

    Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", ACL 2018,
    divide the rate by 2.6 from one layer to the next.

    Args:
        network: A `Backbone`.
        num_groups: Into which the body is cut by depth.
        frozen_share: Of the groups, from the images on, that are left as they are; rounded to
            whole groups, but the group next to the head always learns.
        decay: How the rate falls from the head, where its factor is 1, to the group next to the
            images: not at all; by equal steps; by equal ratios.
        factor: Of the rate of the group next to the images, also where that is frozen.
    """
    backbone = instance_of(network, Backbone)
    body = backbone.body_parameters(num_groups)
    num_tuned = max(1, len(body) - round(frozen_share * len(body)))
    groups = [ParameterGroup(backbone.head_parameters())]
    for depth, parameters in enumerate(body[:num_tuned], start=1):
        rate = rate_factor(decay, factor, depth / len(body))
        groups.append(ParameterGroup(parameters, rate))
    return groups


def rate_factor(decay: RateDecay, factor: float, way: float) -> float:
    """The factor of the learning rate at a share of the way from the head to the images.

    Args:
        decay: `none` gives 1.
        factor: At the end of the way.
        way: 0 at the head, 1 next to the images.
    """
    if decay == "none":
        return 1.0
    return 1 - way * (1 - factor) if decay == "linear" else float(factor**way)


def share_length(
    settings: TrainSettings, epochs: tuple[int, int]
) -> tuple[TrainSettings | None, TrainSettings | None]:
    """The settings of two phases that share the length of a training.

    Args:
        settings: With the total as steps or epochs, of which each phase gets a share; or with
            `num_epochs: architecture`, where each takes its own.
        epochs: Of both phases; 0 for a phase that there is not.

    Returns:
        None for a phase without epochs. Shares are whole steps or epochs, and no phase that there
        is gets none, but of a total of one the second phase gets it.
    """
    first, second = epochs
    if settings.num_epochs == "architecture":
        parts: tuple[int, int] = epochs
    else:
        total = settings.num_steps or settings.num_epochs or 0
        head = round(total * first / (first + second))
        if first and second:
            head = min(max(head, 1), total - 1)
        parts = (head, total - head)
    return _of_length(settings, parts[0]), _of_length(settings, parts[1])


def _of_length(settings: TrainSettings, length: int) -> TrainSettings | None:
    """The same for so many steps or epochs, whichever the settings count in."""
    if not length:
        return None
    if settings.num_steps is not None:
        return replace(settings, num_steps=length)
    return replace(settings, num_epochs=length)
