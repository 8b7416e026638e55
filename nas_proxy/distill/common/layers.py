"""What a network computes in its layers on the way to the embedding, whatever network it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor, nn

from nas_proxy.errors import required
from nas_proxy.knowledge_distillation.feature_maps import Recorder, examine
from nas_proxy.networks.base import Network
from nas_proxy.networks.convnet import ConvNet


class LayerReader(Protocol):
    """From images to what a network's layers make of them."""

    def __call__(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Feature maps `(n, c, h, w)`, the first layer's first, and the embedding, `(n, ...)`."""


@contextmanager
def layers_of(network: Network, images: Tensor) -> Iterator[LayerReader]:
    """How to read the layers of a network for the length of the block.

    Of the ConvNet the map of each block before its pooling; of any other network the last map of
    each resolution. A network may have no maps at all; then the embedding stands alone.

    Args:
        network: Whose.
        images: Of the shape that it will be given, `(n, c, h, w)`.
    """
    if isinstance(network, ConvNet):
        yield _Blocks(network)
        return
    _, channels, height, width = images.shape
    layout = examine(network, (channels, height, width), "a network of the space")
    recorder = Recorder(network, layout.feature_maps, layout.embedding, training=network.training)

    def read(images: Tensor) -> tuple[list[Tensor], Tensor]:
        network(images)
        seen = recorder.take()
        return list(seen.maps.values()), required(seen.embedding, "the embedding")

    try:
        yield read
    finally:
        recorder.close()


class _Blocks:
    def __init__(self, network: ConvNet) -> None:
        self._network = network

    def __call__(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        maps = []
        for module in self._network.features:
            images = module(images)
            if isinstance(module, nn.ReLU):
                maps.append(images)
        return maps, images
