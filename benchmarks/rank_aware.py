"""Does a set that was chosen for ranking rank better? On architectures that had no part in it.

Distils `rank_aware` with a few architectures of NAS-Bench-201 whose full training is known, then
trains others of the table on it, on as many random images, and on the full stream: all of them
alike. Reports Spearman of each signal with the table, with intervals, and paired differences.

    python benchmarks/rank_aware.py --data-root DATA --truth TABLE.csv

writes results/benchmarks/rank_aware.json. The defaults take about fifteen minutes of two cores;
what is finished stays in results/benchmarks/unfinished, and the same command continues there.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import cifar10_factory, cifar10_search_train, parser, publish, work_folder

from nas_proxy.core.costs import CostMeter
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.distill.measured import distill_and_label
from nas_proxy.distill.random_subset import random_control
from nas_proxy.distill.rank_aware.distiller import RankAware
from nas_proxy.evaluate.executors import evaluate_all, open_executor
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory, training_fidelity
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.evaluate.table import read_table
from nas_proxy.interfaces import CalibrationSample, DistillContext, DistillTask
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.scores.signals import higher_is_better
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.statistics import ranks
from nas_proxy.teachers.settings import LabelSettings
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, Evaluation, ImageDataset

SIGNALS = ("val_loss", "val_accuracy", "train_loss_mean", "train_loss_tail")
RANK_AWARE, RANDOM, STREAM = "rank_aware", "random images", "full stream"
SPACE = NASBench201Space()
NUM_RESERVED = 300  # rows of the table that only the final proof may look at
NUM_VAL_IMAGES = 2000


def main() -> None:
    """Distil, train, compare, publish."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    comparison = Comparison(arguments)
    proxy_dataset = comparison.rank_aware_set()
    evaluations = comparison.train_judged(proxy_dataset)
    publish({**comparison.settled(proxy_dataset), **comparison.judge(evaluations)}, arguments)


def parse_arguments() -> argparse.Namespace:
    """What is compared, and at which size."""
    made = parser(__doc__)
    made.set_defaults(out=Path("results/benchmarks/rank_aware.json"))
    made.add_argument("--truth", type=Path, required=True, help="CSV with a column arch_str")
    made.add_argument("--calibration-value", default="cifar10_valid_200")
    made.add_argument("--judged-value", default="cifar10_test_200")
    made.add_argument("--num-calibration", type=int, default=24)
    made.add_argument("--num-judged", type=int, default=50)
    made.add_argument("--images-per-class", type=int, default=500)
    made.add_argument("--candidates-per-class", type=int, default=1500)
    made.add_argument("--decode-factor", type=int, default=1)
    made.add_argument("--signal", default="val_loss", choices=SIGNALS)
    made.add_argument("--num-steps", type=int, default=200)
    made.add_argument("--batch-size", type=int, default=64)
    made.add_argument("--image-size", type=int, default=16)
    made.add_argument("--num-cells", type=int, default=1)
    made.add_argument("--norm-statistics", default="running", choices=("running", "recalibrated"))
    made.add_argument("--num-workers", type=int, default=2)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--work", type=Path, default=Path("results/benchmarks/unfinished"))
    return made.parse_args()


