"""What a genotype of `torchvision_backbones` means: its keys, its words, and what has no effect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nas_proxy.data.augment import Augmentation

FEATURE_EXTRACTION, FINE_TUNING = "feature extraction", "fine-tuning"

CHOICES = {
    "backbones": "backbone",
    "hidden_units": "hidden_units",
    "dropouts": "dropout",
    "feature_extraction_epochs": "feature_extraction_epochs",
    "feature_extraction_rates": "feature_extraction_rate",
    "fine_tuning_epochs": "fine_tuning_epochs",
    "fine_tuning_rates": "fine_tuning_rate",
    "frozen_shares": "frozen_share",
    "rate_decays": "rate_decay",
    "decay_factors": "decay_factor",
    "weight_decays": "weight_decay",
    "flips": "flip",
    "rotations": "rotation",
    "colour_jitters": "colour_jitter",
    "crops": "crop",
}
"""Option of the space, and the key of a genotype that it lists the values of."""

_AUGMENTATION = ("flip", "rotation", "colour_jitter", "crop")
_OF_FINE_TUNING = (
    "fine_tuning_epochs",
    "fine_tuning_rate",
    "frozen_share",
    "rate_decay",
    "decay_factor",
)


def tunes(genotype: Mapping[str, Any]) -> bool:
    """Whether anything of the body is trained."""
    return bool(genotype["fine_tuning_epochs"]) and genotype["frozen_share"] < 1


def trains(genotype: Mapping[str, Any]) -> bool:
    """Whether anything at all is trained."""
    return tunes(genotype) or bool(genotype["feature_extraction_epochs"])


def without_idle(genotype: Mapping[str, Any]) -> dict[str, Any]:
    """The genotype without what has no effect on the trained network."""
    idle: tuple[str, ...] = ()
    if not tunes(genotype):
        idle = _OF_FINE_TUNING
    elif genotype["rate_decay"] == "none":
        idle = ("decay_factor",)
    if not genotype["feature_extraction_epochs"]:
        idle += ("feature_extraction_rate",)
    return {key: value for key, value in genotype.items() if key not in idle}


def augmentation_of(genotype: Mapping[str, Any], given: Augmentation | None) -> Augmentation:
    """What the genotype says, beside what the settings say of other changes."""
    return replace(given or Augmentation(), **{name: genotype[name] for name in _AUGMENTATION})


def in_words(genotype: Mapping[str, Any]) -> str:
    """Backbone, head and phases on one line."""
    units, share = genotype["hidden_units"], genotype["frozen_share"]
    parts = [genotype["backbone"], f"{units} hidden units" if units else "linear head"]
    if genotype["feature_extraction_epochs"]:
        parts.append(_phase_in_words(FEATURE_EXTRACTION, genotype))
    if tunes(genotype):
        parts.append(_phase_in_words(FINE_TUNING, genotype))
        if share:
            parts.append(f"{100 * share:.0f} % frozen")
        if genotype["rate_decay"] != "none":
            parts.append(f"{genotype['rate_decay']} decay to {genotype['decay_factor']:g}")
    return ", ".join(parts)


def as_text(value: Any) -> str:
    """A value in an architecture's string form."""
    return value if isinstance(value, str) else json.dumps(value)


def _phase_in_words(phase: str, genotype: Mapping[str, Any]) -> str:
    key = phase.replace(" ", "_").replace("-", "_")
    return f"{phase} {genotype[f'{key}_epochs']} epochs at {genotype[f'{key}_rate']:g}"
