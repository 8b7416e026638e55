"""NASWOT: how differently an untrained network sees different images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nas_proxy.errors import EvaluationError
from nas_proxy.options import PositiveInt
from nas_proxy.registry import SCORES
from nas_proxy.scores._loss_gradients import OneBatchScore
from nas_proxy.scores._sharing import Read, TrainingPass

# What stands in for ReLU: activations that behave differently on the two sides of zero.
_OTHER_ACTIVATIONS = (
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ReLU6,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.Softplus,
    nn.Sigmoid,
    nn.Tanh,
)


@SCORES.register("naswot")
@dataclass(frozen=True, kw_only=True)
class NASWOT(OneBatchScore):
    """Log-determinant of the kernel that counts the units on which two images agree.

    A unit is one element of a ReLU's input, and two images agree on it when it has the same sign
    for both. In a network without any `nn.ReLU`, the inputs of its other activation modules take
    their place: the sign of a leaky ReLU's input, and whether a sigmoid exceeds one half.
    The network runs in training mode, as published: fresh norms then use the batch's statistics.

    Attributes:
        num_images: Images to compare, the first ones given; all when fewer are given. The cost
            grows in proportion; on NAS-Bench-201 the ranking hardly changes from 32 upwards.
    """

    num_images: PositiveInt = 64

    summary: ClassVar[str] = "how differently an untrained network sees different images"
    paper: ClassVar[str] = "Mellor et al., Neural architecture search without training, ICML 2021"

    def join(self, shared: TrainingPass) -> Read:
        """See `SharingScore.join`.

        There is no score if the network has no activation module, or sees two images alike, so
        that the kernel is singular.
        """
        agreements: list[Tensor] = []

        def compare(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            agreements.append(_agreements(inputs[0].detach()))

        shared.watched_inputs.append((_activations, compare))
        return lambda: _log_determinant(torch.stack(agreements).sum(dim=0))


def _agreements(inputs: Tensor) -> Tensor:
    """Units of one activation on which each pair of images agrees: float64, `(n, n)`.

    Args:
        inputs: `(n, ...)`.
    """
    active = (inputs.reshape(len(inputs), -1) > 0).float()
    counts = active.sum(dim=1)
    both = active @ active.T  # whole numbers below 2**24: exact in float32, as are their sums
    neither = active.shape[1] - counts[:, None] - counts[None, :] + both
    return (both + neither).double()


def _log_determinant(kernel: Tensor) -> float:
    # The kernel is symmetric and positive semi-definite. Its eigenvalues tell a singular one
    # from rounding, where a factorisation would give an arbitrary finite logarithm.
    eigenvalues = torch.linalg.eigvalsh(kernel.cpu())
    smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    if smallest <= largest * len(kernel) * torch.finfo(eigenvalues.dtype).eps:
        raise EvaluationError(
            "naswot: the kernel is singular, its log-determinant is not finite: the network's "
            "activations do not tell the images apart"
        )
    return float(eigenvalues.log().sum())


def _activations(network: nn.Module) -> list[nn.Module]:
    modules = list(network.modules())
    found: list[nn.Module] = [module for module in modules if isinstance(module, nn.ReLU)]
    found = found or [module for module in modules if isinstance(module, _OTHER_ACTIVATIONS)]
    if not found:
        raise EvaluationError(
            "naswot: the network has no activation module such as nn.ReLU, whose inputs could be "
            "compared (functional calls cannot be seen)"
        )
    return found
