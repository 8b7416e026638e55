"""Does a batch fit into memory? Asked before the work, by doing it with a few images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nas_proxy.core.environment import PeakMemory, available_memory
from nas_proxy.errors import ConfigError

_SMALL, _LARGE = 2, 8  # images of the two trials
_NUM_REPEATS = 3  # of each: what the system takes back meanwhile hides growth
_GIB = 2**30
_SMALLER = "choose a smaller network or a lower data.image_size"


@dataclass(frozen=True)
class BatchMemory:
    """What a batch needs, in bytes, beside what is in use already.

    Attributes:
        fixed: Whatever its size.
        per_image: For each image.
    """

    fixed: float
    per_image: float

    @classmethod
    def measure(cls, work: Callable[[int], object], device: torch.device) -> BatchMemory:
        """Do the work with two and with eight images, three times each; the largest counts.

        On a GPU the two give a line. On a CPU, where the system counts whole pages and the
        libraries' own copies, all of the second is taken as growing with the batch, which is up to
        half too much; a system that does not say how much is in use gives zero.

        Args:
            work: Does what a batch of so many images asks for, once.
            device: Where it does it.

        Raises:
            ConfigError: If not even these fit.
        """
        try:
            return cls._measure(work, device)
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"not even a batch of {_LARGE} images fits into memory; {_SMALLER}"
            ) from error

    @classmethod
    def _measure(cls, work: Callable[[int], object], device: torch.device) -> BatchMemory:
        work(_LARGE)  # what is allocated once and for all does not count
        small, large = (
            max(_peak_bytes(work, num_images, device) for _ in range(_NUM_REPEATS))
            for num_images in (_SMALL, _LARGE)
        )
        growth = max(0.0, large - small)
        if device.type == "cpu":
            return cls(0.0, large / _LARGE if growth > 0 else 0.0)
        per_image = growth / (_LARGE - _SMALL)
        return cls(large - per_image * _LARGE, per_image)

    def needed(self, batch_size: int) -> float:
        """Bytes for `batch_size` images."""
        return self.fixed + self.per_image * batch_size

    def largest(self, num_bytes: float) -> int:
        """Images of the largest batch that fits into `num_bytes`; 0 if none does."""
        return max(0, int((num_bytes - self.fixed) / max(self.per_image, 1.0)))

    def check(self, batch_size: int, device: torch.device, num_workers: int) -> None:
        """Make sure that a batch fits for each worker.

        Raises:
            ConfigError: If it does not; the message names the largest one that does.
        """
        available = available_memory(device)
        if self.needed(batch_size) * num_workers > available:
            raise self.refusal(batch_size, device, num_workers)

    def refusal(self, batch_size: int, device: torch.device, num_workers: int) -> ConfigError:
        """The error for a batch that does not fit, or was seen not to fit."""
        available = available_memory(device)
        needs = (
            f"a batch of {batch_size} images needs about "
            f"{self.needed(batch_size) / _GIB:.2g} GiB of memory"
            + (f" for each of {num_workers} workers" if num_workers > 1 else "")
            + f", and {available / _GIB:.2g} GiB are free"
        )
        largest = min(self.largest(available / num_workers), batch_size - 1)
        if largest > 0:
            remedy = f"set distill.batch_size to at most {largest}"
        else:
            remedy = f"not even one image fits: {_SMALLER}"
        fewer = ", or lower distill.num_workers" if num_workers > 1 else ""
        return ConfigError(f"{needs}; {remedy}{fewer}")


def _peak_bytes(work: Callable[[int], object], num_images: int, device: torch.device) -> float:
    memory = PeakMemory(device)
    work(num_images)
    return memory.mib * 2**20
