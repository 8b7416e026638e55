"""Ranking recipes at 32 pixels on a GPU: correlation with the benchmark's table against seconds.

Each recipe trains the same architectures of NAS-Bench-201's table on real images, several at a
time; the table holds the test accuracy after 200 epochs. What time allows counts: n is in each row.
Seconds per architecture are of the clock, with the start of the processes in the first recipe's.

    python benchmarks/gpu_ranking.py --part prepared/cifar10_part.safetensors --out OUT.json
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gpu_common import PartFactory, Table, gpu_parser, read_part, settings_of

from nas_proxy.data.augment import Augmentation
from nas_proxy.evaluate.executors import evaluate_all, open_executor
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.statistics import ranks
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Evaluation

# The sign that makes high good.
SIGNALS = {"val_loss": -1, "val_accuracy": 1, "train_loss_mean": -1, "train_loss_tail": -1}
SHAPES = {"90 steps, 1 cell": (90, 1), "180 steps, 1 cell": (180, 1), "90 steps, 5 cells": (90, 5)}


def recipes(size: str) -> dict[str, TrainSettings]:
    """Steps and cells; all else is the same."""
    if size == "tiny":
        return {"2 steps, 1 cell": settings_of(size, num_steps=2, space_fidelity={"num_cells": 1})}
    return {
        name: settings_of(
            size,
            num_steps=num_steps,
            space_fidelity={"num_cells": num_cells},
            augmentation=Augmentation(crop=0.125, flip=True),
            norm_statistics="recalibrated",
        )
        for name, (num_steps, num_cells) in SHAPES.items()
    }


def rows(
    name: str, evaluations: list[Evaluation], table: Mapping[str, float], seconds: float
) -> list[dict[str, Any]]:
    """A row for each signal of a recipe; `seconds` of the clock for each architecture."""
    space = NASBench201Space()
    done = [each for each in evaluations if each.complete]
    truth = np.array([table[space.to_string(each.architecture)] for each in done])
    failed = [each.reason for each in evaluations if not each.complete]
    made = []
    for signal, sign in SIGNALS.items():
        scores = sign * np.array([each.signals[signal] for each in done])
        estimate = ranks.estimate(ranks.spearman, scores, truth)
        made.append(
            {
                "recipe": name,
                "signal": signal,
                "n": len(done),
                "spearman": str(estimate),
                "seconds_per_architecture": round(seconds, 3),
                "seconds_of_an_evaluation": round(float(np.mean([e.seconds for e in done])), 3),
                "failed": failed,
            }
        )
    return made


def main() -> None:
    """Train all architectures with one recipe after the other; publish after a few of them."""
    made = gpu_parser(__doc__, seconds=55)
    made.add_argument("--cuda-graph", action="store_true")
    made.add_argument("--num-slots", type=int, default=8, help="processes on the GPU")
    arguments = made.parse_args()
    tiny = arguments.size == "tiny"
    part = read_part(arguments.part)
    texts = list(part.table)[: 3 if tiny else None]
    space = NASBench201Space()
    architectures = [space.from_string(text) for text in texts]
    table = Table(arguments)
    num_slots = 1 if tiny else arguments.num_slots
    with (
        tempfile.TemporaryDirectory() as folder,
        open_executor("serial" if tiny else "processes", num_slots) as executor,
    ):
        finished: list[dict[str, Any]] = []
        for number, (name, settings) in enumerate(recipes(arguments.size).items()):
            factory = PartFactory(
                file=arguments.part,
                space=space,
                settings=settings,
                device=arguments.device,
                spec=part.splits.spec,
                num_images=len(part.splits.search_train),
                num_slots=num_slots,
                cuda_graph=arguments.cuda_graph,
            )
            log = EvaluationLog(Path(folder) / f"{number}.jsonl")
            started, done = time.perf_counter(), 0
            while done < len(architectures) and table.seconds_left > 0:
                done = min(len(architectures), done + 2 * num_slots)
                found = evaluate_all(executor, factory, architectures[:done], 0, log)
                seconds = (time.perf_counter() - started) / done
                table.rows = [*finished, *rows(name, found, part.table, seconds)]
                table.write(num_slots=num_slots)
            finished = table.rows


if __name__ == "__main__":
    main()
