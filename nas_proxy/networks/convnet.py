"""The ConvNet of the dataset condensation literature (Gidaris and Komodakis, CVPR 2018).

`ConvNet-D3-W128-InstanceNorm` is the field's matching network: 320,010 parameters on CIFAR-10.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from nas_proxy.networks.base import NORMS as NORMS  # re-exported beside the other choices
from nas_proxy.networks.base import Network, make_norm
from nas_proxy.networks.base import Norm as Norm

Activation = Literal["sigmoid", "relu", "leaky_relu"]
Pooling = Literal["none", "max", "avg"]

ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


class ConvNet(Network):
    """`depth` blocks of 3x3 convolution, norm, activation and 2x2 pooling, then one linear layer.

    Args:
        image_shape: Channels, height and width of the input.
        num_classes: Length of the logits.
        width: Channels of every block.
        depth: Number of blocks.
        norm: `instance` is `GroupNorm(width, width)` and `group` is `GroupNorm(4, width)`, as in
            the published code; both have affine parameters.
        activation: Applied after the norm; `leaky_relu` has slope 0.01.
        pooling: Halves height and width; left out once one of them is a single pixel, so that
            every depth works at every image size.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int = 128,
        depth: int = 3,
        norm: Norm = "instance",
        activation: Activation = "relu",
        pooling: Pooling = "avg",
    ) -> None:
        super().__init__()
        channels, height, image_width = image_shape
        size = (height, image_width)
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers.append(nn.Conv2d(channels, width, kernel_size=3, padding=1))
            layers.extend(make_norm(norm, (width, *size)))
            layers.append(_activation(activation))
            if pooling != "none" and min(size) >= 2:
                layers.append(nn.MaxPool2d(2) if pooling == "max" else nn.AvgPool2d(2))
                size = (size[0] // 2, size[1] // 2)
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * size[0] * size[1], num_classes)

    def embed(self, images: Tensor) -> Tensor:
        """The input of the linear layer: `(n, c, h, w)` to `(n, width * h' * w')`."""
        return torch.flatten(self.features(images), start_dim=1)


def _activation(activation: Activation) -> nn.Module:
    if activation == "sigmoid":
        return nn.Sigmoid()
    # Not in place: the zero-cost scores read activations through hooks.
    return nn.ReLU() if activation == "relu" else nn.LeakyReLU(0.01)
