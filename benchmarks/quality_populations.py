"""The populations of benchmarks/cost_to_quality.py: what every strategy may look up, at its price.

An architecture costs what measuring it cost when it was measured once; nothing is trained here.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS
from quality_bank import CONFIGURED, FULL, TEST, Bank, names_by_stage, part_names, training_name

from nas_proxy.calibrate.recipes import (
    SINGLE_SCORES,
    ZERO_COST,
    Recipe,
    RecipeStage,
    default_recipes,
)
from nas_proxy.core.environment import hardware
from nas_proxy.core.files import write_atomically
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.evaluate.arithmetic import measure_arithmetic
from nas_proxy.evaluate.cascade import in_stages
from nas_proxy.evaluate.log import EvaluationLog, merged
from nas_proxy.interfaces import SearchSpace
from nas_proxy.reproducibility import content_hash, isolated_rng, make_generator
from nas_proxy.scores.combine import ScoreSettings
from nas_proxy.search_spaces.nasbench201 import NASBench201Space
from nas_proxy.train.loop import train
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Architecture, DatasetSpec, Evaluation, Fidelity, Status

# NAS-Bench-201's training for its validation accuracies: 25,000 images in batches of 256.
_EPOCHS, _STEPS_PER_EPOCH, _BATCH_SIZE = (12, 200), 98, 256
_PUBLISHED = {
    "num_params": "params_m",
    "flops": "flops_m",
    "synflow": "freerea_synflow",
    "log_synflow": "freerea_logsynflow",
    "naswot": "freerea_naswot",
    "zen": "naslib_zen",
    "jacobian_covariance": "naslib_jacov",
    "grad_norm": "naslib_grad_norm",
    "snip": "naslib_snip",
    "fisher": "naslib_fisher",
    "grasp": "naslib_grasp",
}
SHORT = "short"  # the one short training that is used without labels, as a way of measuring
NO_LABELS, SELF_LABELLED, SHORT_ALONE = (
    f"{SHORT}_{kind}" for kind in ("rank_mean", "self_labelled", "alone")
)
_SCORES = ("naswot", "log_synflow")
TRAINING_FREE = ("zero_cost", f"{'_'.join(_SCORES)}_rank_mean")  # whichever a population has
_TIMED_IMAGES = 64  # of a batch: seconds of a step are in proportion to its images
_CIFAR10 = DatasetSpec("cifar10", tuple("0123456789"), (3, 32, 32), (0.5,) * 3, (0.25,) * 3, "", "")


@dataclass(frozen=True)
class Candidate:
    """What a full training of an architecture gives, and costs.

    Attributes:
        architecture: Which one.
        reports: Validation accuracy in % at the end of each rung, `(num_rungs,)`; the last one is
            that of the whole training.
        cost: Core-seconds of the whole training.
        test: Test accuracy in %, which no strategy sees.
    """

    architecture: Architecture
    reports: tuple[float, ...]
    cost: float
    test: float


@dataclass(frozen=True, eq=False)
class Population:
    """Architectures of which everything is known.

    Attributes:
        name: In tables.
        space: Where strategies look for them; proposals outside are moved to the nearest inside.
        candidates: All of them.
        rungs: Resource at the end of each rung, such as epochs.
        recipes: What our own strategies choose from.
        parts: What was measured beside the full training, by way and architecture; a recipe's
            evaluation is what its parts say, at the cost of all.
        distilling: Core-seconds of the distilled set.
        notes: What a reader must know.
        rungs_are_trainings: Whether the first rung's accuracy is that of a training of this length
            of its own, so that it can be a label.
    """

    name: str
    space: SearchSpace
    candidates: Mapping[Architecture, Candidate]
    rungs: tuple[int, ...]
    recipes: tuple[Recipe, ...]
    parts: Mapping[str, Mapping[Architecture, Evaluation]]
    distilling: float = 0.0
    notes: tuple[str, ...] = ()
    rungs_are_trainings: bool = False

    @cached_property
    def best(self) -> float:
        """The highest test accuracy in %."""
        return max(candidate.test for candidate in self.candidates.values())

    @cached_property
    def identity(self) -> str:
        """Of what full trainings give and cost."""
        found = [[a.id, c.reports, c.cost, c.test] for a, c in self.candidates.items()]
        return content_hash(self.name, found, self.rungs, self.distilling)

    @cached_property
    def _features(self) -> dict[Architecture, torch.Tensor]:
        return {}

    def features(self, architecture: Architecture) -> torch.Tensor:
        """Those of the space, traced once."""
        if architecture not in self._features:
            self._features[architecture] = self.space.features(architecture)
        return self._features[architecture]

    def drawn(self, num: int, seed: int) -> Population:
        """So many of its architectures, drawn by a seed, as a population of their own."""
        order = np.random.default_rng([seed, 3]).permutation(len(self.candidates))[:num]
        everything = list(self.candidates.items())
        return replace(self, candidates=dict(everything[i] for i in np.sort(order)))

    def cost_until(self, architecture: Architecture, rung: int) -> float:
        """Core-seconds of a training that stops at the end of a rung, counted from 0."""
        return self.candidates[architecture].cost * self.rungs[rung] / self.rungs[-1]

    def evaluation(self, recipe: Recipe, architecture: Architecture) -> Evaluation:
        """What a recipe measures."""
        if not part_names(recipe):  # labels and encoding alone
            return Evaluation(architecture, Fidelity("", 0, 0, 0), 0, Status.COMPLETE)
        stages = [
            merged([self.parts[name][architecture] for name in names])
            for names in names_by_stage(recipe)
        ]
        return in_stages(stages) if recipe.stages else stages[0]


def of_bank(bank: Bank, num_architectures: int) -> Population:
    """What a bank holds: its first architectures, as far as their full training is known.

    A recipe of which a part is not measured on all of them is left out, and named in the notes.
    """
    drawn, seed = bank.architectures(num_architectures), bank.config.seed
    logs = {name: bank.log(name) for name in bank.names}
    candidates = {}
    for architecture in drawn:
        full, test = (logs[name].get(architecture, seed) for name in (FULL, TEST))
        if full is not None and full.complete and test is not None:
            names = [f"val_accuracy@{p}" for p in bank.percentages[:-1]] + ["val_accuracy"]
            reports = tuple(100 * full.signals[name] for name in names)
            accuracy = 100 * test.signals["test_accuracy"]
            candidates[architecture] = Candidate(architecture, reports, full.core_seconds, accuracy)
    parts = {
        name: {a: found for a in candidates if (found := log.get(a, seed)) is not None}
        for name, log in logs.items()
    }
    asked = list(bank.recipes)
    streams = [r for r in asked if r.train_on == "full_data" and r.score.signals == ("val_loss",)]
    if streams:
        parts[SHORT] = parts[training_name(streams[0])]
        asked += _no_labels("val_loss", ZERO_COST)
    complete = {name for name, known in parts.items() if len(known) == len(candidates)}
    recipes = [r for r in asked if complete.issuperset(part_names(r))]
    missing = [r.name for r in asked if r not in recipes]
    notes = [
        f"{len(candidates)} of {len(drawn)} drawn architectures have a full training.",
        "The distilled set's cost is seconds of the clock on a busy machine.",
    ]
    if missing:
        notes.append(f"Left out, for not all of them were measured: {', '.join(missing)}.")
    proxy_dataset = ProxyDataset.load(bank.config.layout.proxy_dataset)
    return Population(
        f"{bank.config.space.name} on {bank.config.data.name}",
        bank.config.space,
        candidates,
        tuple(range(1, bank.num_rungs + 1)),
        tuple(recipes),
        parts,
        sum(proxy_dataset.costs.values()),
        tuple(notes),
    )


def of_tables(
    folder: Path,
    evaluations: Mapping[str, Path],
    num_architectures: int,
    num_timed: int,
    timed: Path,
) -> Population:
    """NAS-Bench-201's development architectures, by published accuracies and scores.

    Args:
        folder: With `nb201_cifar10_dev.csv` and `nb201_scores_dev.csv`.
        evaluations: Logs of what was measured earlier, by way, such as `stream_360` or
            `score_meco`; what they do not hold is not in the population.
        num_architectures: How many of the table's first are taken.
        num_timed: On so many the seconds of a training step are measured.
        timed: Where these stay; what is there is not measured again.
    """
    space = NASBench201Space()
    with (folder / "nb201_scores_dev.csv").open() as file:
        scores = {row["arch_str"]: row for row in csv.DictReader(file)}
    with (folder / "nb201_cifar10_dev.csv").open() as file:
        rows = {
            space.from_string(row["arch_str"]): {**row, **scores[row["arch_str"]]}
            for row in csv.DictReader(file)
        }
    logs = {name: {e.architecture: e for e in EvaluationLog(f)} for name, f in evaluations.items()}
    rows = {a: row for a, row in rows.items() if all(a in log for log in logs.values())}
    rows = dict(list(rows.items())[:num_architectures])
    flops = {a: float(row["flops_m"]) for a, row in rows.items()}
    if not timed.is_file():
        write_atomically(timed, json.dumps(_seconds_of_step(space, flops, num_timed)))
    line = json.loads(timed.read_text())
    seconds = {a: max(line["least"], line["base"] + line["slope"] * f) for a, f in flops.items()}
    candidates = {
        a: Candidate(
            a,
            (float(row["cifar10_valid_12"]), float(row["cifar10_valid_200"])),
            seconds[a] * _STEPS_PER_EPOCH * _EPOCHS[-1],
            float(row["cifar10_test_200"]),
        )
        for a, row in rows.items()
    }
    parts = {**_published_scores(rows), SHORT: _short_trainings(candidates), **logs}
    shipped = default_recipes(space, TrainSettings(num_steps=1))
    recipes = [
        recipe
        for recipe in (*shipped, *_without_meco(), *_no_labels("val_accuracy", _SCORES))
        if parts.keys() >= set(part_names(recipe))
    ]
    missing = [name for name in SINGLE_SCORES if f"score_{name}" not in parts]
    return Population(
        "NAS-Bench-201 by table",
        space,
        candidates,
        _EPOCHS,
        tuple(recipes),
        parts,
        notes=(
            line["words"],
            "A full training is 200 epochs of 98 steps of 256 images; the report on the way is "
            "that of the separate 12-epoch training, and going on costs 188 epochs more.",
            "Scores are the published ones, at the core-seconds of "
            f"{RESULTS / 'zero_cost_agreement.json'}; not published: {', '.join(missing)}.",
            "Short trainings were measured earlier."
            if any(is_raced(r) and r.train_on != "nothing" for r in recipes)
            else "No training of the shipped recipes was measured here: they are left out of the "
            "race.",
            f"Without labels the short training is the published one of {_EPOCHS[0]} epochs, its "
            "signal the validation accuracy; the finalists' trainings begin anew.",
        ),
        rungs_are_trainings=True,
    )


def _without_meco() -> tuple[Recipe, ...]:
    """The shipped recipes of three scores, without the one that nobody published."""
    return tuple(
        Recipe(
            name=f"{'_'.join(_SCORES)}_{combine}",
            train_on="nothing",
            score=ScoreSettings(signals=_SCORES, combine=combine),
        )
        for combine in ("rank_mean", "calibrated")
    )


def _no_labels(signal: str, scores: tuple[str, ...]) -> tuple[Recipe, ...]:
    """A short training: with half of the vote beside scores; as their labels; alone."""
    both = ScoreSettings(signals=(signal, *scores), combine="rank_mean")
    fitted = ScoreSettings(signals=scores, combine="calibrated")
    alone = ScoreSettings(signals=(signal,))
    stages = (
        RecipeStage(train_on="nothing", score=fitted),
        RecipeStage(train_on="full_data", score=alone),
    )
    return (
        Recipe(name=NO_LABELS, train_on="full_data", score=both),
        Recipe(name=SELF_LABELLED, stages=stages),
        Recipe(name=SHORT_ALONE, train_on="full_data", score=alone),
    )


def _short_trainings(
    candidates: Mapping[Architecture, Candidate],
) -> dict[Architecture, Evaluation]:
    share = _EPOCHS[0] / _EPOCHS[-1]
    fidelity = Fidelity("", _EPOCHS[0] * _STEPS_PER_EPOCH, _BATCH_SIZE, 32)
    return {
        architecture: Evaluation(
            architecture,
            fidelity,
            0,
            Status.COMPLETE,
            signals={"val_accuracy": candidate.reports[0] / 100},
            core_seconds=candidate.cost * share,
        )
        for architecture, candidate in candidates.items()
    }


def _published_scores(
    rows: Mapping[Architecture, Mapping[str, str]],
) -> dict[str, dict[Architecture, Evaluation]]:
    costs = json.loads(
        (Path(__file__).parents[1] / RESULTS / "zero_cost_agreement.json").read_text()
    )
    found: dict[str, dict[Architecture, Evaluation]] = {}
    for signal, column in _PUBLISHED.items():
        seconds = costs["scores"][signal]["core_seconds_per_architecture"]
        part = found[f"score_{signal}"] = {}
        for architecture, row in rows.items():
            value = float(row[column] or "nan")
            known = bool(np.isfinite(value))
            part[architecture] = Evaluation(
                architecture,
                Fidelity("", 0, 0, 32),
                0,
                Status.COMPLETE if known else Status.FAILED,
                signals={signal: value} if known else {},
                signal_seconds={signal: seconds},
                core_seconds=seconds,
                reason="" if known else "not published",
            )
    return found


def _seconds_of_step(
    space: SearchSpace, flops: Mapping[Architecture, float], num_timed: int
) -> dict[str, Any]:
    """The line from FLOPs to core-seconds of a step, and in words how it was found.

    A few architectures are timed, evenly spread by FLOPs.
    """
    device = torch.device("cpu")
    settings = TrainSettings(num_steps=3, batch_size=_TIMED_IMAGES)
    settings = measure_arithmetic(space, _CIFAR10, settings, device).settle(settings)
    generator = make_generator(0)
    images = torch.randint(256, (_TIMED_IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (_TIMED_IMAGES,), generator=generator)
    ordered = sorted(flops, key=flops.__getitem__)
    timed = [ordered[i] for i in np.linspace(0, len(ordered) - 1, num_timed).round().astype(int)]
    seconds = []
    for architecture in timed:
        told: list[float] = []
        with isolated_rng(0):
            train(
                space.build(architecture, _CIFAR10),
                TrainingSet(images, labels, _CIFAR10),
                settings,
                make_generator(0),
                lambda *_, told=told: told.append(time.process_time()),
            )
        seconds.append(min(later - earlier for earlier, later in pairwise(told)))
    slope, base = (
        float(each) * _BATCH_SIZE / _TIMED_IMAGES
        for each in np.polyfit([flops[a] for a in timed], seconds, 1)
    )
    layout = "channels last" if settings.channels_last else "channels first"
    words = (
        f"A training step was timed on {num_timed} architectures ({hardware(device)}, one thread, "
        f"{settings.precision}, {layout}): {base:.2f} s + {slope:.4f} s for each million "
        "multiply-adds of an image, for 256 images."
    )
    least = min(seconds) * _BATCH_SIZE / _TIMED_IMAGES
    return {"base": base, "slope": slope, "least": least, "words": words}


def is_raced(recipe: Recipe) -> bool:
    """Whether it takes part in a race; the others stand alone, without labels."""
    return recipe.name != CONFIGURED and SHORT not in part_names(recipe)


def is_configured(recipe: Recipe) -> bool:
    """Whether it is the study's own, which needs no labels."""
    return recipe.name == CONFIGURED
