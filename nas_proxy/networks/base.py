"""What the fixed networks share: an embedding with one linear layer on it, norms, sizes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

from torch import Tensor, nn

Norm = Literal["none", "batch", "layer", "instance", "group"]

NORMS: tuple[Norm, ...] = get_args(Norm)
NUM_GROUPS = 4  # of group norm, as in the published code; it must divide the channels


class Network(nn.Module, ABC):
    """A classifier of images that is linear in its embedding.

    Attributes:
        classifier: The last layer; `forward` is nothing but `classifier(embed(images))`.
    """

    classifier: nn.Linear

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """The input of the last linear layer: `(n, c, h, w)` to `(n, d)`."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits, `(n, num_classes)`."""
        return self.classifier(self.embed(images))  # type: ignore[no-any-return]


def with_margin(image_shape: tuple[int, int, int]) -> tuple[int, tuple[int, int]]:
    """The published margin around images `(c, h, w)`, and their height and width with it.

    It is two pixels on each side of images with a single channel, so that MNIST's 28x28 become
    32x32, and none otherwise.
    """
    channels, height, width = image_shape
    margin = 2 if channels == 1 else 0
    return margin, (height + 2 * margin, width + 2 * margin)


def strided(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Height and width after a convolution or pooling that is padded by half its kernel."""
    return -(-size[0] // stride), -(-size[1] // stride)


def make_norm(norm: Norm, shape: tuple[int, int, int]) -> list[nn.Module]:
    """The layers that normalise feature maps: one, or none at all.

    Args:
        norm: `instance` is one group for each channel and `group` is four groups, as in the
            published code. All but `none` have affine parameters.
        shape: Channels, height and width of the maps. Layer norm has a weight for each of their
            pixels; the others use the channels alone.
    """
    channels = shape[0]
    if norm == "none":
        return []
    if norm == "batch":
        return [nn.BatchNorm2d(channels)]
    if norm == "layer":
        return [nn.LayerNorm(shape)]
    return [nn.GroupNorm(channels if norm == "instance" else NUM_GROUPS, channels)]


def batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The layers of `network` that normalise with the statistics of a batch."""
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def has_batchnorm(network: nn.Module) -> bool:
    """Whether any layer of `network` keeps statistics of its batches."""
    return bool(batch_norms(network))
