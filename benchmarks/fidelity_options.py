"""What cheaper trainings cost in ranking: fewer validation images, growing images, fewer channels.

Each option trains the same architectures of NAS-Bench-201 for the same steps on CIFAR-10; the
benchmark's table, trained for 200 epochs, judges. Differences to the plain training are paired:
the same architectures are drawn again and again. Architectures go round by round, so what time
allows is a fair comparison of fewer of them.

    python benchmarks/fidelity_options.py --data-root DATA --truth TABLE.csv --out OUT.json
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import cifar10_factory, parser, publish

from nas_proxy.calibrate.recipes import NUM_VAL_IMAGES, default_recipes
from nas_proxy.data.augment import Augmentation
from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.evaluate.table import TruthTable, read_table
from nas_proxy.reproducibility import make_generator
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.statistics import ranks
from nas_proxy.train.settings import TrainSettings

SPACE = NASBench201Space()
PLAIN = "16 pixels, 16 channels, all validation images"
# The sign that makes high good.
SIGNALS = {"val_loss": -1, "train_loss_mean": -1}


def options(num_steps: int) -> dict[str, TrainSettings]:
    """The training of the default recipes, and what may be cheaper."""
    base = TrainSettings(num_steps=1, image_size=16, augmentation=Augmentation(flip=True))
    recipe = next(r for r in default_recipes(SPACE, base) if r.name == "stream_90_alone")
    told = replace(recipe.train, num_steps=num_steps, precision="float32", channels_last=True)
    return {
        PLAIN: replace(told, num_val_images=None),
        f"{NUM_VAL_IMAGES:,} validation images": told,
        "from 8 to 16 pixels": replace(told, first_image_size=8),
        "8 channels": replace(told, space_fidelity={"num_cells": 1, "channels": 8}),
    }


def rows(found: dict[str, list[dict[str, float]]], truth: list[float]) -> list[dict[str, Any]]:
    """A row for each option and signal, over the architectures that every option has trained."""
    num = min(map(len, found.values()))
    reference = np.array(truth[:num])
    made = []
    for name, signals in found.items():
        for signal, sign in SIGNALS.items():
            own, plain = (
                sign * np.array([each[signal] for each in found[which][:num]])
                for which in (name, PLAIN)
            )
            told = ranks.estimate(ranks.spearman, own, reference)
            difference = ranks.estimate(
                ranks.difference_of(ranks.spearman),
                np.stack([own, plain]),
                reference,
            )
            seconds = float(np.mean([each["core_seconds"] for each in signals[:num]]))
            made.append(
                {
                    "option": name,
                    "signal": signal,
                    "n": num,
                    "spearman": str(told),
                    "minus_plain": "–" if name == PLAIN else str(difference),
                    "core_seconds": round(seconds, 2),
                }
            )
    return made


def measured(evaluator: NetworkEvaluator, architecture: Any) -> dict[str, float]:
    """Signals and core-seconds of one evaluation."""
    started = time.process_time()
    found = evaluator.evaluate(architecture, 0)
    if not found.complete:
        raise RuntimeError(f"{architecture.id}: {found.reason}")
    return {**found.signals, "core_seconds": time.process_time() - started}


def main() -> None:
    """Measure and publish, after each round anew."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--truth", type=Path, required=True)
    arguments_parser.add_argument("--num-architectures", type=int, default=60)
    arguments_parser.add_argument("--num-steps", type=int, default=90)
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(1)
    table = read_table(arguments.truth, SPACE, "arch_str", "cifar10_test_200")
    for notice in table.notices:
        print(notice, flush=True)
    evaluators = {
        name: cifar10_factory(
            settings, SPACE, data_root=arguments.data_root, device=arguments.device
        ).build()
        for name, settings in options(arguments.num_steps).items()
    }
    run(arguments, table, evaluators)


def run(arguments: Namespace, table: TruthTable, evaluators: dict[str, NetworkEvaluator]) -> None:
    """One architecture after another, by every option."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    truth: list[float] = []
    drawn = draw_architectures(
        SPACE, arguments.num_architectures, make_generator(0), among=list(table.values)
    )
    for architecture in drawn:
        for name, evaluator in evaluators.items():
            found[name].append(measured(evaluator, architecture))
        truth.append(table.values[architecture])
        if len(truth) >= 3 and (len(truth) % 10 == 0 or len(truth) == len(drawn)):
            publish({"num_steps": arguments.num_steps, "rows": rows(found, truth)}, arguments)


if __name__ == "__main__":
    main()
