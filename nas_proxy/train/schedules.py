"""What changes in the course of a training: the learning rate, and the size of the images."""

from __future__ import annotations

import math

from nas_proxy.train.settings import Schedule

WARM_UP = 0.25  # share of the steps that `one_cycle` spends rising
FULL_SIZE_FROM = 0.75  # share of the steps after which progressive resizing has ended
_SIZE_STEP = 4  # pixels


def learning_rate_factor(schedule: Schedule, step: int, num_steps: int) -> float:
    """Factor in (0, 1] for step 0, 1, ..., num_steps - 1; no step is wasted on a rate of zero.

    `one_cycle` follows Smith and Topin, "Super-convergence", 2019, with a linear rise.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return 1.0 if step < num_steps // 2 + 1 else 0.1
    if schedule == "three_steps":
        return 0.1 ** sum(8 * step >= part * num_steps for part in (5, 6, 7))
    warm_up = int(num_steps * WARM_UP) if schedule == "one_cycle" else 0
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (num_steps - warm_up)))


def image_size_at(first: int, full: int, step: int, num_steps: int) -> int:
    """Height and width of the images of step 0, 1, ..., num_steps - 1 under progressive resizing.

    It rises evenly, rounded down to `first` and multiples of four pixels above it, and is `full`
    from 3/4 of the steps on.
    """
    rising = FULL_SIZE_FROM * num_steps
    if step >= rising:
        return full
    return first + int((full - first) * step / rising) // _SIZE_STEP * _SIZE_STEP
