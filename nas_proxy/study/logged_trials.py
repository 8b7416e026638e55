"""The trials of a search in MLflow."""

from __future__ import annotations

from collections.abc import Mapping

from nas_proxy.interfaces import SearchSpace
from nas_proxy.search.guard import TrialRecord
from nas_proxy.tracking import Tracker

_CURVE_POINTS = 50  # of a trial's training loss in MLflow; the log keeps every step


def log_trial(
    tracker: Tracker,
    space: SearchSpace,
    trial: TrialRecord,
    objectives: Mapping[str, float],
    num_stages: int = 0,
) -> None:
    """One child run; logging it again changes nothing.

    Args:
        tracker: The study's.
        space: Describes the architecture.
        trial: Number, evaluation, and score; None for one that failed.
        objectives: Value of each objective of the search; empty for a trial that failed.
        num_stages: Of the recipe, where it is a cascade.
    """
    number, evaluation, score = trial
    run = tracker.trial(number, f"trial {number:04d}")
    architecture = evaluation.architecture
    genotype = architecture.genotype
    listed = genotype if isinstance(genotype, dict | list) else [genotype]
    choices = listed if isinstance(listed, dict) else dict(enumerate(listed))
    run.params(
        {
            "architecture": space.describe(architecture),
            "architecture_id": architecture.id,
            **{f"choice.{name}": value for name, value in choices.items()},
        }
    )
    run.description(space.describe(architecture))
    run.metrics({**evaluation.signals, "seconds": evaluation.seconds})
    if num_stages and evaluation.num_stages:
        run.params({"stage": f"stage {evaluation.num_stages} of {num_stages}"})
        stages = enumerate(evaluation.stage_seconds, start=1)
        run.metrics({f"stage_{number}.seconds": seconds for number, seconds in stages})
        run.metrics({"stage_reached": float(evaluation.num_stages)})
    stride = max(1, len(evaluation.train_losses) // _CURVE_POINTS)
    steps = range(0, len(evaluation.train_losses), stride)
    run.curve("train_loss", [evaluation.train_losses[step] for step in steps], list(steps))
    if score is None:
        run.finish("FAILED", evaluation.reason)
        return
    run.metrics(dict(objectives))
    run.finish()
    tracker.study.metrics(dict(objectives), step=number)
