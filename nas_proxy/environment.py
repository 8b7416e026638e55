"""What a figure was measured on: hardware and library versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def hardware(device: torch.device) -> str:
    """The processor that does the work, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor_name()} ({os.cpu_count()} cores)"


def versions() -> dict[str, str]:
    """Versions of the libraries that shape a result; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in ("nas-proxy", "torch", "torchvision", "numpy", "scipy", "optuna", "mlflow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
