"""Do sets rank better that were distilled with the searched networks? Duels at equal cost.

Trains the same architectures for the same steps, batch and resolution on sets distilled with
ConvNets, on sets distilled with networks of the space itself, on as many random images, and on the
full stream, at several budgets. Every signal of every training is read, and two of them as a mean
of ranks; all are compared with full training by Spearman, and paired with random images and with
the stream.

    python benchmarks/condensed_duels.py --space nasbench201 --data-root DATA --truth TABLE.csv
    python benchmarks/condensed_duels.py --space convnet --data-root DATA --reference-epochs 6

Architectures are drawn by --seed among those that --spent does not list, one in each line. Writes
results/benchmarks/condensed_duels_SPACE.json; what is finished stays in --work, and the same
command continues there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import cifar10_factory, cifar10_search_train, parser, publish, work_folder
from pydantic import TypeAdapter
from recipes import RECIPES, SIZES

from nas_proxy.core.costs import CostMeter
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.distill.common.random_networks import DrawingDistiller
from nas_proxy.distill.measured import distill_and_label
from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.evaluate.executors import Executor, evaluate_jobs, open_executor
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory, training_fidelity
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.evaluate.table import TruthTable, read_table
from nas_proxy.interfaces import DistillContext, Distiller, DistillTask, SearchSpace
from nas_proxy.registry import DISTILLERS
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.scores.combine import RankMean, SingleSignal
from nas_proxy.scores.signals import TRAINED_SIGNALS
from nas_proxy.search_spaces.convnet import ConvNetSpace
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.statistics import ranks
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, Evaluation, ImageDataset

SPACES: dict[str, SearchSpace] = {
    "nasbench201": NASBench201Space(),
    "convnet": ConvNetSpace(widths=(32, 64)),
}
METHODS = tuple(
    name
    for name, recipe in RECIPES.items()
    if not recipe.labels and issubclass(DISTILLERS.get(recipe.distiller), DrawingDistiller)
)
OF_THE_CONVNET = ("network_width", "network_depth", "network_norm")
COMBINED = ("val_accuracy", "train_loss_mean")
RANDOM, STREAM = "random images", "full stream"
BEST = 0.2  # the share of the architectures within which rankings are judged once more
NUM_VAL_IMAGES = 2000


def main() -> None:
    """Distil, train, compare, publish."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    duels = Duels(arguments)
    duels.make_sets()
    with open_executor("processes", arguments.num_workers) as executor:
        reference, ceiling = duels.reference(executor)
        rows = [row for num in arguments.budgets for row in duels.rows(executor, num, reference)]
    publish({**duels.settled(), "ceiling": ceiling, "rows": rows}, arguments)


def parse_arguments() -> argparse.Namespace:
    """What is compared, and at which size."""
    made = parser(__doc__)
    made.add_argument("--space", choices=list(SPACES), required=True)
    made.add_argument(
        "--truth", type=Path, help="CSV with a column arch_str; or trained references"
    )
    made.add_argument("--truth-value", default="cifar10_test_200")
    made.add_argument("--reference-epochs", type=int, default=6, help="where there is no --truth")
    made.add_argument("--reference-seeds", type=int, default=1, help="two or more give a ceiling")
    made.add_argument("--spent", type=Path, help="architectures that were looked at before")
    made.add_argument("--num-architectures", type=int, default=100)
    made.add_argument("--methods", nargs="+", default=["dm", "dsa"], choices=METHODS)
    made.add_argument("--size", choices=list(SIZES), default="cpu", help="of the distillations")
    made.add_argument("--images-per-class", type=int, default=10)
    made.add_argument(
        "--space-rate", type=float, default=0.005, help="typical change of a pixel in a step"
    )
    made.add_argument("--budgets", nargs="+", type=int, default=[45, 90, 360], help="steps")
    made.add_argument("--batch-size", type=int, default=100)
    made.add_argument("--image-size", type=int, default=16)
    made.add_argument("--num-workers", type=int, default=2)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--work", type=Path, default=Path("results/benchmarks/unfinished"))
    arguments = made.parse_args()
    if arguments.batch_size > 10 * arguments.images_per_class:
        made.error("--batch-size is above the number of images: the stream alone would have more")
    if arguments.truth is not None and arguments.space != "nasbench201":
        made.error("--truth is for --space nasbench201; leave it out to train references")
    if arguments.out is None:
        arguments.out = Path(f"results/benchmarks/condensed_duels_{arguments.space}.json")
    return arguments


