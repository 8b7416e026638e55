"""A study whose search has a pruner: at which rungs it is asked, and what cannot be pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.evaluate.executors import EvaluatorFactory
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory
from nas_proxy.evaluate.rungs import (
    CheckpointFactory,
    SeedFactory,
    continued,
    discard_state,
    with_next_seed,
)
from nas_proxy.scores.combine import Score, ScoreSettings, make_score
from nas_proxy.scores.signals import has_checkpoints, is_trained, signal_at, trained_among
from nas_proxy.search.pruner_settings import PrunerSettings
from nas_proxy.search.task import Pruning, Rung
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Evaluation, Status

_WILCOXON_P = 0.1  # Optuna's own threshold


def divided(
    factory: NetworkEvaluatorFactory,
    pruner: PrunerSettings,
    recipe: Recipe,
    sample: Sequence[Evaluation],
    folder: Path,
) -> tuple[EvaluatorFactory, Pruning]:
    """A candidate's evaluation in as many jobs as a pruner may end it after.

    Args:
        factory: Of the whole evaluation.
        pruner: The study's.
        recipe: Without stages; `pruner_faults` has found nothing wrong with it.
        sample: What its score ranks among, if it does.
        folder: Where trainings wait for their next job.

    Returns:
        What evaluates from the last rung to the end, and the rungs before.
    """
    if pruner.compares_seeds:
        return _by_seed(factory, recipe.score, sample)
    checkpoints = factory.settings.checkpoints
    rungs = tuple(
        Rung(
            step=percentage,
            factory=CheckpointFactory(factory, folder, percentage, is_first=number == 0),
            score=make_score(_at_checkpoint(recipe.score, percentage), sample),
        )
        for number, percentage in enumerate(checkpoints)
    )
    last = CheckpointFactory(factory, folder, None, is_first=False)
    return last, Pruning(rungs, continued, partial(discard_state, folder))


def pruned_words(evaluation: Evaluation, pruner: PrunerSettings | None) -> str:
    """How far a candidate got that was pruned; empty for all others."""
    if pruner is None or evaluation.status is not Status.PARTIAL:
        return ""
    return pruner.words(evaluation.rung)


def _by_seed(
    whole: NetworkEvaluatorFactory, settings: ScoreSettings, sample: Sequence[Evaluation]
) -> tuple[EvaluatorFactory, Pruning]:
    num_seeds, score = whole.settings.num_seeds, make_score(settings, sample)
    rungs = tuple(
        Rung(index + 1, SeedFactory(whole, index), _OfSeed(score, index))
        for index in range(num_seeds - 1)
    )
    return SeedFactory(whole, num_seeds - 1), Pruning(rungs, with_next_seed)


@dataclass(frozen=True)
class _OfSeed:
    """The score of one of the trainings with different seeds, alone."""

    score: Score
    index: int

    @property
    def signals(self) -> tuple[str, ...]:
        """Those of the score."""
        return self.score.signals

    def of(self, evaluation: Evaluation) -> float:
        """The score of that training; higher is better."""
        own = {**evaluation.signals, **evaluation.seed_signals[self.index]}
        return self.score.of(replace(evaluation, signals=own))


def _at_checkpoint(settings: ScoreSettings, percentage: int) -> ScoreSettings:
    """The same score with the signals of trainings that are read at a checkpoint."""
    signals = (signal_at(s, percentage) if is_trained(s) else s for s in settings.signals)
    return replace(settings, signals=tuple(signals))


def pruner_faults(
    pruner: PrunerSettings, recipe: Recipe | str | None, train: TrainSettings, score: ScoreSettings
) -> list[str]:
    """What of a configuration cannot be pruned, a sentence each; several only if they are apart.

    Args:
        pruner: The study's.
        recipe: Which one counts.
        train: The section of the configuration.
        score: Likewise; both are the recipe where `configured` counts.
    """
    place, who = "search.pruner", f"the pruner {pruner.name}"
    if isinstance(recipe, Recipe):
        if recipe.stages:
            return [
                f"{place}: the recipe {recipe.name} has stages, which end candidates early "
                "themselves; leave pruner out, or take a recipe without stages"
            ]
        train, score = recipe.train or train, recipe.score
    elif recipe != "configured":
        return [
            f"{place}: {who} has to know how candidates are trained, which recipe: {recipe} finds "
            "out only later; leave pruner out, write a recipe, or set recipe: configured"
        ]
    if not trained_among(score.signals):
        return [
            f"{place}: {who} ends trainings early, but nothing is trained for the score "
            f"({', '.join(score.signals)}); leave pruner out, or add a signal of a training, such "
            "as val_loss"
        ]
    if score.combine == "calibrated":
        return [
            f"{place}: {who} cannot compare scores of combine: calibrated, whose model is fitted "
            "to whole trainings; use combine: single or rank_mean"
        ]
    return _wilcoxon_faults(pruner, train) if pruner.compares_seeds else _rung_faults(train, score)


def _rung_faults(train: TrainSettings, score: ScoreSettings) -> list[str]:
    faults = []
    if not train.checkpoints:
        faults.append(
            "search.pruner: candidates are ended at checkpoints of their training, which has none; "
            "add some to the training, such as checkpoints: [25, 50, 75]"
        )
    unknown = [s for s in trained_among(score.signals) if not has_checkpoints(s)]
    if unknown:
        faults.append(
            f"search.pruner: {unknown[0]} of the score has no value at every checkpoint, by which "
            "candidates would be ended; take one that has, such as val_loss"
        )
    return faults


def _wilcoxon_faults(pruner: PrunerSettings, train: TrainSettings) -> list[str]:
    """A test that can end nobody; its pairs are trainings before the last one."""
    threshold = _WILCOXON_P if pruner.p_threshold is None else pruner.p_threshold
    num_pairs = train.num_seeds - 1
    needed = max(2, pruner.n_startup_steps or 0)
    while 0.5**needed >= threshold:  # the smallest p-value of so many pairs
        needed += 1
    if num_pairs >= needed:
        return []
    return [
        "search.pruner: wilcoxon compares trainings with the same seeds (checkpoints of one "
        "training are no sample), and ends nobody before the last of num_seeds: "
        f"{train.num_seeds} with p_threshold {threshold:g}; set num_seeds to {needed + 1} or more, "
        "or take median or hyperband, which compare checkpoints"
    ]
