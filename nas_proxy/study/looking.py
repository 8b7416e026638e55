"""A study that is looked at before it runs: nothing of it is changed."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

import torch

from nas_proxy.core.environment import check_device
from nas_proxy.data.sources import load_splits
from nas_proxy.evaluate.executors import EvaluatorFactory
from nas_proxy.study.all_stages import STAGES
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.context import StudyContext
from nas_proxy.study.display import Display
from nas_proxy.study.logs import StudyLogs
from nas_proxy.study.samples import check_samples
from nas_proxy.study.stage import refuse_other_configuration
from nas_proxy.tracking import Tracker
from nas_proxy.types import Architecture, Evaluation


def look_at(config: StudyConfig, display: Display) -> StudyContext:
    """A study with its images, of which nothing is changed: no lock, no tracking, no executor.

    Args:
        config: The study.
        display: Told what of the images and tables is left out.

    Raises:
        StudyError: If the study's folder was written by another configuration.
        UserError: If something is wrong that the user can mend.
    """
    for notice in config.notices:
        display.say(notice)
    logs = StudyLogs(look_only=True)
    check_samples(config, logs, display.say)
    refuse_other_configuration(STAGES, config, config.layout)
    return idle_study(config, display, logs)


def idle_study(config: StudyConfig, display: Display, logs: StudyLogs) -> StudyContext:
    """A study with its images that evaluates nothing; what lies in its folder is not compared.

    Args:
        config: The study.
        display: Told what of the images is left out.
        logs: Of its evaluations.

    Raises:
        UserError: If something is wrong that the user can mend.
    """
    torch.set_num_threads(config.num_threads)
    check_device(config.device)
    with display.progress("loading images") as progress:
        splits = load_splits(config.data, progress=progress, say=display.say)
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
