"""ZiCo: gradients that are large and agree from batch to batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from nas_proxy.errors import EvaluationError
from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.options import Bound, PositiveInt
from nas_proxy.registry import SCORES
from nas_proxy.scores._loss_gradients import weight_gradients
from nas_proxy.scores._sharing import TrainingPass


@SCORES.register("zico")
@dataclass(frozen=True, kw_only=True)
class ZiCo(ZeroCostScore):
    """Sum over the layers of log sum over the weights of mean |g| / deviation of g.

    g is the gradient of the cross-entropy by one weight; mean and deviation are over a few
    batches. Weights whose gradient is the same in every batch are left out, and layers that have
    no others. The layers are convolutions and linear layers.

    Attributes:
        num_images: Images of all batches together, the first ones given; all when fewer are given.
        num_batches: Batches that they are divided into; two, as published.
    """

    num_images: PositiveInt = 64
    num_batches: Annotated[int, Bound(ge=2)] = 2

    summary: ClassVar[str] = "gradients that are large and agree from batch to batch"
    paper: ClassVar[str] = "Li et al., ZiCo, ICLR 2023"

    def measure_labelled(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        """Score one network; scores of different images do not compare.

        Raises:
            EvaluationError: If no gradient reaches any weight, one is not finite, or all batches
                have the same gradient.
        """
        batches = zip(
            images[: self.num_images].chunk(self.num_batches),
            labels[: self.num_images].chunk(self.num_batches),
            strict=True,
        )
        gradients = [self._gradients(network, *batch) for batch in batches]
        layers = [_log_consistency(torch.stack(layer)) for layer in zip(*gradients, strict=True)]
        counted = [layer for layer in layers if layer is not None]
        if not counted:
            raise EvaluationError("zico: the batches give the same gradient, nothing deviates")
        return sum(counted)

    def _gradients(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
        batch = TrainingPass(len(images), num_readers=1, wants_gradients=True)
        batch.run(network, images, labels)
        return weight_gradients(batch, score=self.name)


def _log_consistency(gradients: Tensor) -> float | None:
    """One layer's part of the score, from its gradients `(num_batches, ...)`."""
    gradients = gradients.double()
    # By hand: torch's own deviation takes seconds along such a short first dimension.
    deviation = (gradients - gradients.mean(dim=0)).square().mean(dim=0).sqrt()
    ratios = gradients.abs().mean(dim=0) / deviation
    total = float(ratios.where(deviation > 0, 0.0).sum())
    return math.log(total) if total > 0 else None
