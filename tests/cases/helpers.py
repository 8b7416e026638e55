"""Small studies of one's own, and the shared cases as they are written."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]

TINY = {
    "study_name": "s",
    "data": {"name": "digits", "images_per_class": 20},
    "distill": {"name": "random_subset", "images_per_class": 2},
    "space": {"name": "convnet", "widths": [32], "depths": [1]},
    "train": {
        "num_steps": 3, "batch_size": 8, "learning_rate": 0.02,
        "precision": "float32", "channels_last": False,
    },
    "score": {"signals": ["val_loss"]},
    "search": {"n_trials": 2, "sampler": "random"},
    "tracking": {"enabled": False},
}  # fmt: skip
"""Seconds on one core, without timing in which precision networks train faster."""

RETRAINED = {"num_seeds": 1, "train": {"num_steps": 3, "batch_size": 8, "learning_rate": 0.02}}

SPACE = """
from dataclasses import dataclass
import torch
from torch import nn
from nas_proxy.interfaces import SearchSpace
from nas_proxy.types import Architecture

WIDTHS = (8, 12)

@dataclass(frozen=True, kw_only=True)
class Own(SearchSpace):
    def suggest(self, trial):
        return Architecture(self.name, {"w": trial.suggest_categorical("w", WIDTHS)})

    def sample(self, generator):
        index = int(torch.randint(len(WIDTHS), (), generator=generator))
        return Architecture(self.name, {"w": WIDTHS[index]})

    def build(self, architecture, spec):
        return Net(spec, architecture.genotype["w"])
"""
NETWORK = """
class Net(nn.Module):
    def __init__(self, spec, width):
        super().__init__()
        channels, height, columns = spec.image_shape
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.last = nn.Linear(width, spec.num_classes)

    def forward(self, x):
        return self.last(self.conv(x).mean((2, 3)))
"""


def write_config(folder: Path, *, name: str = "c.yaml", **sections: object) -> Path:
    """`TINY` with other sections; None leaves one out."""
    given = {key: value for key, value in {**TINY, **sections}.items() if value is not None}
    file = folder / name
    file.write_text(yaml.safe_dump(given))
    return file


def copied_case(shared: Path, name: str, folder: Path) -> Path:
    """A shared case's files in `folder`, which becomes the working directory of its commands."""
    shutil.copytree(shared / "cases" / name, folder, dirs_exist_ok=True)
    return folder


def python(
    *words: str, cwd: Path, text: str = "", timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run Python as a user does, with this checkout's package."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        input=text,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # What ends a command by a signal must find it as a shell starts it.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )


def assert_one_sentence(outcome, *expected: str, status: int = 2) -> None:
    """Nothing but sentences, the last of which says all that is expected."""
    assert outcome.status == status, outcome.errors
    assert "Traceback" not in outcome.errors + outcome.output
    assert "unexpected" not in outcome.errors, outcome.errors
    message = outcome.errors[outcome.errors.index("nas-proxy: ") :]
    for words in expected:
        assert words in message, message
