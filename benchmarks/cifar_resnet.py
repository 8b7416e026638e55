"""The ResNets for 32x32 images that knowledge distillation is compared on, such as ResNet32x4."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class CifarResNet(nn.Module):
    """Three stages of basic blocks: He et al., CVPR 2016, section 4.2, with wider stages.

    Args:
        depth: 6 n + 2 layers: n blocks in each stage.
        widths: Channels of the stem and the three stages; `(32, 64, 128, 256)` is "x4".
        num_classes: Outputs.
    """

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int) -> None:
        super().__init__()
        stem, *stages = widths
        self.stem = nn.Sequential(_convolution(3, stem), nn.BatchNorm2d(stem), nn.ReLU())
        blocks, channels = [], stem
        for index, width in enumerate(stages):
            for number in range((depth - 2) // 6):
                blocks.append(_Block(channels, width, stride=2 if index and not number else 1))
                channels = width
        self.stages = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """`(n, 3, h, w)` to logits `(n, num_classes)`."""
        return self.classifier(self.stages(self.stem(images)).mean(dim=(2, 3)))


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(channels, width, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _convolution(width, width),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.body(maps) + self.shortcut(maps))


def _convolution(channels: int, width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
