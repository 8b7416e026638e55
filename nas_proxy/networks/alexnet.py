"""The AlexNet of the condensation literature: Krizhevsky et al. (NeurIPS 2012), cut for CIFAR.

Without norm, as published, it has 1,872,202 parameters on CIFAR-10.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_proxy.networks.base import Network, Norm, make_norm, with_margin


class AlexNet(Network):
    """Five convolutions with norm and ReLU, three 2x2 max poolings, one linear layer.

    Args:
        image_shape: Channels, height and width of the input; 8 pixels at least. A single
            channel gets a margin, see `with_margin`.
        num_classes: Length of the logits.
        width: Channels of the first convolution; the others have 1.5, 2, 1.5 and 1.5 times as
            many, rounded down.
        norm: Follows every convolution. The published network has none; its variant for data
            sets distilled with batch norm has `batch`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int = 128,
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        channels = image_shape[0]
        margin, size = with_margin(image_shape)
        layers: list[nn.Module] = []
        for out_channels, kernel_size, pooled in (
            (width, 5, True),
            (width * 3 // 2, 5, True),
            (width * 2, 3, False),
            (width * 3 // 2, 3, False),
            (width * 3 // 2, 3, True),
        ):
            padding = kernel_size // 2 + margin
            layers.append(nn.Conv2d(channels, out_channels, kernel_size, padding=padding))
            layers.extend(make_norm(norm, (out_channels, *size)))
            layers.append(nn.ReLU())
            if pooled:
                layers.append(nn.MaxPool2d(2))
                size = (size[0] // 2, size[1] // 2)
            channels = out_channels
            margin = 0
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * size[0] * size[1], num_classes)

    def embed(self, images: Tensor) -> Tensor:
        """The input of the linear layer: `(n, c, h, w)` to `(n, 1.5 * width * h' * w')`."""
        return torch.flatten(self.features(images), start_dim=1)
