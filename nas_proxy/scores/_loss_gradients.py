"""The gradient of a classification's loss at initialisation, which several scores look at."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nas_proxy.errors import EvaluationError
from nas_proxy.options import PositiveInt
from nas_proxy.scores._sharing import Read, SharingScore, TrainingPass


@dataclass(frozen=True, kw_only=True)
class OneBatchScore(SharingScore):
    """A score of one batch in training mode: scores of different images do not compare.

    Attributes:
        num_images: Images of the batch, the first ones given; all when fewer are given.
    """

    num_images: PositiveInt = 64

    def shares(self) -> Hashable:
        """Those that look at as many images."""
        return TrainingPass, self.num_images

    def new_pass(self) -> TrainingPass:
        """See `SharingScore.new_pass`."""
        return TrainingPass(self.num_images)

    @abstractmethod
    def join(self, shared: TrainingPass) -> Read:
        """See `SharingScore.join`."""


@dataclass(frozen=True, kw_only=True)
class LayerwiseGradientScore(OneBatchScore):
    """A sum over the convolutions and linear layers of what the loss's gradient says of each."""

    looks_at_labels: ClassVar[bool] = True

    @abstractmethod
    def measure_layer(self, weight: Tensor, gradient: Tensor) -> float:
        """Score one layer by its weights and the loss's gradient by them, of the same shape."""

    def join(self, shared: TrainingPass) -> Read:
        """See `SharingScore.join`; no score where no gradient arrives, or one is not finite."""
        shared.wants_gradients = True

        def read() -> float:
            gradients = weight_gradients(shared, score=self.name)
            return sum(
                self.measure_layer(weight.detach(), gradient.detach())
                for weight, gradient in zip(shared.weights, gradients, strict=True)
            )

        return read


def weight_gradients(shared: TrainingPass, *, score: str) -> list[Tensor]:
    """Those of a pass, after a look at them.

    Args:
        shared: A pass that has been run.
        score: Name of the score that asks, for messages.

    Raises:
        EvaluationError: If there is no weight, a gradient is not finite, or all are zero.
    """
    if not shared.weights:
        raise EvaluationError(f"{score}: the network has no convolution and no linear layer")
    require_signal(shared.weight_gradients, score=score)
    return shared.weight_gradients


def require_signal(gradients: Sequence[Tensor], *, score: str) -> None:
    """Refuse gradients from which nothing can be concluded.

    Raises:
        EvaluationError: If one of them is not finite, or all are zero.
    """
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        raise EvaluationError(f"{score}: the gradients of the loss are not finite")
    if not any(bool(gradient.any()) for gradient in gradients):
        raise EvaluationError(
            f"{score}: no gradient reaches any weight, the network is disconnected"
        )
