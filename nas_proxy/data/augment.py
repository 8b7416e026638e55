"""Random augmentation of whole batches on their device, in normalised pixel space.

Two families: the crop, flip, cutout and mixing of ordinary training, and the differentiable
Siamese augmentation (DSA) of Zhao and Bilen, "Dataset Condensation with Differentiable Siamese
Augmentation", ICML 2021. Padding and erased pixels are zero, which is the data set's mean colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas_proxy.data.crops import random_boxes
from nas_proxy.errors import ConfigError, did_you_mean
from nas_proxy.options import Fraction, NonNegativeFloat, Options

LATER_FIELDS = ("rotation", "colour_jitter")
"""Of `Augmentation`; files from before there were any have other hashes with them."""

DSA_STRATEGY = "color_crop_cutout_flip_scale_rotate"
DSA_STRATEGY_WITHOUT_FLIP = "color_crop_cutout_scale_rotate"


@dataclass(frozen=True, kw_only=True)
class Augmentation(Options):
    """Which random changes a training image gets; the default is none.

    Attributes:
        resized_crop: Smallest share of the area of a random part, at most 4:3 or 3:4, that is
            enlarged to the whole image, before anything else; 0.08 is usual for photographs. 0 for
            none.
        crop: Largest shift in each direction as a share of the image's side; 0.125 is the usual
            padding of 4 for 32 pixels.
        flip: Mirror half of the images; wrong for digits and other written characters.
        rotation: Largest angle in degrees, in either direction; zeros move in.
        colour_jitter: Strength of random changes of brightness, contrast and saturation, which are
            moved by up to this share of a deviation or multiplied by 1 plus or minus up to it.
        cutout: Side of the erased square as a share of the image's side (DeVries and Taylor 2017).
        dsa: Families of differentiable Siamese augmentation joined by `_`, such as
            `color_crop_cutout_flip_scale_rotate`; one of them is drawn for each batch. Empty for
            none. Comes after the others.
        mixup: Parameter of the Beta distribution from which the share of a second image is drawn
            (Zhang et al., "mixup", ICLR 2018); 0 for none.
        cutmix: The same for the area of a rectangle from a second image (Yun et al., "CutMix",
            ICCV 2019); 0 for none. With both, each is done in half of the batches.
    """

    resized_crop: Fraction = 0.0
    crop: Fraction = 0.0
    flip: bool = False
    rotation: NonNegativeFloat = 0.0
    colour_jitter: Fraction = 0.0
    cutout: Fraction = 0.0
    dsa: str = ""
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        """Refuse families that do not exist."""
        dsa_families(self.dsa)

    def apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Change each image by its own draw.

        Args:
            images: Normalised, `(n, c, h, w)`.
            generator: On the device of `images`.
        """
        if self.resized_crop:
            images = enlarge_part(images, self.resized_crop, len(images), generator)
        if self.crop:
            images = shift(images, self.crop, len(images), generator)
        if self.flip:
            images = mirror(images, len(images), generator)
        if self.rotation:
            images = rotate(images, self.rotation, len(images), generator)
        if self.colour_jitter:
            images = jitter(images, self.colour_jitter, len(images), generator)
        if self.cutout:
            images = erase(images, self.cutout, len(images), generator)
        if self.dsa:
            images = siamese_augment(images, self.dsa, generator, shared=False)
        return images

    def mix(
        self, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Mix each image, and its label alike, with another one of the batch.

        Args:
            images: `(n, c, h, w)`.
            labels: Probabilities, `(n, num_classes)`.
            generator: On the device of `images`; untouched if nothing is mixed.
        """
        kinds = [(mix, alpha) for mix, alpha in self._mixers() if alpha > 0]
        if not kinds:
            return images, labels
        drawn = 0 if len(kinds) == 1 else int(_integers(len(kinds), (1,), generator))
        mix, alpha = kinds[drawn]
        # torch draws from a Beta distribution with its global generator only.
        rng = np.random.default_rng(int(_integers(2**62, (1,), generator)))
        order = torch.randperm(len(images), generator=generator, device=generator.device)
        mixed, share = mix(images, images[order], float(rng.beta(alpha, alpha)), generator)
        return mixed, labels * (1 - share) + labels[order] * share

    @property
    def mixes(self) -> bool:
        """Whether images and labels are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def _mixers(self) -> tuple[tuple[Mixer, float], ...]:
        return (blend, self.mixup), (paste, self.cutmix)


Mixer = Callable[[Tensor, Tensor, float, torch.Generator], tuple[Tensor, float]]


def blend(
    images: Tensor, others: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Both images, the second with weight `share`, which is returned too."""
    return images * (1 - share) + others * share, share


def paste(
    images: Tensor, others: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, float]:
    """A rectangle of about `share` of the area from the second image, and its exact share."""
    height, width = images.shape[-2:]
    sides = [round(length * math.sqrt(share)) for length in (height, width)]
    centres = [int(_integers(length, (1,), generator)) for length in (height, width)]
    (top, bottom), (left, right) = (
        (max(0, centre - side // 2), min(length, centre - side // 2 + side))
        for centre, side, length in zip(centres, sides, (height, width), strict=True)
    )
    pasted = images.clone()
    pasted[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return pasted, (bottom - top) * (right - left) / (height * width)


def enlarge_part(
    images: Tensor, smallest_area: float, num: int, generator: torch.Generator
) -> Tensor:
    """Enlarge a random part to the whole image; see `nas_proxy.data.crops`. `num` as in `shift`."""
    height, width = images.shape[-2:]
    boxes = random_boxes(num, (height, width), smallest_area, generator).to(images.dtype)
    top, left, box_height, box_width = boxes.unbind(dim=1)
    zero = torch.zeros_like(top)
    # In coordinates in which the image reaches from -1 to 1.
    across = [box_width / width, zero, (2 * left + box_width) / width - 1]
    down = [zero, box_height / height, (2 * top + box_height) / height - 1]
    return _affine(images, [across, down], padding="border")


def shift(images: Tensor, share: float, num: int, generator: torch.Generator) -> Tensor:
    """Move images by up to a share of their height and width; zeros move in.

    Args:
        images: `(n, c, h, w)`.
        share: Of the side, rounded to whole pixels; 0 changes nothing.
        num: Draws: n for one per image, 1 to share it.
        generator: On the device of `images`.
    """
    height, width = images.shape[-2:]
    rows, columns = (
        _integers(2 * largest + 1, (num, 1, 1), generator) - largest
        for largest in (_pixels(share, height), _pixels(share, width))
    )
    rows = rows + torch.arange(height, device=images.device)[:, None]
    columns = columns + torch.arange(width, device=images.device)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    source = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    source = source.flatten(1)[:, None, :].expand(len(images), images.shape[1], -1)
    moved = images.flatten(2).gather(2, source).view_as(images)
    return moved.masked_fill(~inside[:, None], 0.0)


def mirror(images: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """Mirror left to right with probability one half; `num` as in `shift`."""
    mirrored = _uniform((num, 1, 1, 1), images, generator) < 0.5
    return torch.where(mirrored, images.flip(-1), images)


def rotate(images: Tensor, degrees: float, num: int, generator: torch.Generator) -> Tensor:
    """Turn images by up to so many degrees in either direction; `num` as in `shift`."""
    angle = (_uniform((num,), images, generator) - 0.5) * 2 * math.radians(degrees)
    zero = torch.zeros_like(angle)
    return _affine(images, [[angle.cos(), -angle.sin(), zero], [angle.sin(), angle.cos(), zero]])


def jitter(images: Tensor, strength: float, num: int, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation, in this order; `num` as in `shift`.

    Args:
        images: Normalised, `(n, c, h, w)`.
        strength: Brightness moves by up to this share of the data set's deviation; the distance
            from the image's mean, and that from grey, are multiplied by 1 +- up to it.
        num: As in `shift`.
        generator: On the device of `images`.
    """
    draws = strength * (2 * _uniform((3, num, 1, 1, 1), images, generator) - 1)
    images = images + draws[0]
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - mean) * (1 + draws[1]) + mean
    grey = images.mean(dim=1, keepdim=True)
    return (images - grey) * (1 + draws[2]) + grey


def erase(images: Tensor, share: float, num: int, generator: torch.Generator) -> Tensor:
    """Set a rectangle to zero, whose sides are `share` of the image's and which may stick out.

    `num` as in `shift`.
    """
    height, width = images.shape[-2:]
    rows = _window(height, _pixels(share, height), num, generator)[:, None, :, None]
    columns = _window(width, _pixels(share, width), num, generator)[:, None, None, :]
    return images.masked_fill(rows & columns, 0.0)


def siamese_augment(
    images: Tensor, strategy: str, generator: torch.Generator, *, shared: bool = True
) -> Tensor:
    """Differentiable Siamese augmentation: one family, drawn at random, for the whole batch.

    For the Siamese use, call it for the real and the synthetic batch with two generators in the
    same state, and `shared=True`: both then get the same family with the same parameters.

    Args:
        images: Normalised, `(n, c, h, w)`; gradients flow through.
        strategy: Families joined by `_`; empty changes nothing.
        generator: On the device of `images`.
        shared: One parameter for the whole batch instead of one for each image.

    Raises:
        ConfigError: If a family does not exist.
    """
    families = dsa_families(strategy)
    if not families:
        return images
    drawn = int(torch.randint(len(families), (1,), generator=generator, device=generator.device))
    for change in families[drawn]:
        images = change(images, 1 if shared else len(images), generator)
    return images


Change = Callable[[Tensor, int, torch.Generator], Tensor]


def dsa_families(strategy: str) -> list[tuple[Change, ...]]:
    """The changes that each family of `strategy` makes, in order.

    Raises:
        ConfigError: If a family does not exist.
    """
    names = [name for name in strategy.split("_") if name]
    for name in names:
        if name not in _FAMILIES:
            raise ConfigError(
                f"unknown augmentation family {name!r} in {strategy!r}; "
                f"{did_you_mean(name, _FAMILIES)}"
            )
    return [_FAMILIES[name] for name in names]


# The families follow the published parameters: brightness 1, saturation 2, contrast 0.5,
# crop 0.125, cutout 0.5, scale 1.2, rotation 15 degrees. `num` is how many parameters are drawn:
# the batch's length, or 1 to share one.


def _brightness(images: Tensor, num: int, generator: torch.Generator) -> Tensor:
    return images + (_uniform((num, 1, 1, 1), images, generator) - 0.5)


def _saturation(images: Tensor, num: int, generator: torch.Generator) -> Tensor:
    grey = images.mean(dim=1, keepdim=True)
    return (images - grey) * (_uniform((num, 1, 1, 1), images, generator) * 2.0) + grey


def _contrast(images: Tensor, num: int, generator: torch.Generator) -> Tensor:
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (_uniform((num, 1, 1, 1), images, generator) + 0.5) + mean


def _crop(images: Tensor, num: int, generator: torch.Generator) -> Tensor:
    return shift(images, 0.125, num, generator)


def _cutout(images: Tensor, num: int, generator: torch.Generator) -> Tensor:
    return erase(images, 0.5, num, generator)


def _scale(images: Tensor, num: int, generator: torch.Generator) -> Tensor:
    smallest = 1 / 1.2
    factors = _uniform((2, num), images, generator) * (1.2 - smallest) + smallest
    zero = torch.zeros_like(factors[0])
    return _affine(images, [[factors[0], zero, zero], [zero, factors[1], zero]])


def _rotate(images: Tensor, num: int, generator: torch.Generator) -> Tensor:
    return rotate(images, 15, num, generator)


_FAMILIES: dict[str, tuple[Change, ...]] = {
    "color": (_brightness, _saturation, _contrast),
    "crop": (_crop,),
    "cutout": (_cutout,),
    "flip": (mirror,),
    "scale": (_scale,),
    "rotate": (_rotate,),
}


def _affine(
    images: Tensor, rows: list[list[Tensor]], padding: Literal["zeros", "border"] = "zeros"
) -> Tensor:
    theta = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    theta = theta.expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=padding, align_corners=False)


def _pixels(share: float, length: int) -> int:
    return math.floor(share * length + 0.5)


def _window(length: int, size: int, num: int, generator: torch.Generator) -> Tensor:
    """Which positions a window of `size` at a random place covers: bool `(num, length)`."""
    centre = _integers(length + 1 - size % 2, (num, 1), generator)
    offset = torch.arange(length, device=centre.device) - centre + size // 2
    return (offset >= 0) & (offset < size)


def _uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)


def _integers(high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(high, shape, generator=generator, device=generator.device)
