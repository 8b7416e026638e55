"""VGG-11 (Simonyan and Zisserman, ICLR 2015) with one linear layer, as condensation papers use it.

With batch or instance norm it has 9,231,114 parameters on CIFAR-10.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_proxy.networks.base import Network, Norm, make_norm, with_margin

# Channels of each stage's convolutions, in units of the width; every stage ends in a 2x2 pooling.
_STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))


class VGG11(Network):
    """Eight 3x3 convolutions with norm and ReLU, five max poolings, one linear layer.

    What is left after the last pooling (one pixel of 32x32 images) is averaged over its pixels. A
    pooling is left out where it would hand a single pixel to the next convolution (images below
    32x32): instance norm makes nothing but a constant of that.

    Args:
        image_shape: Channels, height and width of the input; 8 pixels at least. A single
            channel gets a margin, see `with_margin`.
        num_classes: Length of the logits.
        width: Channels of the first convolution; the last four have eight times as many.
        norm: Follows every convolution.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int = 64,
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        channels = image_shape[0]
        margin, size = with_margin(image_shape)
        layers: list[nn.Module] = []
        for stage, multiples in enumerate(_STAGES):
            for multiple in multiples:
                layers.append(nn.Conv2d(channels, width * multiple, 3, padding=1 + margin))
                channels = width * multiple
                layers.extend(make_norm(norm, (channels, *size)))
                layers.append(nn.ReLU())
                margin = 0
            last = stage == len(_STAGES) - 1
            if min(size) // 2 >= (1 if last else 2):
                layers.append(nn.MaxPool2d(2))
                size = (size[0] // 2, size[1] // 2)
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(channels, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        """The input of the linear layer: `(n, c, h, w)` to `(n, 8 * width)`."""
        return torch.flatten(self.features(images), start_dim=1)
