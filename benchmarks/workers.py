"""What starting worker processes costs on CIFAR-10, and architectures per minute with 1 and 2.

python benchmarks/workers.py --data-root DATA --out results/benchmarks/workers.json

A worker's first answer is an evaluation of one step: it has imported, loaded images and trained.
The first one is started by a process that has started none; the later ones together, by a second
pool of the same process, as a study's next stage does. unique_mib is memory of that worker alone,
shared_mib its part of what several processes share (Linux's USS, and PSS without it).
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import cifar10_factory, parser, publish

from nas_proxy.data.augment import Augmentation
from nas_proxy.evaluate.executors import Evaluator, evaluate_all, open_executor
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.processes import WorkerPool
from nas_proxy.reproducibility import make_generator
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture

SETTINGS = TrainSettings(
    num_steps=100,
    batch_size=64,
    image_size=16,
    augmentation=Augmentation(crop=0.125, flip=True, cutout=0.5),
    space_fidelity={"num_cells": 1},
    num_val_images=1000,
)


@dataclass(frozen=True)
class FirstAnswer:
    """A worker's function: evaluates, waits until the others have, and says what it took.

    Attributes:
        factory: Of evaluators.
        folder: Where workers tell one another that they have answered.
        num_workers: How many there are.
    """

    factory: NetworkEvaluatorFactory
    folder: str
    num_workers: int

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        """Evaluate once."""
        evaluation = _evaluator(self.factory).evaluate(architecture, 0)
        if not evaluation.complete:
            raise RuntimeError(evaluation.reason)
        answered = time.time()
        (Path(self.folder) / str(os.getpid())).touch()
        while len(list(Path(self.folder).iterdir())) < self.num_workers:
            time.sleep(0.01)
        return {"answered": answered, **_memory()}


_built: list[Evaluator] = []


def _evaluator(factory: NetworkEvaluatorFactory) -> Evaluator:
    if not _built:
        _built.append(factory.build())
    return _built[0]


def _memory() -> dict[str, float]:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kib = {name.rstrip(":"): int(value) for name, value, *_ in map(str.split, lines)}
    unique = kib["Private_Clean"] + kib["Private_Dirty"]
    return {"unique_mib": unique // 1024, "shared_mib": (kib["Pss"] - unique) // 1024}


def main() -> None:
    """Measure and publish."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--num-architectures", type=int, default=12)
    arguments_parser.add_argument("--num-workers", type=int, nargs="+", default=[1, 2])
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(1)
    space = NASBench201Space()
    build = partial(
        cifar10_factory, space=space, data_root=arguments.data_root, device=arguments.device
    )
    num_architectures = arguments.num_architectures + max(arguments.num_workers)
    architectures = draw_architectures(space, num_architectures, make_generator(0))
    short = build(TrainSettings(**{**vars(SETTINGS), "num_steps": 1}))
    first = _first_answers(short, architectures[:1])
    later = _first_answers(short, architectures[: max(arguments.num_workers)])
    rows = [_speed(build(SETTINGS), architectures, n) for n in arguments.num_workers]
    ratio = rows[-1]["architectures_per_minute"] / rows[0]["architectures_per_minute"]
    result = {
        "first_worker": first[0],
        "later_workers": later,
        "rows": rows,
        f"times_faster_with_{rows[-1]['num_workers']}": round(ratio, 2),
    }
    publish(result, arguments)


def _first_answers(
    factory: NetworkEvaluatorFactory, architectures: list[Architecture]
) -> list[dict[str, float]]:
    """Seconds to the first answer and memory of as many workers as there are architectures."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.time()
        function = FirstAnswer(factory, folder, len(architectures))
        with WorkerPool(function, len(architectures)) as pool:
            futures = [pool.submit(architecture) for architecture in architectures]
            answers = [future.result() for future in futures]
    return [{"seconds": round(a.pop("answered") - started, 1), **a} for a in answers]


def _speed(
    factory: NetworkEvaluatorFactory, architectures: list[Architecture], num_workers: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, open_executor("processes", num_workers) as pool:
        log = EvaluationLog(Path(folder) / "log.jsonl")
        evaluate_all(pool, factory, architectures[:num_workers], 0, log)
        warm = time.perf_counter()
        evaluate_all(pool, factory, architectures[num_workers:], 0, log)
        ended = time.perf_counter()
    timed = len(architectures) - num_workers
    return {
        "num_workers": num_workers,
        "architectures_per_minute": round(60 * timed / (ended - warm), 1),
    }


if __name__ == "__main__":
    main()
