"""The bank of benchmarks/cost_to_quality.py: architectures measured once, in every way.

It is a folder with one log of evaluations for each way of measuring: the full training with its
validation accuracies on the way, the test accuracies of the trained networks, every training-free
score, and the trainings of the default recipes. A killed run continues, and a larger number of
architectures extends what is there.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from nas_proxy.calibrate.recipes import SINGLE_SCORES, Recipe, default_recipes
from nas_proxy.core.files import write_atomically
from nas_proxy.errors import ConfigError, StudyError
from nas_proxy.evaluate.executors import EvaluatorFactory
from nas_proxy.evaluate.final_test import FinalTestFactory
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.evaluate.sample import draw_architectures
from nas_proxy.reproducibility import content_hash, derive_seed, make_generator
from nas_proxy.scores.signals import trained_among, zero_cost_among
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.context import StudyContext
from nas_proxy.study.display import Display
from nas_proxy.study.knowledge_distillation import recipe_factory
from nas_proxy.study.pipeline import open_study, run_pipeline
from nas_proxy.study.plain_values import dump_options
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture

FULL, TEST, CONFIGURED = "full", "test", "configured"
_BLOCK = 25  # architectures that are measured in every way before the next
# What costs most is measured last: strategies that need none of it can be compared before.
_DEAR = {
    *(f"score_{name}" for name in SINGLE_SCORES[SINGLE_SCORES.index("zen") :]),
    *("distilled_360", "stream_360"),
}


@dataclass(frozen=True)
class Bank:
    """Where what was measured lies.

    Attributes:
        folder: With a log for each way of measuring.
        config: The study whose images, space, recipes and reference they are.
        num_rungs: Equal parts of a full training, at the end of each of which it is validated.
        listed: File of its architectures, one on each line in the space's string form; without
            it they are drawn.
    """

    folder: Path
    config: StudyConfig
    num_rungs: int
    listed: Path | None = None

    @property
    def reference(self) -> TrainSettings:
        """The full training, validated at the end of each rung.

        Raises:
            ConfigError: If the configuration has none.
        """
        validation = self.config.validation
        if validation is None or validation.reference.train is None:
            raise ConfigError("the configuration has no validate.reference.train: add one")
        return replace(validation.reference.train, checkpoints=self.percentages[:-1])

    @property
    def percentages(self) -> tuple[int, ...]:
        """Of the steps at which each rung ends."""
        return tuple(round(100 * rung / self.num_rungs) for rung in range(1, self.num_rungs + 1))

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """What the study ranks by without a calibration, and what it races: else what ships.

        Without cascades, of which the bank measures no stage alone.
        """
        config = self.config
        raced = (
            default_recipes(config.space, config.train)
            if config.calibration is None
            else config.calibration.recipes
        )
        own = Recipe(name=CONFIGURED, train_on="proxy", train=config.train, score=config.score)
        return (own, *(recipe for recipe in raced if not recipe.stages))

    def architectures(self, num: int) -> list[Architecture]:
        """The first of those that are listed, or drawn, for the bank.

        Raises:
            StudyError: If the list is shorter than that.
        """
        if self.listed is not None:
            lines = self.listed.read_text().splitlines()
            if len(lines) < num:
                raise StudyError(f"{self.listed} lists {len(lines)} architectures, not {num}")
            return [self.config.space.from_string(line) for line in lines[:num]]
        generator = make_generator(derive_seed("bank", self.config.seed))
        return draw_architectures(self.config.space, num, generator)

    def log(self, name: str) -> EvaluationLog:
        """What was measured in one of the ways."""
        return EvaluationLog(self.folder / f"{name}.jsonl")

    def build(self, num_architectures: int, num_again: int, display: Display) -> None:
        """Measure what is missing, the way that every strategy needs first.

        The first `num_again` are trained in full with a second seed, too.

        Raises:
            StudyError: If the bank was built by other settings.
        """
        self._claim()
        run_pipeline(self.config, display, last="distill")
        architectures = self.architectures(num_architectures)
        with open_study(self.config, display) as study:
            ways = list(self._ways(study))
            for part in (
                [way for way in ways if way[0] not in _DEAR],
                [way for way in ways if way[0] in _DEAR],
            ):
                for end in range(_BLOCK, num_architectures + _BLOCK, _BLOCK):
                    for name, factory in part:
                        log = self.folder / f"{name}.jsonl"
                        study.runner.run(f"{name} up to {end}", factory, architectures[:end], log)
            again = architectures[:num_again]
            for name, factory in ways[:2]:
                log, seed = self.folder / f"{name}.jsonl", self.second_seed
                study.runner.run(f"{name} with a second seed", factory, again, log, seed=seed)

    @property
    def second_seed(self) -> int:
        """Of the full trainings that are repeated."""
        return derive_seed("bank again", self.config.seed)

    def write_table(self, num_architectures: int, file: Path) -> None:
        """Accuracies of the full trainings, as a table that `validate.reference.table` reads.

        Columns: `architecture`, `val_accuracy`, `test_accuracy` and, of the second seed,
        `second_test_accuracy`; what was not measured is empty.
        """
        seed, again = self.config.seed, self.second_seed
        columns = {
            "val_accuracy": (self.log(FULL), seed, "val_accuracy"),
            "test_accuracy": (self.log(TEST), seed, "test_accuracy"),
            "second_test_accuracy": (self.log(TEST), again, "test_accuracy"),
        }
        with file.open("w", newline="") as opened:
            rows = csv.writer(opened)
            rows.writerow(("architecture", *columns))
            for each in self.architectures(num_architectures):
                found = [(log.get(each, of), signal) for log, of, signal in columns.values()]
                values = [e.signals[name] if e and e.complete else "" for e, name in found]
                rows.writerow((self.config.space.to_string(each), *values))

    @property
    def names(self) -> tuple[str, ...]:
        """Of all ways of measuring."""
        scores = [f"score_{signal}" for signal in SINGLE_SCORES]
        trained = [training_name(r) for r in self.recipes if r.train_on != "nothing"]
        return (FULL, TEST, *scores, *dict.fromkeys(trained))

    def _claim(self) -> None:
        config = self.config
        reference = dump_options(self.reference)
        content = [dict(config.resolved[name]) for name in ("data", "space", "distill", "train")]
        file = self.folder / "bank.json"
        identity = {"key": content_hash(content, reference, config.seed), "reference": reference}
        if not file.is_file():
            write_atomically(file, json.dumps(identity, indent=1))
        elif json.loads(file.read_text())["key"] != identity["key"]:
            raise StudyError(
                f"the bank {self.folder} was built by other settings; name another folder, or "
                "delete it"
            )

    def _ways(self, study: StudyContext) -> Iterator[tuple[str, EvaluatorFactory]]:
        keep = self.folder / "networks"
        full = replace(study.factories.on_full_data(self.reference, "search_val"), keep=keep)
        yield FULL, full
        yield (
            TEST,
            FinalTestFactory(
                data=full.data,
                space=full.space,
                settings=full.settings,
                device=full.device,
                fidelity=full.fidelity,
                keep=keep,
            ),
        )
        for signal in SINGLE_SCORES:
            yield (
                f"score_{signal}",
                study.factories.measuring(
                    (signal,), train_on="nothing", settings=self.config.train
                ),
            )
        trained = {training_name(r): r for r in self.recipes if r.train_on != "nothing"}
        for name, recipe in trained.items():
            yield name, recipe_factory(study, recipe, trained_among(recipe.score.signals))


def training_name(recipe: Recipe) -> str:
    """Of the training that the recipe reads, which several may share: such as `stream_90`."""
    if recipe.name == CONFIGURED:
        return CONFIGURED
    for ending in ("_alone", "_rank_mean", "_calibrated", "_self_labelled"):
        if recipe.name.endswith(ending):
            return recipe.name.removesuffix(ending)
    return recipe.name


def part_names(recipe: Recipe) -> list[str]:
    """The ways of measuring whose signals the recipe reads; none for labels and encoding alone."""
    return [name for names in names_by_stage(recipe) for name in names]


def names_by_stage(recipe: Recipe) -> list[list[str]]:
    """The same for each of its stages, of which at most one trains; one list without stages."""
    found = []
    for part in recipe.parts:
        scores = [f"score_{signal}" for signal in zero_cost_among(part.score.signals)]
        found.append(scores if part.train_on == "nothing" else [training_name(recipe), *scores])
    return found