@dataclass(frozen=True)
class Duels:
    """One run of this script.

    Attributes:
        arguments: Of the command line.
    """

    arguments: argparse.Namespace

    @property
    def space(self) -> SearchSpace:
        """Where architectures come from."""
        return SPACES[self.arguments.space]

    @cached_property
    def folder(self) -> Path:
        """Where what is finished is kept; another size has another folder."""
        where = ("data_root", "truth", "truth_value", "spent", "out", "work", "num_workers")
        free = (*where, "num_architectures", "methods", "budgets", "reference_seeds", "seed")
        return work_folder("condensed_duels", self.arguments, free)

    @cached_property
    def search_train(self) -> ImageDataset:
        """All that may be distilled and trained on."""
        return cifar10_search_train(self.arguments)

    @cached_property
    def table(self) -> TruthTable | None:
        """What full training reached, as others have measured it."""
        if self.arguments.truth is None:
            return None
        found = read_table(self.arguments.truth, self.space, "arch_str", self.arguments.truth_value)
        for notice in found.notices:
            print(notice, flush=True)
        return found

    @cached_property
    def architectures(self) -> list[Architecture]:
        """Fresh ones, and none of the same function as one that is spent."""
        spent = self.arguments.spent
        lines = [] if spent is None else spent.read_text().split("\n")
        return draw_architectures(
            self.space,
            self.arguments.num_architectures,
            make_generator(derive_seed("condensed duels", self.arguments.seed)),
            among=None if self.table is None else list(self.table.values),
            excluded=[self.space.from_string(line) for line in map(str.strip, lines) if line],
        )

    @cached_property
    def distillers(self) -> dict[str, Distiller]:
        """What makes each set, by the set's name."""
        found: dict[str, Distiller] = {RANDOM: RandomSubset()}
        for name in self.arguments.methods:
            recipe = RECIPES[name]
            adapter = TypeAdapter(DISTILLERS.get(recipe.distiller))
            options = recipe.options_at(SIZES[self.arguments.size])
            found[f"{name}, ConvNets"] = adapter.validate_python(options)
            own = {key: value for key, value in options.items() if key not in OF_THE_CONVNET}
            own |= {"networks": "search_space", "image_optimiser": "normalised_sgd"}
            own |= {"image_learning_rate": self.arguments.space_rate}
            found[f"{name}, space"] = adapter.validate_python(own)
        return found

    def file(self, name: str) -> Path:
        """Of a set."""
        return self.folder / f"{name.replace(', ', '_').replace(' ', '_')}.safetensors"

    def core_file(self, name: str) -> Path:
        """What making a set took of a core; of one that was killed, the last run alone."""
        return self.file(name).with_suffix(".core_seconds")

    def make_sets(self) -> None:
        """Those that are not there yet."""
        for name, distiller in self.distillers.items():
            file = self.file(name)
            if file.is_file():
                continue
            print(f"distilling: {name}", flush=True)
            costs = CostMeter(file.with_suffix(".costs.json"))
            context = DistillContext(
                device=torch.device(self.arguments.device),
                checkpoint=file.with_suffix(".checkpoint.safetensors"),
                space=self.space if distiller.draws_from_space else None,
                costs=costs,
            )
            task = DistillTask(
                dataset=self.search_train,
                images_per_class=self.arguments.images_per_class,
                generator=make_generator(derive_seed("condensed duels", "set")),
                context=context,
            )
            began = time.process_time()
            distill_and_label(distiller, task).save(file)
            self.core_file(name).write_text(str(time.process_time() - began))
            costs.forget()

    def settings(self, num_steps: int) -> TrainSettings:
        """How every network is trained in the duels of a budget."""
        return TrainSettings(
            num_steps=num_steps,
            batch_size=self.arguments.batch_size,
            image_size=self.arguments.image_size,
            space_fidelity=self.space.reductions,
            augmentation=Augmentation(crop=0.125, flip=True, cutout=0.5),
            num_val_images=NUM_VAL_IMAGES,
            norm_statistics="recalibrated",
        )

    def train(
        self,
        executor: Executor,
        settings: TrainSettings,
        name: str,
        *,
        file: Path | None = None,
        test: bool = False,
        seeds: Sequence[int] = (0,),
    ) -> list[Evaluation]:
        """All architectures, each with every seed; on the stream unless there is a set's file."""
        arguments = self.arguments
        factory: NetworkEvaluatorFactory = cifar10_factory(
            settings, self.space, data_root=arguments.data_root, device=arguments.device
        )
        if test:
            factory = replace(factory, judged_by="test")
        if file is not None:
            made = ProxyDataset.load(file)
            fidelity = training_fidelity(settings, made.spec, made.id, len(made.labels))
            factory = replace(factory, train_on=file, fidelity=fidelity)
        jobs = [(each, seed) for seed in seeds for each in self.architectures]
        log = EvaluationLog(self.folder / f"{name}.jsonl")
        print(f"training {len(jobs)} networks: {name}", flush=True)
        return evaluate_jobs(executor, factory, jobs, log)

    def reference(self, executor: Executor) -> tuple[dict[str, float], str | None]:
        """What full training reached, by the architecture's id, and how well its seeds agree."""
        if self.table is not None:
            return {a.id: self.table.values[a] for a in self.architectures}, None
        settings = TrainSettings(num_epochs=self.arguments.reference_epochs, batch_size=128)
        seeds = range(1, 1 + self.arguments.reference_seeds)
        done = self.train(executor, settings, "reference", test=True, seeds=seeds)
        by_seed = np.full((len(seeds), len(self.architectures)), np.nan)
        for at, each in enumerate(done):
            if each.complete:
                by_seed[divmod(at, len(self.architectures))] = each.signals["test_accuracy"]
        means = by_seed.mean(axis=0)
        known = np.isfinite(means)
        found = {a.id: float(m) for a, m in zip(self.architectures, means, strict=True) if m == m}
        if len(seeds) < 2:
            return found, None
        return found, str(ranks.estimate(ranks.spearman, *by_seed[:2, known]))

    def rows(
        self, executor: Executor, num_steps: int, reference: Mapping[str, float]
    ) -> list[dict[str, Any]]:
        """A row for each set and reading, over the architectures that every set has trained."""
        settings = self.settings(num_steps)
        trained = {
            name: self.train(executor, settings, f"{file.stem}_{num_steps}", file=file)
            for name, file in ((name, self.file(name)) for name in self.distillers)
        }
        trained[STREAM] = self.train(executor, settings, f"full_stream_{num_steps}")
        complete = [
            at
            for at, a in enumerate(self.architectures)
            if a.id in reference and all(each[at].complete for each in trained.values())
        ]
        sides = {name: [each[at] for at in complete] for name, each in trained.items()}
        truth = np.array([reference[self.architectures[at].id] for at in complete])
        signals = [s for s in sides[STREAM][0].signals if s in TRAINED_SIGNALS]
        readings = [(signal,) for signal in signals] + [COMBINED]
        made = []
        for reading in readings:
            scores = {name: score(reading, each) for name, each in sides.items()}
            made += [
                {
                    "set": name,
                    "num_steps": num_steps,
                    "signal": " + ".join(reading),
                    "num_failed": len(self.architectures) - len(complete),
                    **compared(own, scores, truth),
                    **self.cost(name, sides[name]),
                }
                for name, own in scores.items()
            ]
        return made

    def cost(self, name: str, evaluations: Sequence[Evaluation]) -> dict[str, float]:
        """Core-seconds of an architecture, and what distilling adds to each of so many."""
        mean = float(np.mean([each.core_seconds for each in evaluations]))
        spent = 0.0 if name == STREAM else float(self.core_file(name).read_text())
        shared = spent / len(self.architectures)
        return {
            "core_seconds": round(mean, 3),
            "distilling_core_seconds": round(spent, 1),
            "core_seconds_with_distilling": round(mean + shared, 3),
        }

    def settled(self) -> dict[str, Any]:
        """What was compared."""
        names = (
            "space", "num_architectures", "images_per_class", "size", "space_rate", "budgets",
            "batch_size", "image_size", "reference_epochs", "reference_seeds", "seed",
        )  # fmt: skip
        sets = {name: ProxyDataset.load(self.file(name)) for name in self.distillers}
        return {
            **{name: getattr(self.arguments, name) for name in names},
            "references": "trained" if self.table is None else self.table.value_name,
            "architectures": [self.space.to_string(a) for a in self.architectures],
            "sets": {
                name: {
                    key: made.parameters[key]
                    for key in ("networks", "num_networks", "num_skipped_networks")
                    if key in made.parameters
                }
                for name, made in sets.items()
            },
        }


