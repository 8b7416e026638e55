"""What the authors of trajectory matching chose for CIFAR-10, by images per class.

MTT's values are the commands that its author gave for DC-BENCH, DATM's its repository's
`configs/CIFAR-10/ConvIN`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

CIFAR10_ZCA = 1.59
"""The authors whiten pixels in [0, 1] with a regularisation of 0.1. For normalised images that is
0.1 divided by the mean variance of the three channels."""

Variant = Literal["mtt", "datm"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """One setting; the names are those of the options of `TrajectoryMatching`.

    None stands for no whitening, all images in a batch, and no limit to the loss.
    """

    num_steps: int
    image_learning_rate: float
    init: Literal["real", "noise", "correct"]
    zca: float | None
    num_inner_steps: int
    inner_batch_size: int | None = None
    min_start_epoch: int = 0
    initial_max_start_epoch: int
    max_start_epoch: int
    window_growth_steps: int = 0
    max_loss: float | None = None
    initial_learning_rate: float
    learning_rate_learning_rate: float
    label_learning_rate: float
    expert_num_epochs: int


def _mtt(
    *,
    num_inner_steps: int,
    max_start: int,
    images: float,
    rate: float,
    start: float,
    zca: float = CIFAR10_ZCA,
) -> Published:
    return Published(
        num_steps=5000,
        image_learning_rate=images,
        init="real",
        zca=zca or None,
        num_inner_steps=num_inner_steps,
        initial_max_start_epoch=max_start,
        max_start_epoch=max_start,
        initial_learning_rate=start,
        learning_rate_learning_rate=rate,
        label_learning_rate=2.0,  # DATM's: MTT does not learn labels
        expert_num_epochs=50,
    )


_DATM = Published(
    num_steps=10_000,
    image_learning_rate=100.0,
    init="correct",
    zca=CIFAR10_ZCA,
    num_inner_steps=80,
    initial_max_start_epoch=10,
    max_start_epoch=20,
    window_growth_steps=1000,
    max_loss=1.0,
    initial_learning_rate=0.01,
    learning_rate_learning_rate=1e-5,
    label_learning_rate=2.0,
    expert_num_epochs=100,
)
_DATM_500 = replace(
    _DATM,
    image_learning_rate=50.0,
    num_inner_steps=40,
    inner_batch_size=1000,
    min_start_epoch=40,
    initial_max_start_epoch=60,
    max_start_epoch=60,
    window_growth_steps=0,
    label_learning_rate=10.0,
)
PUBLISHED: Mapping[Variant, Mapping[int, Published]] = {
    "mtt": {
        1: _mtt(
            num_inner_steps=50, max_start=2, images=100.0, rate=1e-7, start=0.01, zca=CIFAR10_ZCA
        ),
        10: _mtt(
            num_inner_steps=30, max_start=20, images=100.0, rate=1e-5, start=1e-3, zca=CIFAR10_ZCA
        ),
        50: _mtt(num_inner_steps=30, max_start=40, images=1000.0, rate=1e-5, start=1e-3, zca=0),
    },
    "datm": {
        1: replace(
            _DATM,
            initial_max_start_epoch=4,
            max_start_epoch=4,
            window_growth_steps=0,
            max_loss=1.1,
            learning_rate_learning_rate=1e-7,
            label_learning_rate=5.0,
        ),
        10: _DATM,
        50: replace(
            _DATM,
            image_learning_rate=1000.0,
            initial_max_start_epoch=20,
            max_start_epoch=40,
            window_growth_steps=2000,
        ),
        500: _DATM_500,
        1000: replace(_DATM_500, num_inner_steps=100),
    },
}


def published(variant: Variant, images_per_class: int) -> Published:
    """The setting for `images_per_class`, or for the nearest number below it in the table."""
    table = PUBLISHED[variant]
    return table[max(number for number in table if number <= images_per_class)]
