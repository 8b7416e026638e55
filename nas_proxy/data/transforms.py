"""Deterministic changes of whole batches of images, and the statistics to normalise them by."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_proxy.types import DatasetSpec, ImageDataset

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation, one number for each channel."""


def normalise(images: Tensor, spec: DatasetSpec) -> Tensor:
    """From uint8 `(n, c, h, w)` to float32 with zero mean and unit deviation per channel."""
    return standardise(images, *statistics_on(images.device, spec))


def standardise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The same with the statistics that `statistics_on` gave, on the device of the images."""
    return (images.float() / 255 - mean) / std


def denormalise(images: Tensor, spec: DatasetSpec) -> Tensor:
    """The inverse of `normalise`: float32 to uint8; values outside [0, 255] are clipped."""
    mean, std = statistics_on(images.device, spec)
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def renormalise(images: Tensor, old: Statistics, new: Statistics) -> Tensor:
    """The same pixels, normalised by another mean and deviation of each channel.

    Differentiable with respect to the images.

    Args:
        images: Normalised, of any floating dtype, `(n, c, h, w)`.
        old: Mean and deviation that they were normalised with.
        new: Those that they shall be normalised with; equal ones return `images` itself.
    """
    if old == new:
        return images
    (old_mean, old_std), (new_mean, new_std) = (
        [images.new_tensor(part).view(1, -1, 1, 1) for part in statistics]
        for statistics in (old, new)
    )
    return (images * old_std + (old_mean - new_mean)) / new_std


def stretch(images: Tensor) -> Tensor:
    """Pictures of images whose values are no colours: float32 to uint8, `(n, c, h, w)`.

    The scale of each goes from 2.5 deviations below its mean to 2.5 above it.
    """
    values = images.flatten(1)
    centre, spread = values.mean(dim=1), values.std(dim=1).clamp_min(1e-8)
    scaled = (values - centre[:, None]) / (5 * spread[:, None]) + 0.5
    return (scaled * 255).round().clamp(0, 255).to(torch.uint8).view_as(images)


def resize(images: Tensor, image_size: int) -> Tensor:
    """Square images of `image_size` pixels, bilinear with antialiasing; the dtype stays.

    Args:
        images: uint8 or float32, `(n, c, h, w)`.
        image_size: Height and width of the result.
    """
    if tuple(images.shape[-2:]) == (image_size, image_size):
        return images
    size = (image_size, image_size)
    if images.dtype != torch.uint8:
        return F.interpolate(images, size=size, mode="bilinear", antialias=True)
    resized = images.new_empty((*images.shape[:2], *size))
    # Part by part: a whole data set in float32 would need four times its memory.
    length = chunk_length(images)
    for part, target in zip(images.split(length), resized.split(length), strict=True):
        pixels = F.interpolate(part.float(), size=size, mode="bilinear", antialias=True)
        target.copy_(pixels.round().clamp(0, 255))
    return resized


def chunk_length(images: Tensor) -> int:
    """How many of `images` make a chunk of at most 64 MiB in float32; at least one."""
    return max(1, 2**24 // images.shape[1:].numel())


def channel_statistics(images: Tensor) -> Statistics:
    """Mean and standard deviation of each channel, scaled to [0, 1].

    A pixel has one of 256 values, so counting them gives both exactly, however many there are.

    Args:
        images: uint8, `(n, c, h, w)`.
    """
    num_channels = images.shape[1]
    counts = torch.zeros(num_channels, 256, dtype=torch.float64)
    for part in images.split(chunk_length(images)):
        for channel in range(num_channels):
            counts[channel] += torch.bincount(part[:, channel].flatten(), minlength=256)
    share = counts / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ values
    std = (share * (values - mean[:, None]) ** 2).sum(1).sqrt()
    # One grey level: a channel that never changes must not be divided by zero.
    return tuple(mean.tolist()), tuple(std.clamp_min(1 / 255).tolist())


def resize_dataset(dataset: ImageDataset, image_size: int) -> ImageDataset:
    """The data set at another image size; mean and deviation stay those of the original."""
    return replace(
        dataset,
        images=resize(dataset.images, image_size),
        spec=dataset.spec.with_image_size(image_size),
    )


def statistics_on(device: torch.device, spec: DatasetSpec) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the channels, `(1, c, 1, 1)`, that `normalise` works with."""
    shape = (1, len(spec.mean), 1, 1)
    mean = torch.tensor(spec.mean, device=device).view(shape)
    return mean, torch.tensor(spec.std, device=device).view(shape)