def score(reading: tuple[str, ...], evaluations: Sequence[Evaluation]) -> ranks.Values:
    """What a signal, or the mean of several signals' ranks, says of each; higher is better."""
    single = len(reading) == 1
    combined = SingleSignal(*reading) if single else RankMean(reading, evaluations)
    return np.array([combined.of(each) for each in evaluations])


def compared(
    own: ranks.Values, scores: Mapping[str, ranks.Values], truth: ranks.Values
) -> dict[str, Any]:
    """How well a score ranks, within the best too, and its differences to random and stream."""
    best = np.argsort(-truth, kind="stable")[: max(1, round(BEST * len(truth)))]
    others = {name: scores[name] for name in (RANDOM, STREAM) if scores[name] is not own}
    pairs = {f"minus {name}": np.stack([own, other]) for name, other in others.items()}
    return {
        "n": len(truth),
        "spearman": figure(ranks.spearman, own, truth),
        "spearman_best_20": figure(ranks.spearman, own[best], truth[best]),
        **{what: figure(ranks.spearman_difference, pair, truth) for what, pair in pairs.items()},
    }


def figure(
    statistic: ranks.Statistic, values: ranks.Values, truth: ranks.Values
) -> dict[str, Any] | None:
    """A figure with the ends of its interval; None where it is not defined."""
    found = ranks.estimate(statistic, values, truth)
    return None if found is None else vars(found)


if __name__ == "__main__":
    main()
