"""LAMB: Adam whose step is as long as the tensor that it changes (You et al., ICLR 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nas_proxy.errors import required


class Lamb(Optimizer):
    """Each tensor moves by `lr` times its own norm along Adam's direction.

    "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", algorithm 2, with
    bias correction and without weight decay. A tensor, or a direction, whose norm is zero has no
    length to follow: it moves by `lr` times the direction itself.

    Args:
        params: Tensors, or groups of them with an `lr` of their own.
        lr: Length of a step as a share of the tensor's norm.
        betas: Decay of the running means of the gradient and of its square.
        eps: Added to the root of the latter.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change every tensor that has a gradient; `closure` is not used, as there is none."""
        if closure is not None:
            raise ValueError("Lamb takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return None

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            # A tensor on the CPU, as in torch's Adam: looking at it makes no GPU wait.
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        gradient = required(parameter.grad, "the gradient")
        beta1, beta2 = group["betas"]
        state["step"] += 1
        num_steps = float(state["step"])
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].lerp_(gradient.square(), 1 - beta2)
        mean = state["exp_avg"] / (1 - beta1**num_steps)
        square = state["exp_avg_sq"] / (1 - beta2**num_steps)
        direction = mean / (square.sqrt() + group["eps"])
        length, norm = parameter.norm(), direction.norm()
        usable = (length > 0) & (norm > 0)
        trust = torch.where(usable, length / norm, torch.ones_like(norm))
        parameter.sub_(direction * (group["lr"] * trust))
