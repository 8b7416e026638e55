"""What a recipe must beat: the same training on other images, and other ways to combine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.distill.random_subset import random_control
from nas_proxy.errors import StudyError
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.interfaces import DistillContext, SearchSpace
from nas_proxy.reproducibility import derive_seed
from nas_proxy.scores.calibrated import MIN_CALIBRATION, CalibratedScore
from nas_proxy.scores.combine import RankMean, Score, ScoreSettings, SingleSignal, make_score
from nas_proxy.scores.signals import is_trained, stage_of, trained_among
from nas_proxy.study.context import StudyContext
from nas_proxy.study.knowledge_distillation import candidates_distillation
from nas_proxy.study.recipe import ActiveRecipe
from nas_proxy.study.recipe_units import whole_training
from nas_proxy.teachers.labelling import copy_teachers, labels_like
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status
from nas_proxy.validate.values import Ranking

DISTILLED_READINGS = {
    "val_loss": "the distilled set, same steps, by validation loss",
    "train_loss_mean": "the distilled set, same steps, by mean training loss",
}
"""How `distilled_control` is read: as is usual, and as ranks better; see docs/trust.md."""

SAME_STEPS = "the same steps on the full data"
_IMAGES = {"proxy": "proxy", "full_data": "full data"}  # what was trained on, in words


def trained_controls(
    study: StudyContext, signals: tuple[str, ...]
) -> list[tuple[str, str, NetworkEvaluatorFactory]]:
    """The same steps at the same fidelity on the full data, and on random images.

    A recipe that trains on the full data alone has no such controls: it is one of them. One that
    begins on the distilled set (`warm_up`) has as many steps on the full data alone. A cascade,
    whose cuts are learned for its own images, has none. Teachers of the recipe's candidates teach
    these too.

    Args:
        study: The study; the random images are written in the folder of its validation.
        signals: Of its recipe's trainings.

    Returns:
        For each its name in words, a name for its log, and what measures it.
    """
    recipe, subset_file = study.recipe.recipe, study.layout.random_subset
    if recipe.stages or not (recipe.train_on == "proxy" or recipe.warm_up):
        return []
    if recipe.warm_up:
        settings = whole_training(study, recipe)
        full_data = study.factories.measuring(signals, train_on="full_data", settings=settings)
        return [(SAME_STEPS, "same_steps_full_data", full_data)]
    proxy_dataset, train = study.proxy_dataset, recipe.train or study.config.train
    num_images = len(proxy_dataset.labels)
    settings = replace(
        train,
        num_steps=train.steps_for(num_images),
        num_epochs=None,
        batch_size=min(train.batch_size, num_images),
        augmentation=train.augmentation or proxy_dataset.augmentation,
    )
    full_data = replace(
        study.factories.measuring(signals, train_on="full_data", settings=settings),
        knowledge_distillation=candidates_distillation(study, recipe),
    )
    subset = _random_subset(study, subset_file)
    random = replace(
        study.factories.on_proxy_dataset(subset_file, train),
        requested=full_data.requested,
        teachers=full_data.teachers,
        knowledge_distillation=full_data.knowledge_distillation,
    )
    name = f"a random subset of the same size, {subset.labelling.kind} labels"
    return [
        (name, "random_subset", random),
        (SAME_STEPS, "same_steps_full_data", full_data),
    ]


def has_distilled_control(recipe: Recipe) -> bool:
    """Whether a recipe can be held against the same training on the distilled set.

    One that trains on that set is judged itself, and stages have no training in common.
    """
    return recipe.train_on == "full_data" and not recipe.stages


def distilled_control(study: StudyContext) -> NetworkEvaluatorFactory:
    """The recipe's steps at its fidelity on the study's distilled set.

    Args:
        study: Its recipe trains on the full data.
    """
    train = study.recipe.recipe.train or study.config.train
    settings = replace(
        train, num_steps=train.steps_for(len(study.splits.search_train)), num_epochs=None
    )
    return study.factories.on_proxy_dataset(study.layout.proxy_dataset, settings)


def control_score(
    active: ActiveRecipe,
    space: SearchSpace,
    signals: tuple[str, ...],
    evaluations: Sequence[Evaluation],
) -> tuple[str, Score]:
    """What ranks a control as the recipe ranks, and what its name has to add of that.

    Without calibration the sample itself is the reference among which signals are ranked. Where
    the recipe is a fitted model, zero-cost signals get a model too, fitted to the same
    calibration sample; other trainings were not run on that sample and are averaged by rank.
    """
    complete = [evaluation for evaluation in evaluations if evaluation.complete]
    if len(signals) == 1 or len(complete) < 4:
        return "", SingleSignal(signals[0])
    own = active.recipe.parts[0].score  # which all architectures go through
    if own.combine == "calibrated" and not trained_among(signals):
        settings = replace(own, signals=signals)
        return ", calibrated alike", _fitted(active, space, settings)
    return "", RankMean(signals, complete)


def other_scores(active: ActiveRecipe, space: SearchSpace) -> dict[str, Score]:
    """Ways to combine a calibrated recipe's signals that it does not use, by their names."""
    settings, known = active.recipe.score, active.calibrated_on
    if active.recipe.stages or len(settings.signals) < 2 or not known:
        return {}
    others = {"the same signals, rank mean": replace(settings, combine="rank_mean")}
    if sum(e.complete for e in known) >= MIN_CALIBRATION:
        others["the same signals, calibrated"] = replace(settings, combine="calibrated")
    return {
        name: _fitted(active, space, other) for name, other in others.items() if other != settings
    }


