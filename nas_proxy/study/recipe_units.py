"""What one evaluation by a recipe is, alone or in stages, before anything of it is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nas_proxy.calibrate.recipes import Measuring, Recipe
from nas_proxy.errors import UserError
from nas_proxy.scores.cascade import CascadeScore
from nas_proxy.scores.signals import trained_among, zero_cost_among
from nas_proxy.study.context import StudyContext
from nas_proxy.study.plan import EvaluationUnit, StagedUnit, Task, Unit, training_unit
from nas_proxy.train.settings import TrainSettings

Shares = tuple[float, ...]  # of all candidates, what reaches each stage


def part_unit(study: StudyContext, part: Measuring, signals: Sequence[str]) -> EvaluationUnit:
    """One evaluation by a recipe without stages, or by one stage.

    Args:
        study: Whose images.
        part: The recipe, or the stage.
        signals: What is measured of it.
    """
    if part.train_on == "nothing" or not trained_among(tuple(signals)):
        return EvaluationUnit(scores=zero_cost_among(tuple(signals)))
    return training_unit(
        study,
        whole_training(study, part),
        train_on=part.train_on,
        signals=signals,
        is_taught=part.knowledge_distillation is not None,
    )


def whole_training(study: StudyContext, part: Measuring) -> TrainSettings:
    """How a recipe, or a stage, trains, the steps of its warm-up counted."""
    train = part.train or study.config.train
    if not part.warm_up:
        return train
    num_steps = train.steps_for(len(study.splits.search_train))
    return replace(train, num_steps=part.warm_up + num_steps, num_epochs=None)


def sample_unit(study: StudyContext, recipe: Recipe) -> Unit:
    """One evaluation of a sample that a recipe ranks among: it goes through all stages."""
    return _staged(study, recipe, (1.0,) * len(recipe.parts))


def sample_task(study: StudyContext, recipe: Recipe, log: Path) -> Task:
    """Evaluating the sample that a recipe ranks among, as far as `log` does not hold it."""
    done = len(study.logs.evaluations(log))
    units = (sample_unit(study, recipe),)
    return Task(
        what="evaluations to rank among", units=units, total=recipe.num_reference, done=done
    )


def candidate_units(study: StudyContext, recipes: Sequence[Recipe]) -> tuple[Unit, ...]:
    """What one evaluation of a candidate may be: by which recipe, and through how many stages.

    Whose cuts are not learned yet, that may be the first stage alone, or all of them.
    """
    found = [
        _staged(study, recipe, shares) for recipe in recipes for shares in _shares(study, recipe)
    ]
    return tuple(dict.fromkeys(found))


def _staged(study: StudyContext, recipe: Recipe, shares: Shares) -> Unit:
    pairs = zip(recipe.parts, recipe.measured, strict=True)
    parts = tuple(part_unit(study, part, signals) for part, signals in pairs)
    return StagedUnit(parts, shares) if recipe.stages else parts[0]


def _shares(study: StudyContext, recipe: Recipe) -> tuple[Shares, ...]:
    """What reaches each stage; the least and the most where the cuts are still to be learned."""
    cuts = _cuts(study, recipe)
    if cuts is None:
        given = recipe.cascade.shares if recipe.stages else (None,)
        least = [1.0, *(share or 0.0 for share in given[1:])]
        most = [1.0, *(share or 1.0 for share in given[1:])]
        return tuple(dict.fromkeys((_passing(least), _passing(most))))
    return (_passing(cuts),)


def _passing(shares: Sequence[float]) -> Shares:
    """Each cut is of all candidates; what one keeps out reaches no later stage."""
    return tuple(min(shares[: number + 1]) for number in range(len(shares)))


def _cuts(study: StudyContext, recipe: Recipe) -> Sequence[float] | None:
    """The shares that a sample has taught, if the study's recipe has one."""
    if not recipe.stages or not is_known(study):
        return None
    sample = list(study.logs.evaluations(study.layout.score_reference))
    if not study.recipe.calibrated_on and len(sample) < recipe.num_reference:
        return None
    try:
        score = study.recipe.score(study.config.space, sample)
    except UserError:  # the search will say it
        return None
    return [cut.share for cut in score.cuts] if isinstance(score, CascadeScore) else None


def is_known(study: StudyContext) -> bool:
    """Whether it is known what candidates are ranked by."""
    try:
        return bool(study.recipe)
    except UserError:
        return False


def possible_recipes(study: StudyContext) -> tuple[Recipe, ...]:
    """What candidates may be ranked by: one, if that is known, else what is raced."""
    if is_known(study):
        return (study.recipe.recipe,)
    calibration = study.config.calibration
    return () if calibration is None else calibration.recipes


def recipe_notes(study: StudyContext, recipes: Sequence[Recipe]) -> tuple[str, ...]:
    """What is to be said of figures that rest on recipes, or shares, that are not known yet."""
    if not recipes:
        return ("the recipe is fetched from the registry when the study runs; not counted",)
    if len(recipes) > 1:
        return (
            f"by whichever of {len(recipes)} recipes calibrate chooses: counted is the dearest",
        )
    (recipe,) = recipes
    shares = _shares(study, recipe)
    if len(shares) > 1:
        return ("how many go on to later stages is learned first: counted is that all do",)
    if recipe.stages:
        shown = ", ".join(
            f"{100 * share:.0f} % stage {number}"
            for number, share in enumerate(shares[0][1:], start=2)
        )
        return (f"of all candidates reach: {shown}",)
    return ()
