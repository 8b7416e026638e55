"""The names of all signals, and which direction of each is better."""

from __future__ import annotations

from functools import cache

from nas_proxy.errors import ConfigError, did_you_mean
from nas_proxy.registry import SCORES

# Signals of a training, and whether higher is better. `measure` may use the split's other name.
TRAINED_SIGNALS = {
    "val_loss": False,
    "val_accuracy": True,
    "train_loss_mean": False,
    "train_loss_tail": False,
}


@cache
def higher_is_better(signal: str) -> bool:
    """The direction in which good architectures are found.

    Raises:
        ConfigError: If there is no such signal; the message names the nearest.
    """
    if signal in TRAINED_SIGNALS:
        return TRAINED_SIGNALS[signal]
    if signal not in SCORES.names() and ":" not in signal:
        known = [*TRAINED_SIGNALS, *SCORES.names()]
        raise ConfigError(f"unknown signal {signal!r}; {did_you_mean(signal, known)}")
    return SCORES.get(signal).higher_is_better
