"""WRN-16-2 (Zagoruyko and Komodakis, BMVC 2016): 691,674 parameters on CIFAR-10."""

from __future__ import annotations

from torch import Tensor, nn

from nas_proxy.networks.base import Network, Norm, make_norm, strided

_STEM_WIDTH = 16
_BLOCKS_PER_STAGE = 2  # of two convolutions each: 16 = 6 * 2 + 4 layers


class WideResNet16(Network):
    """Three stages of two blocks with norm and ReLU before each convolution, one linear layer.

    Convolutions start from normal numbers scaled by their outputs, as published.

    Args:
        image_shape: Channels, height and width of the input; 8 pixels at least.
        num_classes: Length of the logits.
        width: Channels of the first stage; 32 are WRN-16-2. Each further stage has twice as many,
            and the stem has 16.
        norm: Precedes every convolution but the stem.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int = 32,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        image_channels, height, image_width = image_shape
        shape = (_STEM_WIDTH, height, image_width)
        layers: list[nn.Module] = [nn.Conv2d(image_channels, _STEM_WIDTH, 3, padding=1, bias=False)]
        for stage in range(3):
            for block in range(_BLOCKS_PER_STAGE):
                stride = 2 if stage > 0 and block == 0 else 1
                next_shape = (width * 2**stage, *strided((shape[1], shape[2]), stride))
                layers.append(_PreActivationBlock(shape, next_shape, stride=stride, norm=norm))
                shape = next_shape
        self.features = nn.Sequential(*layers, *make_norm(norm, shape), nn.ReLU())
        self.classifier = nn.Linear(shape[0], num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.classifier.bias)

    def embed(self, images: Tensor) -> Tensor:
        """Channel means of the last feature maps: `(n, c, h, w)` to `(n, 4 * width)`."""
        return self.features(images).mean(dim=(2, 3))  # type: ignore[no-any-return]


class _PreActivationBlock(nn.Module):
    """Two 3x3 convolutions from maps of `shape` to maps of `next_shape`, added to their input."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        next_shape: tuple[int, int, int],
        *,
        stride: int,
        norm: Norm,
    ) -> None:
        super().__init__()
        in_channels, channels = shape[0], next_shape[0]
        self.preactivation = nn.Sequential(*make_norm(norm, shape), nn.ReLU())
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False),
            *make_norm(norm, next_shape),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )
        self.shortcut = None
        if in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        activated = self.preactivation(images)
        # Where the channels change, the shortcut starts after the activation, as published.
        shortcut = images if self.shortcut is None else self.shortcut(activated)
        return shortcut + self.residual(activated)  # type: ignore[no-any-return]
