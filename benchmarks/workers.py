"""Architectures per minute with 1 and 2 worker processes, and what starting them costs.

python benchmarks/workers.py --data-root DATA --out results/benchmarks/workers.json
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from common import cifar10_factory, parser, publish

from nas_proxy.data.augment import Augmentation
from nas_proxy.evaluate.executors import evaluate_all, open_executor
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.reproducibility import make_generator
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.train.settings import TrainSettings


def main() -> None:
    """Measure and publish."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--num-architectures", type=int, default=12)
    arguments_parser.add_argument("--num-workers", type=int, nargs="+", default=[1, 2])
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(1)
    settings = TrainSettings(
        num_steps=100,
        batch_size=64,
        image_size=16,
        augmentation=Augmentation(crop=0.125, flip=True, cutout=0.5),
        space_fidelity={"num_cells": 1},
        num_val_images=1000,
    )
    space = NASBench201Space()
    factory = cifar10_factory(
        settings, space, data_root=arguments.data_root, device=arguments.device
    )
    architectures = draw_architectures(space, arguments.num_architectures + 2, make_generator(0))
    rows = []
    for num_workers in arguments.num_workers:
        with (
            tempfile.TemporaryDirectory() as folder,
            open_executor("processes", num_workers) as pool,
        ):
            log = EvaluationLog(Path(folder) / "log.jsonl")
            started = time.perf_counter()
            evaluate_all(pool, factory, architectures[:num_workers], 0, log)
            warm = time.perf_counter()
            evaluate_all(pool, factory, architectures[2:], 0, log)
            ended = time.perf_counter()
        rows.append(
            {
                "num_workers": num_workers,
                "architectures_per_minute": round(60 * len(architectures[2:]) / (ended - warm), 1),
                "start_and_first_evaluation_seconds": round(warm - started, 1),
            }
        )
    first, last = rows[0], rows[-1]
    ratio = last["architectures_per_minute"] / first["architectures_per_minute"]
    result = {"rows": rows, f"times_faster_with_{last['num_workers']}": round(ratio, 2)}
    publish(result, arguments)


if __name__ == "__main__":
    main()
