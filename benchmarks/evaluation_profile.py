"""Where the core-seconds of one evaluation go, and how far it is from its bare convolutions.

The bare convolutions are those of the same steps: each layer's forward and backward pass, on
tensors of the same shape, precision and memory layout, timed alone. Nothing that trains the same
network with the same library can be faster.

    python benchmarks/evaluation_profile.py --data-root DATA --out OUT.json
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import parser, publish
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from nas_proxy.calibrate.recipes import default_recipes
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.errors import required
from nas_proxy.evaluate import network as evaluation
from nas_proxy.evaluate import trained_signals
from nas_proxy.evaluate.arithmetic import measure_arithmetic
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory, training_fidelity
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.evaluate.network import NetworkEvaluator, at_fidelity
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.interfaces import SearchSpace
from nas_proxy.processes import pack, unpack
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.train import loop
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Architecture, DatasetSpec

SPACES: dict[str, SearchSpace] = {
    "nasbench201": NASBench201Space(),
    "convnet": ConvNetSpace(widths=(32, 64)),
}
PROFILED_STEPS = 10

# Of what runs inside a training step: the name of an operator begins with one of these.
KINDS = {
    "convolutions": ("aten::mkldnn_convolution", "aten::convolution_backward", "aten::_slow_conv"),
    "norms": ("aten::native_batch_norm", "aten::native_group_norm", "aten::native_layer_norm"),
    "optimiser": ("aten::_fused_", "aten::_foreach_", "Optimizer."),
}


class Clock:
    """Core-seconds of named parts; a part inside another is not counted in the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block's seconds as those of `name`."""
        self._inside.append(0.0)
        started = time.process_time()
        try:
            yield
        finally:
            taken = time.process_time() - started
            self.seconds[name] += taken - self._inside.pop()
            if self._inside:
                self._inside[-1] += taken

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its seconds counted."""

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return counted


@contextmanager
def counted_parts(clock: Clock, space: type[SearchSpace]) -> Iterator[None]:
    """Count the parts of the evaluations inside the block."""
    places = [
        (space, "build", "build"),
        (evaluation, "train_student", "steps"),
        (TrainingSet, "batch", "indexing and normalising"),
        (Augmentation, "apply", "augmentation"),
        (trained_signals, "recalibrate_norms", "measuring: norms"),
        (trained_signals, "measure", "measuring: validation"),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, part in places:
        setattr(owner, name, clock.wrapped(part, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def operator_shares(
    evaluator: NetworkEvaluator, architecture: Architecture, num_steps: int
) -> dict[str, float]:
    """Shares of the steps by kind of operator, by torch's profiler over a few steps."""
    data, settings = evaluator.evaluation_data, replace(evaluator.settings, num_steps=num_steps)
    space = at_fidelity(evaluator.space, settings)
    with isolated_rng(0):
        network = space.build(architecture, data.measured_on.spec)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        loop.train(network, data.training_set, settings, make_generator(0))
    seconds: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        kind = next((k for k, names in KINDS.items() if event.key.startswith(names)), "elementwise")
        seconds[kind] += event.self_cpu_time_total
    total = sum(seconds.values())
    return {kind: value / total for kind, value in seconds.items()}


