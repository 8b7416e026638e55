"""The fixed networks by name: options, the field's defaults, and what builds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Annotated, Literal

from torch import nn

from nas_proxy.errors import ConfigError
from nas_proxy.networks.alexnet import AlexNet
from nas_proxy.networks.base import NORMS, NUM_GROUPS, Network, Norm
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.networks.mlp import MLP
from nas_proxy.networks.mobile import MobileNetV2, ShuffleNetV2
from nas_proxy.networks.resnet import ResNet18
from nas_proxy.networks.vgg import VGG11
from nas_proxy.networks.wide_resnet import WideResNet16
from nas_proxy.options import Options, PositiveInt, Shorthand
from nas_proxy.types import Architecture, DatasetSpec

NetworkName = Literal[
    "convnet",
    "resnet18",
    "vgg11",
    "alexnet",
    "mlp",
    "wrn16_2",
    "mobilenet_v2",
    "shufflenet_v2",
]


@dataclass(frozen=True, kw_only=True)
class NetworkEntry:
    """One network of the catalogue.

    Attributes:
        network: Builds it from the image shape, the number of classes, and those of `width`,
            `depth` and `norm` that it has.
        title: Its name in prose.
        summary: One line for a list.
        paper: Where it comes from.
        width: The field's width; None if it cannot be changed.
        depth: The field's depth for images of so many pixels; None if it cannot be changed.
        norm: The field's norm.
        norms: The norms that it can have.
        group_norm_width: Group norm needs widths that this divides.
    """

    network: Callable[..., Network]
    title: str
    summary: str
    paper: str
    width: int | None = None
    depth: Callable[[int], int] | None = None
    norm: Norm
    norms: tuple[Norm, ...] = NORMS
    group_norm_width: int = NUM_GROUPS


def _convnet_depth(image_size: int) -> int:
    if image_size <= 32:
        return 3
    if image_size <= 64:
        return 4
    return 5 if image_size <= 128 else 6


NETWORKS: Mapping[NetworkName, NetworkEntry] = MappingProxyType(
    {
        "convnet": NetworkEntry(
            network=ConvNet,
            title="ConvNet",
            summary="blocks of 3x3 convolution and average pooling: the field's matching network",
            paper="Gidaris and Komodakis, Dynamic Few-Shot Visual Learning, CVPR 2018",
            width=128,
            depth=_convnet_depth,
            norm="instance",
        ),
        "resnet18": NetworkEntry(
            network=ResNet18,
            title="ResNet-18",
            summary="18 layers with residual connections; ImageNet's stem from 128 pixels on",
            paper="He et al., Deep Residual Learning, CVPR 2016",
            width=64,
            norm="instance",
        ),
        "vgg11": NetworkEntry(
            network=VGG11,
            title="VGG-11",
            summary="eight 3x3 convolutions with max pooling, one linear layer",
            paper="Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015",
            width=64,
            norm="instance",
        ),
        "alexnet": NetworkEntry(
            network=AlexNet,
            title="AlexNet",
            summary="five convolutions with max pooling, as cut for CIFAR; no norm as published",
            paper="Krizhevsky, Sutskever and Hinton, ImageNet Classification, NeurIPS 2012",
            width=128,
            norm="none",
            group_norm_width=2 * NUM_GROUPS,  # half of its layers have 1.5 times the width
        ),
        "mlp": NetworkEntry(
            network=MLP,
            title="MLP",
            summary="two hidden layers on the flattened image",
            paper="Zhao, Mopuri and Bilen, Gradient Matching, ICLR 2021",
            width=128,
            norm="none",
            norms=("none",),
        ),
        "wrn16_2": NetworkEntry(
            network=WideResNet16,
            title="WRN-16-2",
            summary="16 wide layers with residual connections and norm before each convolution",
            paper="Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016",
            width=32,
            norm="batch",
        ),
        "mobilenet_v2": NetworkEntry(
            network=MobileNetV2,
            title="MobileNetV2",
            summary="inverted bottlenecks with depthwise convolutions, from torchvision",
            paper="Sandler et al., MobileNetV2, CVPR 2018",
            norm="batch",
            norms=("batch",),
        ),
        "shufflenet_v2": NetworkEntry(
            network=ShuffleNetV2,
            title="ShuffleNetV2 x0.5",
            summary="split and shuffled channels with depthwise convolutions, from torchvision",
            paper="Ma et al., ShuffleNet V2, ECCV 2018",
            norm="batch",
            norms=("batch",),
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(Options):
    """A fixed network and its options; None takes the field's choice for it and the image size.

    Attributes:
        name: Which network.
        width: Channels of its first stage, units of a hidden layer for the MLP.
        depth: Blocks of the ConvNet; by default 3 up to 32 pixels, 4 up to 64, 5 up to 128, else 6.
        norm: `instance` for ConvNet, ResNet-18 and VGG-11, `none` for AlexNet and the MLP, and
            `batch` for the others, unless said otherwise.

    Raises:
        ConfigError: If the network has no such option, no such norm, or a width that group norm
            cannot divide.
    """

    name: NetworkName
    width: PositiveInt | None = None
    depth: PositiveInt | None = None
    norm: Norm | None = None

    def __post_init__(self) -> None:
        entry = NETWORKS[self.name]
        for option in ("width", "depth"):
            if getattr(self, option) is not None and getattr(entry, option) is None:
                having = [name for name, other in NETWORKS.items() if getattr(other, option)]
                raise ConfigError(
                    f"{entry.title} has a fixed {option}, which cannot be {getattr(self, option)}; "
                    f"leave {option} out (networks with this option: {', '.join(having)})"
                )
        if self.norm is not None and self.norm not in entry.norms:
            raise ConfigError(
                f"{entry.title} cannot have {_in_words(self.norm)}, it is always built with "
                f"{_in_words(entry.norm)}; leave norm out, or choose another network"
            )
        width = self.width or entry.width
        if self.norm == "group" and width is not None and width % entry.group_norm_width:
            raise ConfigError(
                f"group norm divides the channels into {NUM_GROUPS} groups, so {entry.title} of "
                f"width {width} cannot be built; choose a multiple of {entry.group_norm_width}"
            )


NetworkOption = Annotated[NetworkSettings, Shorthand(lambda word: {"name": word})]
"""A fixed network by its name alone, or as a section."""


def build_network(settings: NetworkSettings, spec: DatasetSpec) -> Network:
    """A fresh network for the images and classes of `spec`.

    Weights come from torch's global generator: call it inside `reproducibility.isolated_rng`.
    """
    entry = NETWORKS[settings.name]
    options: dict[str, int | Norm] = {}
    if entry.width is not None:
        options["width"] = settings.width or entry.width
    if entry.depth is not None:
        options["depth"] = settings.depth or entry.depth(min(spec.image_shape[1:]))
    if len(entry.norms) > 1:
        options["norm"] = settings.norm or entry.norm
    return entry.network(spec.image_shape, spec.num_classes, **options)


def describe(settings: NetworkSettings) -> str:
    """Such as "ResNet-18, batch norm"; width and depth are named where they are set."""
    entry = NETWORKS[settings.name]
    parts = [entry.title]
    if settings.depth is not None:
        parts.append(f"depth {settings.depth}")
    if settings.width is not None:
        parts.append(f"width {settings.width}")
    if entry.norms != ("none",):
        parts.append(_in_words(settings.norm or entry.norm))
    return ", ".join(parts)


def _in_words(norm: Norm) -> str:
    return "no norm" if norm == "none" else f"{norm} norm"


@dataclass(frozen=True)
class FixedNetworks:
    """Builds the networks of the catalogue as a search space builds its own; none is searched."""

    name = "networks"

    def architecture(self, settings: NetworkSettings) -> Architecture:
        """The value that stands for a network."""
        return Architecture(self.name, asdict(settings))

    def build(self, architecture: Architecture, spec: DatasetSpec) -> nn.Module:
        """A fresh network; weights come from torch's global generator."""
        return build_network(NetworkSettings(**architecture.genotype), spec)
