"""What training is told: the configuration section `train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, cast

import torch
from torch import nn

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import LearningRateRule
from nas_proxy.devices import gpu_has_bfloat16, is_gpu
from nas_proxy.errors import ConfigError
from nas_proxy.options import Bound, Fraction, NonNegativeFloat, Options, PositiveFloat, PositiveInt

Schedule = Literal["one_cycle", "cosine", "step", "three_steps", "constant"]
Optimiser = Literal["sgd", "adam", "adamw"]
Precision = Literal["auto", "float32", "bfloat16"]
NormStatistics = Literal["running", "recalibrated"]


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Options):
    """How networks are trained, and at which fidelity.

    Attributes:
        num_steps: Optimiser steps. Give this or `num_epochs`.
        num_epochs: Passes over the training images, the last step rounded up; `architecture`: as
            many as the architecture says, for a search space whose genotypes hold their length.
        batch_size: Images per step; a smaller set is used whole.
        optimiser: `sgd`; `adam`, with L2 penalty; `adamw`, with decoupled weight decay.
        learning_rate: The largest of the schedule.
        schedule: `one_cycle`: linear warm-up over the first quarter, then cosine to zero.
            `cosine`: from the start to zero. `step`: times 0.1 at half, as in the condensation
            literature. `three_steps`: times 0.1 at 5/8, 6/8 and 7/8, as in that of knowledge
            distillation. `constant`.
        momentum: Of `sgd`.
        nesterov: Whether that momentum is Nesterov's.
        weight_decay: L2 penalty on every parameter.
        label_smoothing: Share of the label that is spread over all classes; hard labels only.
        augmentation: Random changes of the training images. None takes what the proxy data set
            asks for, and nothing for real images.
        precision: `bfloat16` computes convolutions and products in bfloat16 (autocast) and keeps
            weights in float32. `auto`: what a few timed steps of the study's candidates say (see
            `nas_proxy.evaluate.arithmetic`); outside a study, and for networks that are no
            candidates, float32 on a CPU, bfloat16 on a GPU that has it.
        channels_last: Memory layout of images and weights. None: likewise; where nothing is timed,
            with bfloat16, but on a CPU not for networks with instance or layer norm.
        num_seeds: Trainings per architecture, whose signals are averaged.
        image_size: Train and measure at this size; None keeps the data set's.
        first_image_size: Train at this size at first; it rises by four pixels at a time and is the
            full one from 3/4 of the steps on (progressive resizing). For networks that take images
            of any size, which are measured at the full one; no step is done as a CUDA graph. None:
            at full size all along.
        space_fidelity: Options of the search space to reduce, such as `num_cells: 1`. The section
            `train` takes the space's `reduced_fidelity` where it says nothing; `{}` reduces none
            (only the default recipes of `calibrate` do all the same).
        num_val_images: Validate on this many images, the classes in proportion. None: on all, in
            the default recipes on 2,000.
        checkpoints: Percentages of the steps at which the network is measured on the way, in
            rising order, such as `[25, 50, 75]`; the end is always measured.
        norm_statistics: Which means and variances batch norms use when a network is measured.
            `running`: the averages of the training. `recalibrated`: those of 512 training images
            under the weights as they are, which short trainings with a large rate need most.
    """

    num_steps: PositiveInt | None = None
    num_epochs: PositiveInt | Literal["architecture"] | None = None
    batch_size: PositiveInt = 64
    optimiser: Optimiser = "sgd"
    learning_rate: PositiveFloat = 0.1
    schedule: Schedule = "one_cycle"
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: NonNegativeFloat = 5e-4
    label_smoothing: Fraction = 0.0
    augmentation: Augmentation | None = None
    precision: Precision = "auto"
    channels_last: bool | None = None
    num_seeds: PositiveInt = 1
    image_size: PositiveInt | None = None
    first_image_size: PositiveInt | None = None
    # Not in the hash: a mapping has none, and settings must be usable as keys.
    space_fidelity: Mapping[str, PositiveInt] = field(default_factory=dict, hash=False)
    num_val_images: PositiveInt | None = None
    checkpoints: tuple[Annotated[int, Bound(ge=1, le=99)], ...] = ()
    norm_statistics: NormStatistics = "running"

    def __post_init__(self) -> None:
        """Refuse a length that is missing or said twice."""
        if (self.num_steps is None) == (self.num_epochs is None):
            raise ValueError("give exactly one of num_steps and num_epochs")
        if self.optimiser == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0; set nesterov: false")
        first, full = self.first_image_size, self.image_size
        if first is not None and full is not None and first > full:
            raise ValueError(f"first_image_size ({first}) is above image_size ({full})")
        if list(self.checkpoints) != sorted(set(self.checkpoints)):
            raise ValueError("checkpoints must rise, as in [25, 50, 75]")

    @classmethod
    def of_rule(cls, rule: LearningRateRule) -> TrainSettings:
        """Training as the authors of a proxy data set's method do it."""
        return cls(
            optimiser=cast(Optimiser, rule.optimiser),
            num_epochs=rule.num_epochs,
            batch_size=rule.batch_size,
            learning_rate=rule.learning_rate,
            schedule=cast(Schedule, rule.schedule),
            momentum=rule.momentum,
            nesterov=False,
            weight_decay=rule.weight_decay,
        )

    def steps_for(self, num_images: int) -> int:
        """Optimiser steps when training on `num_images` images.

        Raises:
            ConfigError: If each architecture says itself how long it is trained.
        """
        if self.num_steps is not None:
            return self.num_steps
        if self.num_epochs is None:
            raise ConfigError("there is no length of the training; give num_steps or num_epochs")
        if self.num_epochs == "architecture":
            raise ConfigError(
                "num_epochs: architecture is for candidates of a space whose genotypes say how "
                "long they are trained, but here one length is needed; give num_steps or a number "
                "of num_epochs"
            )
        return -(-self.num_epochs * num_images // min(self.batch_size, num_images))

    def uses_bfloat16(self, device: torch.device) -> bool:
        """Whether training on `device` computes in bfloat16."""
        if self.precision == "auto":
            return is_gpu(device) and gpu_has_bfloat16(device)
        return self.precision == "bfloat16"

    def uses_channels_last(self, network: nn.Module, device: torch.device) -> bool:
        """Whether images and the weights of `network` are laid out channels-last on `device`."""
        if self.channels_last is not None:
            return self.channels_last
        slow = not is_gpu(device) and any(map(_normalises_each_image, network.modules()))
        return self.uses_bfloat16(device) and not slow


def _normalises_each_image(module: nn.Module) -> bool:
    """Whether it is an instance or layer norm: benchmarks/training_speed.py shows their cost."""
    if isinstance(module, nn.GroupNorm):
        return module.num_groups == module.num_channels
    return isinstance(module, nn.LayerNorm | nn.InstanceNorm2d)
