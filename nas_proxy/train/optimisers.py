"""Which parameters a training changes, at which rate, and by which optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nas_proxy.train.objective import Objective, ParameterGroup
from nas_proxy.train.settings import TrainSettings


def rates_of(
    network: nn.Module,
    objective: Objective,
    groups: Sequence[ParameterGroup] | None,
    settings: TrainSettings,
) -> list[dict[str, Any]]:
    """Parameters and their learning rates as torch's optimisers take them.

    With `groups`, all other parameters of the network are frozen.
    """
    if groups is None:
        groups = [ParameterGroup(list(network.parameters()))]
    else:
        network.requires_grad_(False)
        for group in groups:
            for parameter in group.parameters:
                parameter.requires_grad_(True)
    own = list(objective.parameters())
    if own:
        groups = [*groups, ParameterGroup(own)]
    rates = [settings.learning_rate * group.learning_rate_factor for group in groups]
    return [
        {"params": list(group.parameters), "lr": rate, "largest_lr": rate}
        for group, rate in zip(groups, rates, strict=True)
    ]


def make_optimiser(
    rates: list[dict[str, Any]], settings: TrainSettings, *, on: torch.device | None
) -> torch.optim.Optimizer:
    """An optimiser for a graph `on` a device, whose rates are tensors; None: an ordinary one."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if on is not None:
        rates = [{**group, "lr": torch.tensor(group["lr"], device=on)} for group in rates]
    fused = True if on is not None else None
    if settings.optimiser != "sgd":
        kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.AdamW
        return kind(rates, lr=rate, weight_decay=decay, fused=fused, capturable=on is not None)
    return torch.optim.SGD(
        rates,
        lr=rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=decay,
        fused=fused,
    )
