"""What each way of making a network smaller costs in accuracy, and what it brings.

ResNet-18 of width 16 with batch norm learns CIFAR-10 for a short time; then every variant is made
and fine-tuned, and its ONNX file is measured. The distilling variants learn from the network that
they come from. `float32, trained on` is the control: the same fine-tuning of the whole network,
because a network that is not trained to the end gains from any further training.

    python benchmarks/compression.py --data-root DATA --out OUT.json
"""

from __future__ import annotations

import copy
import math
import shutil
import statistics
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from common import parser, publish

from nas_proxy.compress.compressing import compress
from nas_proxy.compress.measurements import EXACT
from nas_proxy.compress.self_distillation import TEMPERATURE, WEIGHT, DistilFromItself
from nas_proxy.compress.settings import CompressSettings
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.errors import required
from nas_proxy.networks.catalogue import NetworkSettings, build_network, describe
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import measure
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import ImageDataset, Splits

CONTROL = "float32, trained on"
NETWORK = NetworkSettings(name="resnet18", width=16, norm="batch")
PRUNE, SPARSE = "structured_pruning", "unstructured_pruning"
ROUND, QAT, DISTIL = "post_training_quantisation", "quantisation_aware_training", "distillation"
VARIANTS = (
    (PRUNE,),
    (SPARSE,),
    (ROUND,),
    (QAT,),
    (PRUNE, ROUND),
    (PRUNE, QAT),
    (SPARSE, QAT),
    (PRUNE, DISTIL),
    (PRUNE, QAT, DISTIL),
)


def main() -> None:
    """Measure and publish."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--num-seeds", type=int, default=3)
    arguments_parser.add_argument("--num-steps", type=int, default=400)
    arguments_parser.add_argument("--num-fine-tuning-steps", type=int, default=80)
    arguments_parser.add_argument("--num-val-images", type=int, default=1000)
    arguments_parser.add_argument("--num-test-images", type=int, default=5000)
    arguments_parser.add_argument("--network-width", type=int, default=NETWORK.width)
    arguments_parser.add_argument("--num-variants", type=int, default=len(VARIANTS))
    arguments = arguments_parser.parse_args()
    chosen = replace(NETWORK, width=arguments.network_width)
    torch.set_num_threads(1)
    splits = load_splits(DataSettings(name="cifar10", root=arguments.data_root))
    splits = Splits(
        _on(splits.search_train, arguments.device),
        splits.search_val.subset(torch.arange(arguments.num_val_images)),
        splits.test.subset(torch.arange(arguments.num_test_images)),
    )
    training = TrainSettings(
        num_steps=arguments.num_steps,
        batch_size=64,
        learning_rate=0.1,
        augmentation=Augmentation(crop=0.125, flip=True),
    )
    fine_tuning = replace(training, num_steps=arguments.num_fine_tuning_steps, learning_rate=0.02)
    settings = CompressSettings(
        variants=VARIANTS[: arguments.num_variants], fine_tuning=fine_tuning
    )
    about = {
        "network": describe(chosen),
        "data": "cifar10",
        "settings": {
            "channel_amount": settings.channel_amount,
            "weight_amount": settings.weight_amount,
            "num_calibration_images": settings.num_calibration_images,
            "training": "one cycle of 0.1, batches of 64, crop and flip",
            "fine_tuning": "one cycle of 0.02, otherwise alike",
            "distillation": f"temperature {TEMPERATURE}, weight {WEIGHT}",
        },
    }
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.num_seeds):  # published after each: a seed takes minutes
        rows += one_seed(chosen, splits, training, settings, seed)
        publish({**about, "num_seeds": seed + 1, "summary": summary(rows), "rows": rows}, arguments)


def one_seed(
    chosen: NetworkSettings,
    splits: Splits,
    training: TrainSettings,
    settings: CompressSettings,
    seed: int,
) -> list[dict[str, Any]]:
    """Train a network and compress it: a row for it, for the control and for each variant."""
    fine_tuning = required(settings.fine_tuning, "fine_tuning")
    training_set = TrainingSet.of(splits.search_train)
    device = training_set.images.device
    with isolated_rng(seed):
        network = build_network(chosen, splits.spec).to(device)
    train(network, training_set, training, make_generator(seed, device))
    network.eval()
    folder = Path(tempfile.mkdtemp())
    models = compress(
        network,
        training_set,
        splits.search_val,
        settings,
        folder=folder,
        seed=seed,
        make_objective=DistilFromItself(network, training_set),
    )
    rows = [
        {
            "seed": seed,
            **asdict(model.row),
            "test_accuracy": measure(model.runtime, splits.test, EXACT).accuracy,
        }
        for model in models
    ]
    shutil.rmtree(folder)
    control = copy.deepcopy(network)
    result = train(control, training_set, fine_tuning, make_generator(seed + 1, device))
    control.cpu()
    return [
        rows[0],
        {
            "seed": seed,
            "name": CONTROL,
            "val_accuracy": measure(control, splits.search_val, EXACT).accuracy,
            "test_accuracy": measure(control, splits.test, EXACT).accuracy,
            "train_seconds": result.train_seconds,
        },
        *rows[1:],
    ]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds; accuracies in per cent with their standard errors.

    The difference is that from the control of the same seed.
    """
    names = list(dict.fromkeys(row["name"] for row in rows))
    test = {(row["name"], row["seed"]): 100 * row["test_accuracy"] for row in rows}
    return [
        {
            "name": name,
            "test_accuracy": _mean([test[key] for key in test if key[0] == name]),
            "difference_from_control": _mean(
                [test[key] - test[CONTROL, key[1]] for key in test if key[0] == name]
            ),
            **_costs([row for row in rows if row["name"] == name]),
        }
        for name in names
    ]


def _costs(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def mean(key: str) -> float:
        return statistics.fmean(row[key] for row in rows)

    if rows[0]["name"] == CONTROL:
        return {"train_seconds": round(mean("train_seconds"), 1)}
    return {
        "num_parameters": round(mean("num_parameters")),
        "file_kb": round(mean("file_bytes") / 1000, 1),
        "zipped_kb": round(mean("zipped_bytes") / 1000, 1),
        "latency_ms": round(
            1000 * statistics.median(row["latency"]["median_seconds"] for row in rows), 3
        ),
        "peak_memory_mib": round(mean("peak_memory_mib"), 1),
        "class_agreement": round(mean("class_agreement"), 3),
        "largest_difference": round(max(row["largest_difference"] for row in rows), 4),
        "largest_logit": round(max(row["largest_logit"] for row in rows), 2),
        "train_seconds": round(mean("train_seconds"), 1),
    }


def _mean(values: list[float]) -> dict[str, float | None]:
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {
        "mean": round(statistics.fmean(values), 2),
        "standard_error": None if spread is None else round(spread, 2),
    }


def _on(dataset: ImageDataset, device: str) -> ImageDataset:
    return replace(dataset, images=dataset.images.to(device), labels=dataset.labels.to(device))


if __name__ == "__main__":
    main()
