"""Does bfloat16 keep the ranking? It decides the default of `train.precision`.

Trains the same random NAS-Bench-201 architectures on the same real CIFAR-10 images three times:
in float32, in bfloat16 with channels-last, and in float32 with another seed. If bfloat16 agrees
with float32 as well as float32 agrees with itself under another seed, it costs no ranking.

    python benchmarks/precision.py --data-root DATA --out results/benchmarks/precision.json
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from common import cifar10_factory, parser, publish

from nas_proxy.data.augment import Augmentation
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.reproducibility import make_generator
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.statistics import ranks
from nas_proxy.train.settings import TrainSettings

SIGNALS = ("val_loss", "val_accuracy", "train_loss_tail")


def main() -> None:
    """Measure, print the table, write the JSON file."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--num-architectures", type=int, default=40)
    arguments_parser.add_argument("--num-steps", type=int, default=200)
    arguments_parser.add_argument("--image-size", type=int, default=16)
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(1)

    space = NASBench201Space()
    settings = TrainSettings(
        num_steps=arguments.num_steps,
        batch_size=64,
        augmentation=Augmentation(crop=0.125, flip=True, cutout=0.5),
        space_fidelity={"num_cells": 1},
        num_val_images=2000,
        image_size=arguments.image_size,
        precision="float32",
    )
    base = cifar10_factory(settings, space, data_root=arguments.data_root, device=arguments.device)
    bfloat16 = replace(base, settings=replace(settings, precision="bfloat16"))
    runs = {
        "float32": (base.build(), 0),
        "bfloat16": (bfloat16.build(), 0),
        "float32, other seed": (base.build(), 1),
    }
    architectures = draw_architectures(space, arguments.num_architectures, make_generator(0))
    values: dict[str, dict[str, list[float]]] = {name: {s: [] for s in SIGNALS} for name in runs}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number, architecture in enumerate(architectures, start=1):
        for name, (evaluator, seed) in runs.items():  # side by side: the machine's noise is shared
            evaluation = evaluator.evaluate(architecture, seed)
            if not evaluation.complete:
                raise SystemExit(evaluation.reason)
            seconds[name].append(evaluation.signals["train_seconds"])
            for signal in SIGNALS:
                values[name][signal].append(evaluation.signals[signal])
        print(f"{number} of {len(architectures)}", flush=True)

    result = {
        "num_architectures": len(architectures),
        "num_steps": arguments.num_steps,
        "image_size": arguments.image_size,
        "train_seconds_per_architecture": {n: float(np.mean(s)) for n, s in seconds.items()},
        "spearman_with_float32": {
            name: {
                signal: str(
                    ranks.estimate(
                        ranks.spearman,
                        np.array(values[name][signal]),
                        np.array(values["float32"][signal]),
                    )
                )
                for signal in SIGNALS
            }
            for name in list(runs)[1:]
        },
    }
    publish(result, arguments)


if __name__ == "__main__":
    main()
