"""Gradient descent whose steps have one length, whatever the scale of the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

import torch


class NormalisedSGD(torch.optim.SGD):
    """SGD on gradients that are scaled to a root mean square of one, each tensor for itself.

    The learning rate is the typical change of a number in a step. Where each step meets another
    network, each counts alike; Adam would remember for long the one with the largest gradient.
    """

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step along the gradients that are there; a gradient of zeros stays one."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    size = parameter.grad.square().mean().sqrt()
                    parameter.grad.div_(torch.where(size > 0, size, 1.0))
        found: float | None = super().step(closure)
        return found