@dataclass(frozen=True)
class Comparison:
    """One run of this script.

    Attributes:
        arguments: Of the command line.
    """

    arguments: argparse.Namespace

    @cached_property
    def settings(self) -> TrainSettings:
        """How every network is trained."""
        return TrainSettings(
            num_steps=self.arguments.num_steps,
            batch_size=self.arguments.batch_size,
            image_size=self.arguments.image_size,
            space_fidelity={"num_cells": self.arguments.num_cells},
            augmentation=Augmentation(crop=0.125, flip=True, cutout=0.5),
            num_val_images=NUM_VAL_IMAGES,
            norm_statistics=self.arguments.norm_statistics,
        )

    @cached_property
    def distiller(self) -> RankAware:
        """What is judged."""
        return RankAware(
            train=replace(self.settings, num_val_images=None),
            signal=self.arguments.signal,
            candidates_per_class=self.arguments.candidates_per_class,
            decode_factor=self.arguments.decode_factor,
        )

    @cached_property
    def folder(self) -> Path:
        """Where what is finished is kept; another size has another folder."""
        where = ("data_root", "truth", "out", "work", "num_workers", "num_judged")
        return work_folder("rank_aware", self.arguments, where)

    @cached_property
    def search_train(self) -> ImageDataset:
        """All that the distiller and the networks may train on."""
        return cifar10_search_train(self.arguments)

    @cached_property
    def values(self) -> dict[str, Mapping[Architecture, float]]:
        """The table's columns that are used."""
        names = (self.arguments.calibration_value, self.arguments.judged_value)
        tables = {name: read_table(self.arguments.truth, SPACE, "arch_str", name) for name in names}
        for table in tables.values():
            for notice in table.notices:
                print(notice, flush=True)
        return {name: table.values for name, table in tables.items()}

    @cached_property
    def sample(self) -> tuple[list[Architecture], list[Architecture]]:
        """Architectures to calibrate on, and others, of other functions too, to judge by."""
        calibration_values, judged_values = self.values.values()
        rows = [a for a in judged_values if a in calibration_values]
        generator = make_generator(derive_seed("validation", 0))
        order = torch.randperm(len(rows), generator=generator).tolist()[NUM_RESERVED:]
        num = self.arguments.num_calibration
        calibration = [rows[index] for index in order[:num]]
        known = {SPACE.canonical_form(architecture) for architecture in calibration}
        others = [rows[i] for i in order[num:] if SPACE.canonical_form(rows[i]) not in known]
        if len(others) < self.arguments.num_judged:
            raise SystemExit(f"the table leaves only {len(others)} architectures to judge by")
        return calibration, others[: self.arguments.num_judged]

    @property
    def context(self) -> DistillContext:
        """With the calibration sample; progress is printed."""
        architectures, _ = self.sample
        values = self.values[self.arguments.calibration_value]
        return DistillContext(
            device=torch.device(self.arguments.device),
            progress=lambda done, total, note="": print(f"{done} of {total} {note}", flush=True),
            checkpoint=self.folder / "checkpoint.safetensors",
            costs=CostMeter(self.folder / "costs.json"),
            num_workers=self.arguments.num_workers,
            calibration=CalibrationSample(
                space=SPACE,
                architectures=tuple(architectures),
                references=tuple(values[architecture] for architecture in architectures),
            ),
        )

    def rank_aware_set(self) -> ProxyDataset:
        """The distilled set; read from the folder if it is there."""
        file = self.folder / "rank_aware.safetensors"
        if not file.is_file():
            seed = derive_seed("distill", self.arguments.seed)
            task = DistillTask(
                dataset=self.search_train,
                images_per_class=self.arguments.images_per_class,
                generator=make_generator(seed),
                context=self.context,
            )
            distill_and_label(self.distiller, task).save(file)
            task.context.costs.forget()
        return ProxyDataset.load(file)

    def train_judged(self, proxy_dataset: ProxyDataset) -> dict[str, list[Evaluation]]:
        """Every judged architecture on the set, on its control and on the stream."""
        random = random_control(
            proxy_dataset,
            LabelSettings(kind="hard"),
            self.search_train,
            seed=derive_seed("control", self.arguments.seed),
            context=DistillContext(device=torch.device(self.arguments.device)),
        )
        random.save(self.folder / "random.safetensors")
        stream = cifar10_factory(
            self.settings, SPACE, data_root=self.arguments.data_root, device=self.arguments.device
        )
        factories = {
            RANK_AWARE: self._factory(stream, proxy_dataset, "rank_aware.safetensors"),
            RANDOM: self._factory(stream, random, "random.safetensors"),
            STREAM: stream,
        }
        _, judged = self.sample
        evaluations = {}
        with open_executor("processes", self.arguments.num_workers) as executor:
            for name, factory in factories.items():
                log = EvaluationLog(self.folder / f"{name.replace(' ', '_')}.jsonl")
                print(f"training {len(judged)} architectures: {name}", flush=True)
                evaluations[name] = evaluate_all(
                    executor, factory, judged, self.arguments.seed, log
                )
        return evaluations

    def _factory(
        self, stream: NetworkEvaluatorFactory, proxy_dataset: ProxyDataset, file: str
    ) -> NetworkEvaluatorFactory:
        fidelity = training_fidelity(
            self.settings,
            proxy_dataset.spec,
            proxy_dataset.id,
            len(proxy_dataset.labels),
        )
        return replace(stream, train_on=self.folder / file, fidelity=fidelity)

    def settled(self, proxy_dataset: ProxyDataset) -> dict[str, Any]:
        """What was compared, and what the distiller measured itself."""
        names = (
            "num_calibration", "images_per_class", "candidates_per_class", "decode_factor",
            "signal", "num_steps", "batch_size", "image_size", "num_cells",
            "norm_statistics", "seed", "calibration_value", "judged_value",
        )  # fmt: skip
        found = proxy_dataset.parameters
        return {
            **{name: getattr(self.arguments, name) for name in names},
            "distilling_seconds": proxy_dataset.cost_seconds,
            "num_trainings": found["num_trainings"],
            "chosen": found["chosen"],
            "race": found["race"],
        }

    def judge(self, evaluations: Mapping[str, Sequence[Evaluation]]) -> dict[str, Any]:
        """Spearman of every set and signal, and paired differences, on the judged architectures."""
        _, judged = self.sample
        complete = [
            index
            for index in range(len(judged))
            if all(each[index].complete for each in evaluations.values())
        ]
        values = self.values[self.arguments.judged_value]
        reference = np.array([values[judged[index]] for index in complete])
        spearman: dict[str, Any] = {}
        for signal in SIGNALS:
            sign = 1 if higher_is_better(signal) else -1
            scores = {
                name: sign * np.array([each[index].signals[signal] for index in complete])
                for name, each in evaluations.items()
            }
            spearman[signal] = {name: _estimate(s, reference) for name, s in scores.items()} | {
                f"{RANK_AWARE} minus {other}": _estimate(
                    np.stack([scores[RANK_AWARE], scores[other]]), reference
                )
                for other in (RANDOM, STREAM)
            }
        return {
            "num_judged": len(judged),
            "num_complete": len(complete),
            "seconds_per_architecture": {
                name: float(np.mean([each[index].seconds for index in complete]))
                for name, each in evaluations.items()
            },
            "spearman": spearman,
        }


def _estimate(scores: ranks.Values, reference: ranks.Values) -> str | None:
    """Of one score, or of the difference of two; None if it is undefined."""
    found = ranks.estimate(
        ranks.spearman if scores.ndim == 1 else ranks.spearman_difference,
        scores,
        reference,
    )
    return None if found is None else str(found)


if __name__ == "__main__":
    main()
