"""Networks that others built, such as a search space's, with their embedding laid open."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from nas_proxy.errors import ConfigError
from nas_proxy.networks.base import Network


class WrappedNetwork(Network):
    """Any network whose logits are the answer of a linear layer.

    Args:
        network: Maps `(n, c, h, w)` to logits.
        image_shape: Of images that it accepts, `(c, h, w)`.

    Raises:
        ConfigError: If no linear layer gives the logits, and so there is no embedding.
    """

    def __init__(self, network: nn.Module, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.network = network
        # In a list: it is registered once, inside the network.
        self._last = [_last_layer(network, image_shape)]

    @property
    def classifier(self) -> nn.Linear:  # type: ignore[override]
        """The linear layer that gives the logits."""
        return self._last[0]

    def embed(self, images: Tensor) -> Tensor:
        """What that layer is given, flattened: `(n, d)`."""
        found: list[tuple[Tensor, Tensor]] = []

        def keep(module: nn.Module, inputs: tuple[Any, ...], answer: Tensor) -> None:
            found.append((inputs[0], answer))

        with self.classifier.register_forward_hook(keep):
            logits = self.network(images)
        # A layer may be used several times; what counts is the use that gave the logits. A network
        # that takes large batches in parts has one such use for each.
        uses = [given for given, answer in found if is_same(answer, logits)]
        embedding = uses[0] if uses else torch.cat([given for given, _ in found])
        return embedding.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, `(n, num_classes)`."""
        return self.network(images)  # type: ignore[no-any-return]


@torch.no_grad()
def _last_layer(network: nn.Module, image_shape: tuple[int, int, int]) -> nn.Linear:
    """The linear layer whose answer is that of the network, found by asking it."""
    found: list[tuple[nn.Linear, Tensor]] = []

    def keep(module: nn.Linear, inputs: tuple[Any, ...], answer: Tensor) -> None:
        found.append((module, answer))

    was_training = network.training
    network.eval()
    with ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, nn.Linear):
                hooks.enter_context(module.register_forward_hook(keep))
        # Two images: group norm refuses one with a single pixel.
        logits = network(torch.zeros(2, *image_shape))
    network.train(was_training)
    for layer, answer in found:
        if is_same(answer, logits):
            return layer
    raise ConfigError(
        f"{type(network).__name__} does not end in a linear layer, so it has no embedding; "
        "name another network"
    )


def is_same(answer: Tensor, logits: Tensor) -> bool:
    """Whether they are one tensor, or views of one with another shape."""
    return answer.data_ptr() == logits.data_ptr() and answer.numel() == logits.numel()
