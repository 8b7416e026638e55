"""How long a network takes to answer: warm, on one thread, as a median with its spread.

What the clock is matters more than the number of repetitions. On a shared machine the wall clock
counts what other processes do in the meantime. A 4-layer convolutional network of 64 channels on
32x32 pixels was timed on two cores beside none, one, two and four other trainings: medians by the
wall clock were 7.4, 11.8, 28 and 52 ms, by the clock of the thread itself 3.6, 3.8, 4.1 and 3.6 ms.
So on one CPU thread the thread's own clock counts, which stands still while the thread waits for a
core; on a machine that is idle the two agree. What is left of the others is their share of caches
and memory, and the quartiles show it. On a GPU, and with several threads, only the wall clock is
there: measure alone.

A latency is not reproducible. Sixteen medians of 50 calls of one network of 0.16 ms had a
coefficient of variation of .13, and of .27 beside two trainings, on two cores that were never quiet
(load 10). Whoever decides by it keeps what was measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas_proxy.core.environment import hardware
from nas_proxy.devices import wait_for
from nas_proxy.errors import ConfigError
from nas_proxy.reproducibility import make_generator
from nas_proxy.train.measuring import evaluating

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Latency:
    """Seconds for one batch.

    Attributes:
        median_seconds: Of the calls.
        low: Their lower quartile, in seconds.
        high: Their upper quartile, in seconds.
        num_repeats: How many calls were timed.
        batch_size: Images of a call; 2 for a network that refuses a single image.
        num_threads: Torch's, on a CPU.
        device: The hardware, in words.
    """

    median_seconds: float
    low: float
    high: float
    num_repeats: int
    batch_size: int
    num_threads: int
    device: str

    def __str__(self) -> str:
        """Median and quartiles, such as `3.21 ms [3.15, 3.4]`."""
        median, low, high = (f"{1e3 * t:.3g}" for t in (self.median_seconds, self.low, self.high))
        return f"{median} ms [{low}, {high}]"

    def to_json(self) -> dict[str, Any]:
        """A JSON mapping with the attributes' names; `Latency(**mapping)` reads it back."""
        return asdict(self)


def measure_latency(
    network: nn.Module,
    image_shape: tuple[int, int, int],
    *,
    batch_size: int = 1,
    num_warm_up: int = 10,
    num_repeats: int = 50,
    device: torch.device = _CPU,
    num_threads: int = 1,
) -> Latency:
    """Time forward passes in evaluation mode, without gradients.

    The network is left as it was. Torch refuses a group norm over a single value, which networks
    with an instance norm come down to on one small image: they are timed on two images, and the
    whole time counts, as the next best upper bound.

    Args:
        network: On `device`.
        image_shape: `(c, h, w)`; images of normal noise are shown.
        batch_size: Images of one call.
        num_warm_up: Calls before the first one that counts.
        num_repeats: Calls that count.
        device: Where; a GPU is waited for around every call.
        num_threads: Of torch, on a CPU; set back afterwards.

    Raises:
        ConfigError: If `num_repeats` is below 1.
    """
    generator = make_generator(0)
    images = torch.randn((max(2, batch_size), *image_shape), generator=generator).to(device)
    with evaluating(network), torch.no_grad():
        if batch_size == 1 and _refuses_one(network, images[:1]):
            batch_size = 2
        batch = images[:batch_size]
        return measure_calls(
            lambda: network(batch),
            batch_size=batch_size,
            num_warm_up=num_warm_up,
            num_repeats=num_repeats,
            device=device,
            num_threads=num_threads,
        )


def measure_calls(
    call: Callable[[], object],
    *,
    batch_size: int,
    num_warm_up: int = 10,
    num_repeats: int = 50,
    device: torch.device = _CPU,
    num_threads: int = 1,
) -> Latency:
    """The same for anything that answers a batch, such as an exported program.

    Args:
        call: Answers one batch. With one thread on a CPU it has to work in the calling thread,
            for that thread's clock is read.
        batch_size: How many images that are; it is only noted.
        num_warm_up: See `measure_latency`, as for the rest.
        num_repeats: Likewise.
        device: Likewise.
        num_threads: Likewise.

    Raises:
        ConfigError: If `num_repeats` is below 1.
    """
    if num_repeats < 1:
        raise ConfigError(f"num_repeats is {num_repeats}, but a latency needs at least one call")
    clock = time.perf_counter
    if device.type == "cpu" and num_threads == 1:
        clock = time.thread_time
    with _torch_threads(num_threads):
        for _ in range(num_warm_up):
            call()
        seconds = [_time(call, clock, device) for _ in range(num_repeats)]
    low, median, high = (float(value) for value in np.quantile(seconds, (0.25, 0.5, 0.75)))
    return Latency(median, low, high, num_repeats, batch_size, num_threads, hardware(device))


def _time(call: Callable[[], object], clock: Callable[[], float], device: torch.device) -> float:
    wait_for(device)  # what was queued before is not this call's
    started = clock()
    call()
    wait_for(device)
    return clock() - started


def _refuses_one(network: nn.Module, image: Tensor) -> bool:
    try:
        network(image)
    except ValueError:
        return True
    return False


@contextmanager
def _torch_threads(num_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
