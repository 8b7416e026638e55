"""What every fixed network offers: an embedding and one linear layer on top of it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


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
