"""The names of all signals, and which direction of each is better."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from nas_proxy.errors import ConfigError, did_you_mean
from nas_proxy.registry import SCORES


@dataclass(frozen=True)
class TrainedSignal:
    """A number that a short training gives.

    Attributes:
        higher_is_better: The direction in which good architectures are found.
        summary: What it is, for lists.
        on_request: Whether measuring it costs something beyond the training and the validation;
            then it is measured only where a score asks for it.
    """

    higher_is_better: bool
    summary: str
    on_request: bool = False


TRAINED_SIGNALS: dict[str, TrainedSignal] = {
    "val_loss": TrainedSignal(False, "cross-entropy on real validation images"),
    "val_accuracy": TrainedSignal(True, "accuracy on real validation images"),
    "val_loss_mean": TrainedSignal(False, "mean of val_loss over the checkpoints and the end"),
    "train_loss_mean": TrainedSignal(False, "mean training loss over all steps"),
    "train_loss_tail": TrainedSignal(False, "mean training loss over the last tenth of the steps"),
    "train_loss_slope": TrainedSignal(
        False, "change of the training loss over the second half of the steps"
    ),
    "fit_loss": TrainedSignal(False, "cross-entropy on the images that were trained on", True),
    "fit_accuracy": TrainedSignal(True, "accuracy on the images that were trained on", True),
    "generalisation_gap": TrainedSignal(False, "val_loss minus fit_loss", True),
    "averaged_val_loss": TrainedSignal(
        False, "val_loss of the mean of the weights over the last quarter of the steps", True
    ),
    "averaged_val_accuracy": TrainedSignal(
        True, "val_accuracy of the mean of the weights over the last quarter of the steps", True
    ),
    "teacher_agreement": TrainedSignal(
        True, "minus the divergence from a teacher on validation images", True
    ),
}
# What describes a whole run has no value in the middle of it.
_WHOLE_RUN = ("val_loss_mean", "train_loss_slope", "averaged_val_loss", "averaged_val_accuracy")
_PERCENTAGES = frozenset(map(str, range(1, 100)))  # as they are written: 5, not 05
# Measured on the images that a network trained on, at most this many of them.
MAX_FIT_IMAGES = 1000


# A trained signal of an earlier stage of a cascade; a plug-in's path may begin like that too.
_OF_STAGE = re.compile(rf"stage_([1-9]\d*)\.(?=(?:{'|'.join(TRAINED_SIGNALS)})(?:@|$))")


def stage_of(signal: str) -> int | None:
    """The stage of a cascade whose training gives a signal: 2 of `stage_2.val_loss`; else None."""
    found = _OF_STAGE.match(signal)
    return None if found is None else int(found[1])


def own_signal(signal: str) -> str:
    """The signal as the training that gives it calls it: `val_loss@50` of `stage_2.val_loss@50`."""
    return _OF_STAGE.sub("", signal, count=1)


def signal_in_stage(signal: str, number: int) -> str:
    """The inverse, for a signal of the training in a cascade's stage, counted from 1."""
    return f"stage_{number}.{signal}"


def base_signal(signal: str) -> str:
    """The signal without stage and checkpoint: `val_loss` of `val_loss@50`."""
    return own_signal(signal).partition("@")[0]


def checkpoint_of(signal: str) -> int | None:
    """At which percentage of the steps a signal is read; None at the end.

    Raises:
        ConfigError: If that is no percentage, or the signal describes the whole run.
    """
    base, at, percentage = own_signal(signal).partition("@")
    if not at or base not in TRAINED_SIGNALS:
        return None
    if base in _WHOLE_RUN:
        raise ConfigError(
            f"signal {signal!r}: {base} describes the whole training and has no value at a "
            f"checkpoint; write {base!r}"
        )
    if percentage not in _PERCENTAGES:
        raise ConfigError(
            f"signal {signal!r}: after the @ stands the percentage of the steps at which it is "
            f"read, from 1 to 99, as in {base}@50"
        )
    return int(percentage)


def has_checkpoints(signal: str) -> bool:
    """Whether a trained signal that is read at the end could be read at any checkpoint too."""
    return "@" not in signal and base_signal(signal) not in _WHOLE_RUN


def signal_at(signal: str, percentage: int) -> str:
    """The signal as it is read at a checkpoint: `val_loss@50` of `val_loss`."""
    return f"{signal}@{percentage}"


def is_trained(signal: str) -> bool:
    """Whether a signal needs a training."""
    return base_signal(signal) in TRAINED_SIGNALS


def trained_among(signals: Sequence[str]) -> tuple[str, ...]:
    """Those signals that need a training, in their order."""
    return tuple(filter(is_trained, signals))


def zero_cost_among(signals: Sequence[str]) -> tuple[str, ...]:
    """Those signals that need none, in their order."""
    return tuple(signal for signal in signals if not is_trained(signal))


@cache
def higher_is_better(signal: str) -> bool:
    """The direction in which good architectures are found.

    Raises:
        ConfigError: If there is no such signal; the message names the nearest. If its checkpoint
            is none.
    """
    if is_trained(signal):
        checkpoint_of(signal)  # refuses what is no checkpoint
        return TRAINED_SIGNALS[base_signal(signal)].higher_is_better
    if signal not in SCORES.names() and ":" not in signal:
        known = [*TRAINED_SIGNALS, *SCORES.names()]
        raise ConfigError(f"unknown signal {signal!r}; {did_you_mean(signal, known)}")
    return SCORES.get(signal).higher_is_better
