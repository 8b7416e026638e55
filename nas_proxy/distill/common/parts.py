"""Batches on their way through a network: in parts that a cache holds, out in full precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_proxy.errors import instance_of
from nas_proxy.networks.convnet import ConvNet

_CACHED_VALUES = 2**21  # 8 MiB of float32: the largest feature maps of a part


def cache_sized_parts(network: ConvNet, images: Tensor) -> tuple[Tensor, ...]:
    """`images`, to go through `network` one part after the other.

    On a CPU the feature maps of 256 CIFAR images do not fit into any cache, and 16 at a time take
    half as long. A GPU gets them whole.

    Args:
        network: Must treat each image by itself: batch norm does not.
        images: `(n, c, h, w)`, at least one.

    Returns:
        Parts of nearly equal length: group norm refuses a single image with a single pixel.
    """
    if images.device.type != "cpu":
        return (images,)
    convolution = instance_of(network.features[0], nn.Conv2d)
    values = convolution.out_channels * images.shape[-2:].numel()
    length = max(1, _CACHED_VALUES // values)
    return images.tensor_split(-(-len(images) // length))


def in_full_precision(values: Tensor) -> Tensor:
    """At least float32: means of what a network gives in bfloat16 are not taken in bfloat16."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
