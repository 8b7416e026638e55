"""What is kept of a search's trials beside its result: in Optuna, and in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch

from nas_proxy.evaluate.log import period_of
from nas_proxy.interfaces import SearchSpace
from nas_proxy.search.guard import TrialRecord
from nas_proxy.search.pruner_settings import PrunerSettings
from nas_proxy.study.pruning import pruned_words
from nas_proxy.study.sizes import SIZES, network_sizes
from nas_proxy.tracking import LoggedDataset, Period, Tracker
from nas_proxy.types import Architecture, DatasetSpec, Evaluation

logger = logging.getLogger("nas_proxy")

_CURVE_POINTS = 50  # of a trial's training loss in MLflow; the log keeps every step


def trial_facts(space: SearchSpace, spec: DatasetSpec, evaluation: Evaluation) -> dict[str, float]:
    """Seconds of an evaluation and the sizes of its network, as far as these can be counted.

    Args:
        space: At full size.
        spec: Of the real images.
        evaluation: Of an architecture of the space; where it failed, the sizes may say why.
    """
    # The same network may be written down with parts that do nothing, which count all the same.
    measured = {} if evaluation.same_as else evaluation.signals
    known = {name: value for name, value in measured.items() if name in SIZES}
    missing = [name for name in SIZES if name not in known]
    sizes = known | (_counted(space, spec, evaluation.architecture, missing) if missing else {})
    return {**sizes, "seconds": evaluation.seconds}


def _counted(
    space: SearchSpace, spec: DatasetSpec, architecture: Architecture, names: Sequence[str]
) -> dict[str, float]:
    images = torch.zeros((2, *spec.image_shape))
    try:
        return network_sizes(space, architecture, spec, images, names=names, say=logger.debug)
    except (Exception, SystemExit):  # noqa: BLE001 - a space's network; its evaluation says why
        return {}


def log_trial(
    tracker: Tracker,
    space: SearchSpace,
    trial: TrialRecord,
    objectives: Mapping[str, float],
    *,
    facts: Mapping[str, float] | None = None,
    datasets: Mapping[str, LoggedDataset] | None = None,
    num_stages: int = 0,
    pruner: PrunerSettings | None = None,
) -> None:
    """One child run; logging it again changes nothing.

    Args:
        tracker: The study's.
        space: Describes the architecture.
        trial: Number, evaluation, and score; None for one that failed or was pruned.
        objectives: Value of each objective of the search; empty for a trial without a score.
        facts: What `trial_facts` found.
        datasets: Those that it may have trained on, by their ids.
        num_stages: Of the recipe, where it is a cascade.
        pruner: Of the search; what it ended is `KILLED`, and says where.
    """
    number, evaluation, score = trial
    period = period_of([evaluation])
    run = tracker.trial(number, f"trial {number:04d}", None if period is None else Period(*period))
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
    trained_on = (datasets or {}).get(evaluation.fidelity.dataset_id)
    if trained_on is not None and evaluation.train_losses and not evaluation.same_as:
        run.dataset(trained_on, "training")
    run.metrics({**evaluation.signals, **(facts or {}), "seconds": evaluation.seconds})
    if evaluation.same_as:
        run.params({"same_network_as": evaluation.same_as})
    if num_stages and evaluation.num_stages:
        run.params({"stage": f"stage {evaluation.num_stages} of {num_stages}"})
        stages = enumerate(evaluation.stage_seconds, start=1)
        run.metrics({f"stage_{number}.seconds": seconds for number, seconds in stages})
        run.metrics({"stage_reached": float(evaluation.num_stages)})
    stride = max(1, len(evaluation.train_losses) // _CURVE_POINTS)
    steps = range(0, len(evaluation.train_losses), stride)
    run.curve("train_loss", [evaluation.train_losses[step] for step in steps], list(steps))
    pruned_after = pruned_words(evaluation, pruner)
    if pruned_after:
        run.params({"pruned_after": pruned_after})
        run.metrics({"rung_reached": float(evaluation.rung)})
        run.finish("KILLED", f"pruned after {pruned_after}")
        return
    if score is None:
        run.finish("FAILED", evaluation.reason)
        return
    run.metrics(dict(objectives))
    run.finish()
    tracker.study.metrics(dict(objectives), step=number)
