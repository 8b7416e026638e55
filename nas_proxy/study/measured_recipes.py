"""What recipes measure of a sample, once for all that need the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nas_proxy.calibrate.race import Evaluations
from nas_proxy.calibrate.recipes import Measuring, Recipe
from nas_proxy.evaluate.cascade import in_stages
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.evaluate.log import merged
from nas_proxy.reproducibility import content_hash
from nas_proxy.scores.signals import (
    TRAINED_SIGNALS,
    base_signal,
    trained_among,
    zero_cost_among,
)
from nas_proxy.study.context import StudyContext
from nas_proxy.study.knowledge_distillation import recipe_factory
from nas_proxy.study.plain_values import dump_options
from nas_proxy.study.plan import EvaluationUnit
from nas_proxy.study.recipe_units import part_unit
from nas_proxy.types import Architecture


@dataclass(frozen=True)
class MeasuredLog:
    """A log of what recipes measure.

    Attributes:
        log: Its name.
        recipes: Those whose training it holds; none where it holds a zero-cost signal.
        unit: What one evaluation in it is.
    """

    log: str
    recipes: tuple[str, ...]
    unit: EvaluationUnit


@dataclass(frozen=True)
class RecipeMeasurements:
    """Measures recipes, each signal and each training in a log of its own.

    What is in a log is not measured again, whichever recipe asked for it.

    Attributes:
        study: Whose images, proxy data set and settings.
        recipes: All that are measured; those that train in the same way share their trainings.
        stage: In whose folder the logs lie.
    """

    study: StudyContext
    recipes: tuple[Recipe, ...]
    stage: str = "calibrate"

    def of(self, recipe: Recipe, architectures: Sequence[Architecture]) -> Evaluations:
        """A recipe's signals; of a cascade those of all stages, whatever its cuts would do.

        Args:
            recipe: One of `recipes`.
            architectures: Whose.
        """
        measured = zip(recipe.parts, recipe.measured, strict=True)
        parts = [self._of_part(part, signals, architectures) for part, signals in measured]
        if not recipe.stages:
            return parts[0]
        return {a: in_stages([part[a] for part in parts]) for a in architectures}

    def logs(self) -> list[MeasuredLog]:
        """Every log, the recipes that ask for it, and what one line of it costs."""
        names: dict[str, list[str]] = {}
        units: dict[str, EvaluationUnit] = {}
        for recipe in self.recipes:
            for part, signals in zip(recipe.parts, recipe.measured, strict=True):
                if trained_among(signals):
                    name, measured = self._training_log(part)
                    units[name] = part_unit(self.study, part, measured)
                    asking = names.setdefault(name, [])
                    asking += [] if recipe.name in asking else [recipe.name]
                for signal in zero_cost_among(signals):
                    units[f"{signal}_{part.score.score_images}"] = EvaluationUnit(scores=(signal,))
        return [MeasuredLog(name, tuple(names.get(name, ())), unit) for name, unit in units.items()]

    def _of_part(
        self, part: Measuring, signals: tuple[str, ...], architectures: Sequence[Architecture]
    ) -> Evaluations:
        study, parts = self.study, []
        if trained_among(signals):
            name, measured = self._training_log(part)
            parts.append(self._run(name, recipe_factory(study, part, measured), architectures))
        for signal in zero_cost_among(signals):
            images = part.score.score_images
            factory = study.factories.measuring(
                (signal,), train_on="nothing", settings=study.config.train, score_images=images
            )
            parts.append(self._run(f"{signal}_{images}", factory, architectures))
        if not parts:  # labels and encoding alone rank: there is nothing to measure
            parts.append(self._run("nothing", recipe_factory(study, part, ()), architectures))
        return {a: merged([each[a] for each in parts]) for a in architectures}

    def _asked_of(self, part: Measuring) -> set[str]:
        """What all recipes ask of the training that a part of one of them has."""
        own = self._training(part)
        return {
            signal
            for recipe in self.recipes
            for each, signals in zip(recipe.parts, recipe.measured, strict=True)
            if self._training(each) == own
            for signal in trained_among(signals)
        }

    def _training_log(self, part: Measuring) -> tuple[str, tuple[str, ...]]:
        """Name of the log that holds a training with all that is asked of it, and its signals.

        The longest one that has them, so that a list of recipes that asks for less, or for more of
        what was measured anyway, trains nothing again.
        """
        signals = self._asked_of(part)
        plain = dump_options(replace(part, train=part.train or self.study.config.train))
        taught = (
            [] if plain["knowledge_distillation"] is None else [plain["knowledge_distillation"]]
        )
        warmed_up = [f"warm-up of {part.warm_up} steps"] if part.warm_up else []
        key = content_hash(plain["train"], *taught, *warmed_up, length=12)
        prefix = f"{part.train_on}_{key}"
        found: list[tuple[int, str, tuple[str, ...]]] = []
        for path in sorted(self.study.layout.stage(self.stage).glob(f"{prefix}*.jsonl")):
            log = self.study.logs.evaluations(path)
            first = next((e for e in log if e.complete), None)
            if first is not None and signals <= first.signals.keys():
                found.append((len(log), path.stem, trained_among(tuple(first.signals))))
        if found:
            _, name, measured = max(found, key=lambda entry: entry[0])
            return name, measured
        extra = sorted({s for s in map(base_signal, signals) if TRAINED_SIGNALS[s].on_request})
        return "_".join([prefix, *extra]), tuple(sorted(signals))

    def _run(
        self, name: str, factory: NetworkEvaluatorFactory, architectures: Sequence[Architecture]
    ) -> Evaluations:
        log = self.study.layout.stage_log(self.stage, name)
        done = self.study.runner.run(f"calibrating: {name}", factory, architectures, log)
        return dict(zip(architectures, done, strict=True))

    def _training(self, part: Measuring) -> tuple[Any, ...]:
        """What recipes and stages have in common that train in the same way."""
        train = part.train or self.study.config.train
        return part.train_on, train, part.knowledge_distillation, part.warm_up
