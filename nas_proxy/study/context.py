"""A study at work: its configuration, its images, and where it works, reports and writes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.evaluate.executors import Executor, executor_kind
from nas_proxy.study.arithmetic import StudyArithmetic
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.display import Display
from nas_proxy.study.evaluators import EvaluationRunner, EvaluatorFactories
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.logs import StudyLogs
from nas_proxy.study.recipe import ActiveRecipe, active_recipe
from nas_proxy.study.samples import SampleReferences
from nas_proxy.tracking import Tracker
from nas_proxy.types import Evaluation, Splits


@dataclass(frozen=True)
class StudyContext:
    """What a stage is given; its functions are handed what they use of it.

    Attributes:
        config: The checked configuration.
        splits: The images.
        executor: Where evaluations run.
        tracker: Where runs are logged.
        display: Where a person looks.
        logs: Evaluations on disk.
    """

    config: StudyConfig
    splits: Splits
    executor: Executor
    tracker: Tracker
    display: Display
    logs: StudyLogs

    @property
    def layout(self) -> StudyLayout:
        """Where the study's files lie."""
        return self.config.layout

    @property
    def device(self) -> torch.device:
        """Where distilling and serial evaluations run."""
        return torch.device(self.config.device)

    @property
    def proxy_dataset(self) -> ProxyDataset:
        """The study's proxy data set, verified to belong to the study's images.

        Raises:
            ProxyFileError: If the file is damaged or was made from other images.
        """
        proxy_dataset = ProxyDataset.load(self.layout.proxy_dataset)
        proxy_dataset.check_source(self.splits.spec)
        return proxy_dataset

    @cached_property
    def recipe(self) -> ActiveRecipe:
        """What candidates are ranked by.

        Raises:
            StudyError: If the recipe is to be calibrated and was not, or is damaged.
        """
        return active_recipe(self.config)

    @cached_property
    def calibration_sample(self) -> SampleReferences | None:
        """Architectures whose full training is known; None where the config asks for none.

        Raises:
            StudyError: If there are not as many architectures as are asked for.
        """
        settings = self.config.calibration
        if settings is None:
            return None
        return SampleReferences(self.config, settings, self.runner, self.factories)

    @property
    def factories(self) -> EvaluatorFactories:
        """Descriptions of evaluators on the study's images."""
        beside = executor_kind(self.config.search.executor).beside_driver
        return EvaluatorFactories(
            data=self.config.data,
            spec=self.splits.spec,
            num_train_images=len(self.splits.search_train),
            space=self.config.space,
            device=self.config.device,
            proxy_file=self.layout.proxy_dataset,
            arithmetic=self.arithmetic,
            cuda_graph=self.config.cuda_graph,
            num_slots=self.executor.num_workers if beside else self.config.search.slots_per_device,
        )

    @cached_property
    def arithmetic(self) -> StudyArithmetic:
        """Precision and memory layout of the study's trainings."""
        space, train = self.config.space, self.config.train
        reduced = dict(train.space_fidelity or space.reductions)
        return StudyArithmetic(
            self.layout.arithmetic,
            space,
            self.splits.spec,
            replace(train, space_fidelity=reduced),
            self.device,
            self.display,
            in_worker=executor_kind(self.config.search.executor).beside_driver,
            look_only=self.logs.look_only,
        )

    @property
    def runner(self) -> EvaluationRunner:
        """Evaluates architectures."""
        file = self.layout.in_flight
        return EvaluationRunner(self.executor, self.logs, self.display, self.config.seed, file)

    def cost(self, evaluation: Evaluation) -> float:
        """Seconds of an evaluation: of processor cores on a CPU, of the clock on a GPU.

        Core-seconds do not count what other processes of a busy machine do in the meantime.
        """
        return evaluation.core_seconds if self.device.type == "cpu" else evaluation.seconds

    def forget(self, *folders: Path) -> None:
        """Read anew what lies in folders that were removed or got another name."""
        for folder in folders:
            self.logs.forget(folder)
        for found in ("recipe", "calibration_sample"):
            self.__dict__.pop(found, None)