def single_signals(recipe: Recipe, evaluations: Iterable[Evaluation]) -> dict[str, Score]:
    """Each trained signal that every complete evaluation has, those of checkpoints too, by name.

    Those of a cascade's later stages are known of the best alone, and rank nothing.
    """
    complete = [e.signals for e in evaluations if e.complete]
    first = complete[0] if complete else {}
    shared = [s for s in first if is_trained(s) and all(s in each for each in complete)]
    return {
        f"{name} on the {_IMAGES[recipe.parts[(stage_of(name) or 1) - 1].train_on]}": SingleSignal(
            name
        )
        for name in shared
    }


def scores_of_same(
    active: ActiveRecipe, space: SearchSpace, score: Score, evaluations: Iterable[Evaluation]
) -> dict[str, Score]:
    """Other combinations of a recipe's signals, and each trained one alone, by their names.

    Args:
        active: The recipe.
        space: Describes architectures to a model.
        score: The recipe's own, which is none of them.
        evaluations: By the recipe.
    """
    scores = {**other_scores(active, space), **single_signals(active.recipe, evaluations)}
    return {
        name: other
        for name, other in scores.items()
        if not isinstance(other, SingleSignal) or other.signals != score.signals
    }


def labels_and_encoding(active: ActiveRecipe, space: SearchSpace) -> CalibratedScore | None:
    """What the calibration sample's labels say of architectures by their encoding, unmeasured.

    Returns:
        None if there are too few labels to learn from, all of them are alike, or the recipe itself
        measures nothing.
    """
    settings = ScoreSettings(
        signals=(), combine="calibrated", regressor=active.recipe.parts[0].score.regressor
    )
    if not any(active.recipe.measured) or len(active.references) < MIN_CALIBRATION:
        return None
    unmeasured = [unmeasured_evaluation(a) for a in active.references]
    try:
        score = make_score(settings, unmeasured, active.references, space.features)
    except StudyError:  # nothing tells the sample apart
        return None
    return score if isinstance(score, CalibratedScore) else None


def labels_alone(
    active: ActiveRecipe, space: SearchSpace, architectures: Sequence[Architecture]
) -> list[Ranking]:
    """How these labels rank other architectures; nothing where none can be learned from them."""
    started = time.process_time()
    score = labels_and_encoding(active, space)
    if score is None:
        return []
    predicted = score.predict_all([unmeasured_evaluation(a) for a in architectures])
    return [
        Ranking(
            name="labels and encoding alone",
            kind="control",
            scores={a: p.mean for a, p in zip(architectures, predicted, strict=True)},
            seconds_per_architecture=(time.process_time() - started) / len(architectures),
        )
    ]


def unmeasured_evaluation(architecture: Architecture) -> Evaluation:
    """An architecture of which nothing was measured, for scores without signals."""
    return Evaluation(architecture, Fidelity("", 0, 0, 0), 0, Status.COMPLETE)


def _fitted(active: ActiveRecipe, space: SearchSpace, settings: ScoreSettings) -> Score:
    # Not through the recipe: one that trains refuses a score without a signal of a training.
    return make_score(settings, active.calibrated_on, active.references, space.features)


def _random_subset(study: StudyContext, file: Path) -> ProxyDataset:
    """As many random images as the proxy has for training, labelled as the proxy is."""
    proxy_dataset, proxy_file = study.proxy_dataset, study.layout.proxy_dataset
    subset = random_control(
        proxy_dataset,
        labels_like(proxy_dataset, proxy_file, study.config.labels),
        study.splits.search_train,
        seed=derive_seed("random subset control", study.config.seed),
        context=DistillContext(cache=study.layout.cache),
    )
    if subset.labelling.per == "view":
        copy_teachers(proxy_file, file)
    subset.save(file)
    return subset
