"""What a study will do and cost, said before anything is spent: nothing of it is changed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from nas_proxy.core.environment import check_device, hardware
from nas_proxy.data.sources import load_splits
from nas_proxy.errors import ConfigError
from nas_proxy.evaluate.executors import EvaluatorFactory, executor_kind
from nas_proxy.interfaces import TransferSpace
from nas_proxy.statistics.words import duration
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.context import StudyContext
from nas_proxy.study.display import Display
from nas_proxy.study.estimate import (
    Seconds,
    StageEstimate,
    StudyEstimate,
    Timed,
    estimate_stages,
    total,
)
from nas_proxy.study.known_timings import KnownTimings
from nas_proxy.study.logs import StudyLogs
from nas_proxy.study.pipeline import STAGES
from nas_proxy.study.plan import StagePlan, training_unit
from nas_proxy.study.samples import check_samples
from nas_proxy.study.stage import plan_stages, refuse_other_configuration
from nas_proxy.study.timekeeping import Timekeeper
from nas_proxy.tracking import Tracker
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, Evaluation

DEFAULT_SECONDS = 60.0
_BUSY = 1.5  # seconds of the clock for each of a core from which on a machine is called busy
_WORTH_SAYING = 30.0  # seconds


def plan_study(
    config: StudyConfig, display: Display, *, timing_seconds: float = DEFAULT_SECONDS
) -> StudyEstimate:
    """Say what every stage of a study will do, what that costs here, and what it buys.

    A few steps of a few random candidates are timed, in as many processes as the study will train
    in. Of the study's folder everything is read and nothing is written.

    Args:
        config: The study.
        display: Told what is timed, and shows progress.
        timing_seconds: How long the timing may take; what does not fit in is said to be unknown.

    Raises:
        StudyError: If the study's folder was written by another configuration.
        UserError: If something is wrong that the user can mend.
    """
    if timing_seconds <= 0:
        raise ConfigError(f"timing takes more than no time, got {timing_seconds:g} s; try 60")
    study = look_at(config, display)
    plans = plan_stages(STAGES, study)
    num_workers = study.executor.num_workers
    display.say(f"plan: timing a few steps of random candidates, for up to {timing_seconds:.0f} s")
    started = time.monotonic()
    with display.progress("timing") as progress:
        timekeeper = Timekeeper(study, timing_seconds, num_workers, progress)
        timekeeper.measure(plans)
    KnownTimings(study).keep(plans, timekeeper.price)
    estimates = estimate_stages(plans, timekeeper.price, num_workers)
    return StudyEstimate.of(
        estimates,
        study_name=config.study_name,
        hardware=hardware(study.device),
        num_workers=num_workers,
        timing_seconds=time.monotonic() - started,
        notes=(_timed_words(timekeeper), *_more_workers(study, plans, estimates)),
        all_fully_trained=_all_fully_trained(study, plans, timekeeper),
    )


def look_at(config: StudyConfig, display: Display) -> StudyContext:
    """A study with its images, of which nothing is changed: no lock, no tracking, no executor.

    Args:
        config: The study.
        display: Told what of the images and tables is left out.

    Raises:
        StudyError: If the study's folder was written by another configuration.
        UserError: If something is wrong that the user can mend.
    """
    torch.set_num_threads(config.num_threads)
    check_device(config.device)
    for notice in config.notices:
        display.say(notice)
    logs = StudyLogs(look_only=True)
    check_samples(config, logs, display.say)
    refuse_other_configuration(STAGES, config, config.layout)
    with display.progress("loading images") as progress:
        splits = load_splits(config.data, progress=progress, say=display.say)
    if isinstance(config.space, TransferSpace):
        config.space.check_images(splits)
    tracker, executor = Tracker(None, config.study_name), _Idle(_num_workers(config))
    return StudyContext(config, splits, executor, tracker, display, logs)


def _num_workers(config: StudyConfig) -> int:
    """How many evaluations run at the same time."""
    return 1 if config.search.executor == "serial" else config.search.num_workers


@dataclass
class _Idle:
    """An executor that only says how many workers there would be."""

    num_workers: int

    def submit(
        self, factory: EvaluatorFactory, architecture: Architecture, seed: int
    ) -> Future[Evaluation]:
        raise AssertionError("a plan evaluates nothing")


def _timed_words(timekeeper: Timekeeper) -> str:
    """What the figures rest on, and what they leave out."""
    config = timekeeper.study.config
    words = f"{timekeeper.num_candidates} random candidates were timed"
    if timekeeper.failures:
        reason = max(timekeeper.failures, key=lambda why: timekeeper.failures[why])
        words += f"; {sum(timekeeper.failures.values())} timings failed: {reason}"
    share = timekeeper.clock_share
    if share > _BUSY:
        words += f"; the machine is busy: the clock says {share:.1f} times what cores worked"
    beside = executor_kind(config.search.executor).beside_driver
    if not beside and config.search.executor != "serial":
        words += "; the workers may be other machines, which were not timed"
    return words


def _more_workers(
    study: StudyContext, plans: Sequence[StagePlan], estimates: Sequence[StageEstimate]
) -> tuple[str, ...]:
    """Whether evaluations could use cores of this machine that are idle, and what that saves."""
    cores, workers = _num_cores(), study.executor.num_workers
    beside = executor_kind(study.config.search.executor).beside_driver
    if study.device.type != "cpu" or workers >= cores or not (beside or workers == 1):
        return ()
    pairs = [
        (task, cost)
        for plan, estimate in zip(plans, estimates, strict=True)
        for task, cost in zip(plan.tasks, estimate.tasks, strict=True)
    ]
    evaluating = total(
        cost.wall_seconds
        for task, cost in pairs
        if cost.wall_seconds is not None and not task.in_driver
    )
    saved = evaluating.expected * (1 - workers / cores)
    if saved < _WORTH_SAYING:
        return ()
    option = f"search.executor=processes search.num_workers={cores}"
    return (f"{option} saves up to {duration(saved)} by the clock: there are {cores} cores",)


def _num_cores() -> int:
    """Cores that this process may use, as far as the system says."""
    asks = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(asks(0)) if asks is not None else os.cpu_count() or 1


def _full_training(config: StudyConfig) -> TrainSettings | None:
    """What the configuration calls a full training, wherever it says so."""
    for section in (config.validation, config.calibration):
        if section is not None and section.reference.train is not None:
            return section.reference.train
    return None if config.retrain is None else config.retrain.train


def _all_fully_trained(
    study: StudyContext, plans: Sequence[StagePlan], timekeeper: Timekeeper
) -> Seconds | None:
    """What training every searched candidate fully would take."""
    train = _full_training(study.config)
    if train is None:
        return None
    price = timekeeper.price(training_unit(study, train))
    return price.of(study.config.search.n_trials) if isinstance(price, Timed) else None
