"""ResNet-18 (He et al., CVPR 2016), with the stem that suits the images.

With batch or instance norm it has 11,173,962 parameters on CIFAR-10, as in the condensation
literature, and 11,689,512 for the 1000 classes of ImageNet, as torchvision's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_proxy.networks.base import Network, Norm, make_norm, strided

_BLOCKS_PER_STAGE = 2
_IMAGENET_STEM_SIZE = 128


class ResNet18(Network):
    """Four stages of two basic blocks, global average pooling, one linear layer.

    Images of 128 pixels and more go through ImageNet's stem (7x7 convolution of stride 2, then max
    pooling), smaller ones through a 3x3 convolution of stride 1. A stage keeps the size of its
    input where halving would leave a single pixel (the last stage at 8x8 pixels): instance norm
    makes nothing but a constant of that.

    Args:
        image_shape: Channels, height and width of the input; 8 pixels at least.
        num_classes: Length of the logits.
        width: Channels of the first stage; each further stage has twice as many.
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
        layers, size = _stem(image_shape, width, norm)
        channels = width
        for stage in range(4):
            stage_width = width * 2**stage
            for block in range(_BLOCKS_PER_STAGE):
                stride = 2 if stage > 0 and block == 0 and min(size) > 2 else 1
                size = strided(size, stride)
                shape = (stage_width, *size)
                layers.append(_BasicBlock(channels, shape, stride=stride, norm=norm))
                channels = stage_width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        """Channel means of the last feature maps: `(n, c, h, w)` to `(n, 8 * width)`."""
        return self.features(images).mean(dim=(2, 3))  # type: ignore[no-any-return]


def _stem(
    image_shape: tuple[int, int, int], width: int, norm: Norm
) -> tuple[list[nn.Module], tuple[int, int]]:
    channels, *sides = image_shape
    size = (sides[0], sides[1])
    large = min(size) >= _IMAGENET_STEM_SIZE
    kernel_size, stride = (7, 2) if large else (3, 1)
    size = strided(size, stride)
    layers = [
        nn.Conv2d(channels, width, kernel_size, stride, padding=kernel_size // 2, bias=False),
        *make_norm(norm, (width, *size)),
        nn.ReLU(),
    ]
    if large:
        layers.append(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
        size = strided(size, 2)
    return layers, size


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions to maps of `shape`, `(c, h, w)`, added to their input."""

    def __init__(
        self, in_channels: int, shape: tuple[int, int, int], *, stride: int, norm: Norm
    ) -> None:
        super().__init__()
        channels = shape[0]
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False),
            *make_norm(norm, shape),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            *make_norm(norm, shape),
        )
        self.shortcut = nn.Sequential()
        if in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), *make_norm(norm, shape)
            )

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.residual(images) + self.shortcut(images))
