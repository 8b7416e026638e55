"""What a study will do and cost, said before anything is spent: nothing of it is changed."""

from __future__ import annotations

import time
from collections.abc import Sequence

from nas_proxy.core.environment import hardware, num_cores
from nas_proxy.errors import ConfigError
from nas_proxy.evaluate.executors import executor_kind
from nas_proxy.statistics.words import duration
from nas_proxy.study.all_stages import STAGES
from nas_proxy.study.budgeting import within_budget
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
from nas_proxy.study.looking import look_at
from nas_proxy.study.plan import StagePlan, training_unit
from nas_proxy.study.stage import plan_stages
from nas_proxy.study.timekeeping import Timekeeper
from nas_proxy.train.settings import TrainSettings

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
    config = within_budget(config, display, write=False)
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
    cores, workers = num_cores(), study.executor.num_workers
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
