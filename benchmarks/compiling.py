"""Whether `torch.compile` pays for networks that are used again and again: teachers and experts.

Core-seconds of a training step with and without it, what compiling costs before the first step, and
after how many steps that is paid back.

    python benchmarks/compiling.py --out results/benchmarks/compiling.json
"""

from __future__ import annotations

import copy
import math
import os
import resource
import time
from collections.abc import Callable
from typing import Any

# Before torch is imported: compile in this process, where it is counted, and nothing from earlier.
os.environ |= {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}

import torch
import torch.nn.functional as F
from common import parser, publish
from torch import Tensor, nn

from nas_proxy.devices import is_gpu, wait_for
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.networks.resnet import ResNet18
from nas_proxy.reproducibility import isolated_rng

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "convnet": lambda size: ConvNet((3, size, size), 10, width=128),
    "resnet18": lambda size: ResNet18((3, size, size), 10),
}


def main() -> None:
    """Measure and publish."""
    arguments_parser = parser(__doc__, data=False)
    arguments_parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    arguments_parser.add_argument("--image-size", type=int, default=32)
    arguments_parser.add_argument("--batch-size", type=int, default=64)
    arguments_parser.add_argument("--num-steps", type=int, default=6)
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(1)
    shape = (arguments.batch_size, 3, arguments.image_size, arguments.image_size)
    device = torch.device(arguments.device)
    rows = [_row(name, shape, device, arguments.num_steps) for name in arguments.networks]
    shown = {"image_size": arguments.image_size, "batch_size": arguments.batch_size}
    publish({**shown, "rows": rows}, arguments)


def _row(name: str, shape: tuple[int, ...], device: torch.device, num_steps: int) -> dict[str, Any]:
    """One network in three ways; each step's figure is the fastest of several."""
    with isolated_rng(0):
        network = NETWORKS[name](shape[-1]).to(device)
        images = torch.randn(shape, device=device)
        labels = torch.randint(10, shape[:1], device=device)

    def fastest(called: nn.Module, shown: Tensor) -> float:
        return min(_step(called, shown, labels) for _ in range(num_steps))

    plain = fastest(network, images)
    last = torch.channels_last
    relaid = fastest(copy.deepcopy(network).to(memory_format=last), images.to(memory_format=last))
    compiled = torch.compile(network)
    first = _step(compiled, images, labels)
    later = fastest(compiled, images)
    return {
        "network": name,
        "step_seconds": round(plain, 4),
        "channels_last_step_seconds": round(relaid, 4),
        "compiled_step_seconds": round(later, 4),
        "times_faster": round(plain / later, 2),
        "compiling_seconds": round(first - later, 1),
        "steps_until_it_pays": math.ceil(first / (plain - later)) if later < plain else None,
    }


def _step(called: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Seconds of a forward and a backward pass: of cores, or of the clock on a GPU."""
    called.zero_grad()
    wait_for(images.device)
    started = _now(images.device)
    F.cross_entropy(called(images), labels).backward()
    wait_for(images.device)
    return _now(images.device) - started


def _now(device: torch.device) -> float:
    if is_gpu(device):
        return time.perf_counter()
    used = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    main()
