"""What compression is told: the configuration block `compress`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

from nas_proxy.errors import ConfigError, did_you_mean
from nas_proxy.options import Bound, Options, PositiveInt
from nas_proxy.train.settings import TrainSettings

Method = Literal[
    "structured_pruning",
    "unstructured_pruning",
    "post_training_quantisation",
    "quantisation_aware_training",
    "distillation",
]
METHODS: tuple[Method, ...] = get_args(Method)
INT8: tuple[Method, ...] = ("post_training_quantisation", "quantisation_aware_training")

# What fine-tuning takes of the training that it follows, where the settings do not say.
_SHARE_OF_LENGTH = 0.2
_SHARE_OF_LEARNING_RATE = 0.1

Variant = tuple[str, ...]
Amount = Annotated[float, Bound(gt=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class CompressSettings(Options):
    """Which smaller versions of a network are made, and how.

    Attributes:
        variants: Each is a list of methods, applied in this order: `structured_pruning` removes
            whole channels, `unstructured_pruning` sets single weights to zero, and
            `post_training_quantisation` or `quantisation_aware_training` comes last and makes
            int8. All but `post_training_quantisation` fine-tune; with `distillation` in the list
            that minimises a distillation objective instead of the cross-entropy.
        channel_amount: Share of the channels of each layer that structured pruning removes.
        weight_amount: Share of the weights of all convolutions and linear layers together that
            unstructured pruning sets to zero.
        fine_tuning: How the network is trained after each change; None: as it was trained, a
            fifth as long and with a tenth of the learning rate. In int8 it takes three tenths of
            this rate, and float32.
        num_calibration_images: Training images from which the ranges of int8 activations are
            taken.

    Raises:
        ValueError: If a variant is empty, listed twice, names a method that does not exist or
            names methods that do not go together.
    """

    variants: tuple[Variant, ...] = (
        ("structured_pruning",),
        ("unstructured_pruning",),
        ("post_training_quantisation",),
        ("quantisation_aware_training",),
        ("structured_pruning", "quantisation_aware_training"),
    )
    channel_amount: Amount = 0.5
    weight_amount: Amount = 0.8
    fine_tuning: TrainSettings | None = None
    num_calibration_images: PositiveInt = 512

    def __post_init__(self) -> None:
        """Refuse variants that cannot be made."""
        if not self.variants:
            raise ValueError("variants is empty: nothing would be compressed; leave compress out")
        for variant in self.variants:
            _check(variant)
        names = [variant_name(variant) for variant in self.variants]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"variants lists {twice} twice; leave one out")

    @property
    def distils(self) -> bool:
        """Whether any variant needs a distillation objective."""
        return any("distillation" in variant for variant in self.variants)

    def after(self, training: TrainSettings) -> CompressSettings:
        """The same with `fine_tuning` said, for a network that was trained by `training`."""
        if self.fine_tuning is not None:
            return self
        steps, epochs = training.num_steps, training.num_epochs
        if isinstance(epochs, str):
            raise ConfigError(
                "an architecture's own epochs are no length of a fine-tuning; give "
                "compress.fine_tuning with num_epochs or num_steps"
            )
        fine_tuning = replace(
            training,
            num_steps=None if steps is None else max(1, round(_SHARE_OF_LENGTH * steps)),
            num_epochs=None if epochs is None else max(1, round(_SHARE_OF_LENGTH * epochs)),
            learning_rate=_SHARE_OF_LEARNING_RATE * training.learning_rate,
        )
        return replace(self, fine_tuning=fine_tuning)


def variant_name(variant: Sequence[str]) -> str:
    """Such as `structured_pruning-quantisation_aware_training-distillation`."""
    return "-".join(in_order(variant))


def in_order(variant: Sequence[str]) -> list[str]:
    """The methods of a variant in the order in which they are applied."""
    return [method for method in METHODS if method in variant]


def _check(variant: Sequence[str]) -> None:
    shown = f"[{', '.join(variant)}]"
    for method in variant:
        if method not in METHODS:
            raise ValueError(f"unknown compression {method!r}; {did_you_mean(method, METHODS)}")
    if len(set(variant)) < len(variant):
        raise ValueError(f"the variant {shown} names a method twice; leave one out")
    if sum(method in INT8 for method in variant) > 1:
        raise ValueError(f"the variant {shown} makes int8 twice; keep one of {' and '.join(INT8)}")
    if "distillation" in variant and set(variant) <= {"distillation", "post_training_quantisation"}:
        raise ValueError(
            f"the variant {shown} has nothing that distillation could fine-tune; add pruning or "
            "quantisation_aware_training"
        )
    if not variant:
        raise ValueError("a variant is empty; name its methods, such as [structured_pruning]")
