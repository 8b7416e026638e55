"""The gradient of a classification's loss at initialisation, which several scores look at."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_proxy.errors import EvaluationError
from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.options import PositiveInt
from nas_proxy.scores.layers import weighted_layers


def classification_loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, a scalar that can be differentiated; norms use the batch's statistics.

    Args:
        network: Put into training mode.
        images: `(n, c, h, w)`.
        labels: int64, `(n,)`.
    """
    network.train()
    with torch.enable_grad():
        return F.cross_entropy(network(images), labels)


def loss_gradients(
    network: nn.Module, images: Tensor, labels: Tensor, *, score: str, create_graph: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """The weights of convolutions and linear layers, each with its gradient.

    Args:
        network: Put into training mode.
        images: `(n, c, h, w)`.
        labels: int64, `(n,)`.
        score: Name of the score that asks, for messages.
        create_graph: Whether the gradients can be differentiated again.

    Returns:
        Pairs of the same shape; weights that the loss does not depend on have a gradient of zero.

    Raises:
        EvaluationError: If there is no such weight, a gradient is not finite, or all are zero.
    """
    weights = [layer.weight for layer in weighted_layers(network)]
    if not weights:
        raise EvaluationError(f"{score}: the network has no convolution and no linear layer")
    loss = classification_loss(network, images, labels)
    gradients = torch.autograd.grad(
        loss, weights, create_graph=create_graph, materialize_grads=True
    )
    require_signal(gradients, score=score)
    return list(zip(weights, gradients, strict=True))


@dataclass(frozen=True, kw_only=True)
class OneBatchScore(ZeroCostScore):
    """A score that looks at the loss of one batch: scores of different images do not compare.

    Attributes:
        num_images: Images of the batch, the first ones given; all when fewer are given.
    """

    num_images: PositiveInt = 64

    def measure_labelled(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        """Score one network by the first images; see `ZeroCostScore.measure_labelled`."""
        return self.measure_batch(network, images[: self.num_images], labels[: self.num_images])

    @abstractmethod
    def measure_batch(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        """Score one network, which may be altered.

        Args:
            network: Freshly initialised.
            images: Normalised, `(n, c, h, w)`, with n at most `num_images`.
            labels: int64, `(n,)`.

        Raises:
            EvaluationError: If the score is not defined for this network, with the reason.
        """


@dataclass(frozen=True, kw_only=True)
class LayerwiseGradientScore(OneBatchScore):
    """A sum over the convolutions and linear layers of what the loss's gradient says of each."""

    @abstractmethod
    def measure_layer(self, weight: Tensor, gradient: Tensor) -> float:
        """Score one layer by its weights and the loss's gradient by them, of the same shape."""

    def measure_batch(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        """Score one network; see `OneBatchScore.measure_batch`.

        Raises:
            EvaluationError: If no gradient reaches any weight, or one is not finite.
        """
        pairs = loss_gradients(network, images, labels, score=self.name)
        return sum(self.measure_layer(weight.detach(), gradient) for weight, gradient in pairs)


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
