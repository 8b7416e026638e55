"""A tiny study with a fixed seed, through every stage, and all that must not change in it.

`python -m tests.study.fixed_study OUT.json` runs it and writes what came out: run it before and
after a change of structure on one machine, and the two files are equal to the last digit.
`test_fixed_study.py` compares with the file that is kept here, on any machine.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

SHORT = {
    "num_steps": 6,
    "batch_size": 16,
    "learning_rate": 0.05,
    "precision": "float32",
    "channels_last": False,
}
FULL = {**SHORT, "num_steps": 24}
STUDY: dict[str, Any] = {
    "study_name": "fixed",
    "seed": 3,
    "data": {"name": "digits", "images_per_class": 24},
    "distill": {
        "name": "distribution_matching",
        "images_per_class": 2,
        "num_steps": 6,
        "augment": "crop_scale",
        "real_batch_size": 8,
        "network_width": 8,
        "network_depth": 2,
    },
    "space": {"name": "convnet", "widths": [4, 8, 16], "depths": [1, 2]},
    "train": SHORT,
    "calibrate": {
        "num_architectures": 12,
        "threshold": -0.99,
        "reference": {"train": FULL},
        "recipes": [
            {
                "name": "distilled",
                "train_on": "proxy",
                "score": {"signals": ["train_loss_mean", "flops"], "combine": "rank_mean"},
            },
            {
                "name": "stream",
                "train_on": "full_data",
                "train": {**SHORT, "num_steps": 40},
                "score": {"signals": ["val_loss"]},
            },
        ],
    },
    "search": {
        "n_trials": 6,
        "sampler": "random",
        "executor": "serial",
        "guard": {"every": 3, "threshold": -1.0, "action": "warn", "train": FULL},
    },
    "validate": {
        "num_architectures": 10,
        "k": 2,
        "controls": ["num_params", "log_synflow"],
        "reference": {"train": FULL},
    },
    "retrain": {"num_seeds": 2, "train": FULL, "formats": [], "comparisons": ["median"]},
}
# What a clock, the machine or the place says.
_CHANGING = re.compile(
    r"seconds|^created$|hardware|versions|environment|latenc|memory|folder$|commands|bytes|"
    r"^frontier$|^files$|^results$|^root$|^costs$"
)
_COUNTING_SECONDS = ("recipe", "calibrated recipe", "trials", "validation")
_SECONDS = re.compile(r"[\d.e+-]+ s for each architecture")


def run(folder: Path) -> dict[str, Any]:
    """Run the study with its results in `folder`; see `outcome`."""
    from nas_proxy.cli.main import main

    file = folder / "fixed.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "results": str(folder / "results")}))
    try:
        main(["run", str(file)])
    except SystemExit as ended:
        if ended.code:
            raise
    return outcome(folder / "results")


def steady_cost(study: Any, evaluation: Any) -> float:
    """Instead of `StudyContext.cost`: full data costs twice as much, however busy the machine."""
    return 2.0 if evaluation.fidelity.dataset_id == study.splits.spec.source_hash else 1.0


def outcome(results: Path) -> dict[str, Any]:
    """All that the study wrote but for times and places, by file; and the registry's entries."""
    study = results / STUDY["study_name"]
    found: dict[str, Any] = {
        str(path.relative_to(study)): _read(path)
        for path in sorted([*study.rglob("*.json"), *study.rglob("*.jsonl")])
        if "tracking" not in str(path.relative_to(study))
    }
    found["registry"] = _registry(results)
    found["files"] = sorted(
        str(path.relative_to(study))
        for path in study.rglob("*")
        if path.is_file() and "mlflow" not in str(path.relative_to(study))
    )
    return found


def _read(path: Path) -> Any:
    text = path.read_text()
    if path.suffix == ".json":
        return _lasting(json.loads(text))
    return [_lasting(json.loads(line)) for line in text.splitlines()]


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _lasting(inner)
            for key, inner in value.items()
            # The id of a recipe that was found counts the seconds of its evaluations.
            if not (_CHANGING.search(key) or (key in _COUNTING_SECONDS and _is_hash(inner)))
        }
    if isinstance(value, list):
        return [_lasting(each) for each in value]
    return _SECONDS.sub("", value) if isinstance(value, str) else value


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{12,64}", value) is not None


def _registry(results: Path) -> Any:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    return {
        model.name: {
            "aliases": dict(model.aliases),
            "versions": [
                sorted(client.get_model_version(model.name, each.version).tags)
                for each in client.search_model_versions(f"name='{model.name}'")
            ],
        }
        for model in client.search_registered_models()
    }


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    with TemporaryDirectory() as place:
        Path(sys.argv[1]).write_text(json.dumps(run(Path(place)), indent=1, sort_keys=True))
