"""What a figure was measured on, and with how much memory: hardware, library versions."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from nas_proxy.devices import (
    free_gpu_memory,
    gpu_name,
    is_gpu,
    num_gpus,
    peak_gpu_memory,
    reset_peak_gpu_memory,
)
from nas_proxy.errors import ConfigError


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ConfigError: If `device` is neither `cpu` nor a GPU that torch sees, such as `cuda:1`.
    """
    named = re.fullmatch(r"cpu|cuda(?::(\d+))?", device)
    if named is None:
        raise ConfigError(f"device is {device!r}, which is neither cpu nor cuda nor such as cuda:1")
    if device != "cpu" and int(named[1] or 0) >= num_gpus():
        num = num_gpus()
        seen = f"torch sees {num} of them, counted from 0" if num else "torch sees no GPU"
        raise ConfigError(f"device is {device!r}, but {seen}; use device=cpu")


def hardware(device: torch.device) -> str:
    """The processor that does the work, in words."""
    if is_gpu(device):
        return gpu_name(device)
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


class PeakMemory:
    """Watches how much more memory is in use than when it was made.

    On a CPU it is the resident memory that grows, with pages of mapped files such as libraries. As
    much as the system takes back of them meanwhile, or Python of earlier garbage, is hidden.

    Args:
        device: On a GPU its own memory counts; on a CPU that of this process.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if is_gpu(device):
            self._before = reset_peak_gpu_memory(device)
        else:
            _return_freed_memory()
            _reset_peak()
            self._before = _status_bytes("VmRSS")

    @property
    def mib(self) -> float:
        """The largest amount so far, in MiB, beside what was in use at the beginning."""
        on_gpu = is_gpu(self._device)
        peak = peak_gpu_memory(self._device) if on_gpu else _status_bytes("VmHWM")
        return max(0, peak - self._before) / 2**20


def available_memory(device: torch.device) -> int:
    """Bytes that can still be asked for on `device`; a container's limit counts."""
    if is_gpu(device):
        return free_gpu_memory(device)
    available = _meminfo_bytes("MemAvailable")
    limit, used = (
        _read_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current")
    )
    return available if limit is None or used is None else min(available, limit - used)


def _return_freed_memory() -> None:
    """Give back what earlier work has freed: used again, it would not show as growth."""
    if os.name != "posix":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def _reset_peak() -> None:
    """Let the kernel forget the process's largest size so far; where it does not, it stays."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # another system than Linux, or a container that forbids it
        return


def _status_bytes(name: str) -> int:
    """A line of /proc/self/status, or the peak since the process began where there is none.

    Where POSIX's `resource` is not either, it is 0, and no growth shows.
    """
    found = _kib_line(Path("/proc/self/status"), name)
    if found is not None:
        return found
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _meminfo_bytes(name: str) -> int:
    """A line of /proc/meminfo, all memory where there is none, and no limit where none is known."""
    found = _kib_line(Path("/proc/meminfo"), name)
    if found is not None:
        return found
    if not hasattr(os, "sysconf"):
        return sys.maxsize
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _kib_line(file: Path, name: str) -> int | None:
    if file.is_file():
        for line in file.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def _read_number(file: Path) -> int | None:
    if not file.is_file():
        return None
    text = file.read_text().strip()
    return int(text) if text.isdigit() else None  # "max": no limit


def _processor_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Cores that this process may use, as far as the system says."""
    asks = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(asks(0)) if asks is not None else os.cpu_count() or 1