def bare_convolutions(
    network: nn.Module, images: Tensor, settings: TrainSettings, repeats: int = 5
) -> float:
    """Core-seconds of the convolutions of one training step: forward and backward, alone."""
    device = images.device
    channels_last = settings.uses_channels_last(network, device)
    shapes: list[tuple[nn.Conv2d, torch.Size, bool]] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        shapes.append((module, given[0].shape, bool(shapes)))

    hooks = [
        module.register_forward_hook(note)
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    dtype = torch.bfloat16 if settings.uses_bfloat16(device) else torch.float32
    total = 0.0
    for module, shape, needs_input_gradient in shapes:
        given = torch.randn(shape, dtype=dtype).contiguous(memory_format=layout)
        given.requires_grad_(needs_input_gradient)
        weight = module.weight.detach().to(dtype).contiguous(memory_format=layout).requires_grad_()
        run = functools.partial(
            F.conv2d,
            given,
            weight,
            stride=module.stride,
            padding=module.padding,
            dilation=module.dilation,
            groups=module.groups,
        )
        upstream = torch.randn_like(run())
        taken = []
        for _ in range(repeats):
            started = time.process_time()
            run().backward(upstream)
            taken.append(time.process_time() - started)
        total += sorted(taken)[len(taken) // 2]
    return total


def settings_of(
    space: SearchSpace, image_size: int, spec: DatasetSpec, device: torch.device
) -> dict[str, TrainSettings]:
    """The training of the default recipes in plain float32, and as a study chooses it here."""
    base = TrainSettings(num_steps=1, image_size=image_size, augmentation=Augmentation(flip=True))
    recipe = next(r for r in default_recipes(space, base) if r.name == "stream_90_alone")
    told = required(recipe.train, "the recipe's training")
    return {
        "plain": replace(told, precision="float32", channels_last=False),
        "chosen": measure_arithmetic(space, spec, told, device).settle(told),
    }


def measure_evaluations(
    space: SearchSpace, settings: TrainSettings, arguments: Any, spec: DatasetSpec, num_images: int
) -> dict[str, Any]:
    """One row of the table: the mean over a few architectures."""
    factory = NetworkEvaluatorFactory(
        data=DataSettings(name="cifar10", root=arguments.data_root),
        space=space,
        scores={},
        settings=settings,
        train_on="search_train",
        device=arguments.device,
        fidelity=training_fidelity(settings, spec, spec.source_hash, num_images),
    )
    evaluator, clock, bare = factory.build(), Clock(), 0.0
    shares: dict[str, float] = defaultdict(float)
    architectures = draw_architectures(space, arguments.num_architectures + 1, make_generator(0))
    evaluator.evaluate(architectures[0], 0)  # the first one warms the libraries up
    with tempfile.TemporaryDirectory() as folder:
        log = EvaluationLog(Path(folder) / "log.jsonl")
        for architecture in architectures[1:]:
            # Around each evaluation: what disturbs the machine disturbs both.
            before = bare_step(evaluator, architecture)
            with counted_parts(clock, type(space)):
                evaluate(evaluator, architecture, clock, log)
            bare += settings.num_steps * (before + bare_step(evaluator, architecture)) / 2
            for kind, share in operator_shares(evaluator, architecture, PROFILED_STEPS).items():
                shares[kind] += share / arguments.num_architectures
    return row(settings, clock, shares, bare, arguments.num_architectures)


def bare_step(evaluator: NetworkEvaluator, architecture: Architecture) -> float:
    """Core-seconds of the convolutions of one training step of an architecture."""
    settings, data = evaluator.settings, evaluator.evaluation_data
    with isolated_rng(0):
        network = at_fidelity(evaluator.space, settings).build(architecture, data.measured_on.spec)
    images, _ = data.training_set.batch(torch.arange(settings.batch_size))
    return bare_convolutions(network, images, settings)


def evaluate(
    evaluator: NetworkEvaluator, architecture: Architecture, clock: Clock, log: EvaluationLog
) -> None:
    """What a worker and the driver do for one architecture."""
    with clock.part("rest: signals, seeds"):
        found = evaluator.evaluate(architecture, 0)
    with clock.part("sending"):
        found = unpack(pack(found))
    with clock.part("logging"):
        log.append(found)


def row(
    settings: TrainSettings, clock: Clock, shares: dict[str, float], bare: float, num: int
) -> dict[str, Any]:
    """The figures of `num` evaluations, for one."""
    parts = {part: seconds / num for part, seconds in clock.seconds.items()}
    steps = parts.pop("steps")
    for kind, share in shares.items():
        parts[f"steps: {kind}"] = steps * share
    total = sum(parts.values())
    measuring = sum(v for part, v in parts.items() if part.startswith("measuring"))
    return {
        "image_size": settings.image_size,
        "num_steps": settings.num_steps,
        "precision": settings.precision,
        "channels_last": settings.channels_last,
        "core_seconds": round(total, 2),
        "bare_convolutions": round(bare / num, 2),
        "ratio": round(total / (bare / num), 2),
        "measuring_share": round(measuring / total, 3),
        "parts": {part: round(seconds, 3) for part, seconds in sorted(parts.items())},
    }


def main() -> None:
    """Measure and publish."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--num-architectures", type=int, default=4)
    arguments_parser.add_argument("--spaces", nargs="+", default=list(SPACES), choices=SPACES)
    arguments_parser.add_argument("--num-steps", type=int, nargs="+", default=[90, 360])
    arguments_parser.add_argument("--image-size", type=int, nargs="+", default=[16, 32])
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(1)
    splits = load_splits(DataSettings(name="cifar10", root=arguments.data_root))
    spec, num_images, rows = splits.spec, len(splits.search_train), []
    for name, size in product(arguments.spaces, arguments.image_size):
        space = SPACES[name]
        told = settings_of(space, size, spec, torch.device(arguments.device))
        for steps, (kind, settings) in product(arguments.num_steps, told.items()):
            timed = replace(settings, num_steps=steps)
            found = measure_evaluations(space, timed, arguments, spec, num_images)
            rows.append({"space": name, "settings": kind, **found})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    publish({"num_architectures": arguments.num_architectures, "rows": rows}, arguments)


if __name__ == "__main__":
    main()
