"""A study whose recipe has stages: what evaluates them, and what their cuts kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.core.packing import pack
from nas_proxy.errors import StudyError
from nas_proxy.evaluate.cascade import CascadeFactory
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.scores.cascade import CascadeScore
from nas_proxy.scores.combine import Score
from nas_proxy.study.context import StudyContext
from nas_proxy.study.knowledge_distillation import recipe_factory
from nas_proxy.study.recipe import ActiveRecipe
from nas_proxy.study.samples import draw_score_reference
from nas_proxy.types import Architecture, Evaluation
from nas_proxy.validate.settings import ValidateSettings

Factory = NetworkEvaluatorFactory | CascadeFactory


def sample_factory(study: StudyContext, recipe: Recipe) -> Factory:
    """Measures what the recipe needs of a sample that it ranks among: all stages of all of it.

    Raises:
        UserError: As `recipe_factory`.
    """
    if not recipe.stages:
        return recipe_factory(study, recipe)
    parts = zip(recipe.parts, recipe.measured, strict=True)
    return CascadeFactory(tuple(recipe_factory(study, part, signals) for part, signals in parts))


def score_sample(study: StudyContext, active: ActiveRecipe, log: Path) -> list[Evaluation]:
    """What `rank_mean` ranks among, and what a cascade learns from; none for a single signal.

    A calibrated recipe has its own, the calibration sample.

    Args:
        study: The study.
        active: Its recipe.
        log: Where the sample's evaluations are kept.

    Raises:
        UserError: As `recipe_factory`, and if the space holds too few architectures.
    """
    num = active.recipe.num_reference
    if not num or active.calibrated_on:
        return []
    architectures = draw_score_reference(study.config, num)
    factory = sample_factory(study, active.recipe)
    return study.runner.run("evaluating the score's reference sample", factory, architectures, log)


def candidates_factory(study: StudyContext, recipe: Recipe, score: Score) -> Factory:
    """Measures what the recipe needs of candidates, each as far as it gets.

    Raises:
        UserError: As `recipe_factory`.
        StudyError: If a model of the user's own cannot be sent to workers.
    """
    factory = sample_factory(study, recipe)
    if not isinstance(factory, CascadeFactory) or not isinstance(score, CascadeScore):
        return factory
    try:
        pack(score)
    except Exception as error:
        raise StudyError(
            f"the recipe {recipe.name} decides in workers who goes on, but its regressor cannot be "
            f"pickled ({type(error).__name__}: {error}); mend that, or choose another"
        ) from error
    return CascadeFactory(factory.stages, score)


def refuse_other_cuts(log: EvaluationLog, factory: Factory) -> None:
    """Make sure that a log holds no evaluation that ended by other cuts.

    Raises:
        StudyError: If one does.
    """
    others = [e for e in log if e.fidelity.cascade != factory.fidelity.cascade]
    if others:
        raise StudyError(
            f"{len(others)} evaluations of this study went through the stages of another cascade, "
            "or ended by other cuts; choose another study_name, or pass --force to repeat them"
        )


def cascade_words(
    active: ActiveRecipe,
    score: Score,
    evaluations: Mapping[Architecture, Evaluation],
    reference: Mapping[Architecture, float],
    settings: ValidateSettings,
) -> list[str]:
    """What a verdict has to add of a cascade: what its cuts kept, and whose labels it had.

    Args:
        active: The recipe, with its labels.
        score: Its score.
        evaluations: Of the validation's architectures.
        reference: What full training reached on these; failed ones are missing.
        settings: Say which part is the best.
    """
    if not isinstance(score, CascadeScore):
        return []
    words = []
    if reference:
        words.append(str(Kept.of(evaluations, reference, score.num_stages, settings.best_fraction)))
    if active.labels_itself:
        words.append(
            f"The labels that {active.recipe.name} and its cuts learned from are the study's own: "
            f"the score of its last stage on {len(active.references)} architectures, and no full "
            "training."
        )
    return words


@dataclass(frozen=True)
class Kept:
    """What the cuts of a cascade did to the best.

    Attributes:
        num_best: The best part by reference, with all that are tied with the last of it.
        num_kept: How many of these reached the last stage.
        num_failed: How many of these failed on the way.
    """

    num_best: int
    num_kept: int
    num_failed: int

    @classmethod
    def of(
        cls,
        evaluations: Mapping[Architecture, Evaluation],
        reference: Mapping[Architecture, float],
        num_stages: int,
        fraction: float,
    ) -> Kept:
        """Of the best `fraction` of those whose reference is known, at least one."""
        values = np.sort(list(reference.values()))
        worst = values[-max(1, math.ceil(fraction * len(values)))]
        best = [evaluations[a] for a, value in reference.items() if value >= worst]
        complete = [e for e in best if e.complete]
        kept = sum(e.num_stages == num_stages for e in complete)
        return cls(len(best), kept, len(best) - len(complete))

    def __str__(self) -> str:
        """One sentence."""
        failed = f", and {self.num_failed} of them failed" if self.num_failed else ""
        return f"The cuts kept {self.num_kept} of the {self.num_best} best{failed}."
