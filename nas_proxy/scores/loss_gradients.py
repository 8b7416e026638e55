"""The gradient of a classification's loss at initialisation, which several scores look at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_proxy.errors import EvaluationError
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
