"""A tiny study that ends with a retrained network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TINY: dict[str, Any] = {
    "study_name": "tiny",
    "data": {"name": "digits", "images_per_class": 40},
    "distill": {"name": "random_subset", "images_per_class": 2},
    "space": {"name": "convnet", "widths": [8], "depths": [1, 2], "norms": ["batch", "none"]},
    "train": {"num_steps": 3, "batch_size": 16, "learning_rate": 0.02},
    "score": {"signals": ["val_loss"]},
    "search": {"n_trials": 4, "sampler": "random", "executor": "serial"},
    "retrain": {
        "num_architectures": 2,
        "num_seeds": 2,
        "train": {
            "num_epochs": 3,
            "batch_size": 32,
            "learning_rate": 0.02,
            "checkpoints": [50],
            "precision": "float32",
        },
        "formats": [],
    },
    "tracking": {"enabled": False},
}


def read(folder: Path, *names: str) -> Any:
    return json.loads(folder.joinpath(*names).read_text())


def without_clocks(value: Any) -> Any:
    """The result without what a clock said."""
    if isinstance(value, dict):
        return {
            key: without_clocks(inner)
            for key, inner in value.items()
            if not key.endswith("seconds") and key not in ("latencies", "created")
        }
    return [without_clocks(inner) for inner in value] if isinstance(value, list) else value
