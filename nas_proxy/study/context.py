"""What every stage is given: the configuration, the images, and where to report to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.errors import StudyError
from nas_proxy.evaluate.executors import Executor
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory, training_fidelity
from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.registry import SCORES
from nas_proxy.scores.signals import base_signal, trained_among, zero_cost_among
from nas_proxy.study.config import StudyConfig
from nas_proxy.teachers.labelling import teacher_files
from nas_proxy.tracking import Tracker
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Evaluation, Fidelity, Progress, Splits

TrainOn = Literal["proxy", "full_data", "nothing"]


class Display(Protocol):
    """Shows a person what happens."""

    def say(self, message: str) -> None:
        """One line."""

    def progress(self, title: str) -> AbstractContextManager[Progress]:
        """A bar with the time left, for the length of a block."""


@dataclass(frozen=True)
class StudyContext:
    """One study at work.

    Attributes:
        config: The checked configuration.
        splits: The images.
        executor: Where evaluations run.
        tracker: Where runs are logged.
        display: Where a person looks.
    """

    config: StudyConfig
    splits: Splits
    executor: Executor
    tracker: Tracker
    display: Display

    @property
    def proxy_file(self) -> Path:
        """The proxy data set that the distill stage writes."""
        return self.config.folder / "distill" / "proxy.safetensors"

    @property
    def recipe_folder(self) -> Path:
        """What the calibrate stage found, with all that another study needs to use it."""
        return self.config.folder / "calibrate" / "recipe"

    @property
    def trusted_folder(self) -> Path:
        """The recipe that was fetched from the model registry."""
        return self.config.folder / "trusted"

    @property
    def cache_folder(self) -> Path:
        """Trained networks that studies share, by content."""
        return self.config.results / "cache"

    @property
    def teachers_folder(self) -> Path:
        """The teachers of candidates, which retrained networks have their own of."""
        return self.config.folder / "teachers"

    @property
    def device(self) -> torch.device:
        """Where distilling and serial evaluations run."""
        return torch.device(self.config.device)

    @property
    def seed(self) -> int:
        """Seed of every evaluation of the study."""
        return self.config.seed

    def load_proxy_dataset(self) -> ProxyDataset:
        """The study's proxy data set, verified to belong to the study's images.

        Raises:
            ProxyFileError: If the file is damaged or was made from other images.
        """
        proxy_dataset = ProxyDataset.load(self.proxy_file)
        proxy_dataset.check_source(self.splits.spec)
        return proxy_dataset

    def factory(
        self,
        *,
        train_on: TrainOn,
        settings: TrainSettings,
        signals: Sequence[str],
        score_images: Literal["real", "distilled"] = "real",
    ) -> NetworkEvaluatorFactory:
        """Measures `signals`; trains only if one of them needs it."""
        trained = trained_among(signals)
        images: Path | Literal["search_train"] | None = None
        fidelity = Fidelity("", 0, 0, self.splits.spec.image_shape[1])
        if trained and train_on == "proxy":
            proxy_dataset = self.load_proxy_dataset()
            images = self.proxy_file
            fidelity = self._fidelity(settings, proxy_dataset.id, len(proxy_dataset.labels))
        elif trained and train_on == "full_data":
            images = "search_train"
            spec = self.splits.spec
            fidelity = self._fidelity(settings, spec.source_hash, len(self.splits.search_train))
        return replace(
            self._factory(settings, images, tuple(signals), fidelity),
            requested=tuple(base_signal(signal) for signal in trained),
            teachers=self._teachers(trained),
            score_on=self.proxy_file if score_images == "distilled" else None,
        )

    def zero_cost_factory(
        self, signals: tuple[str, ...], score_images: Literal["real", "distilled"] = "real"
    ) -> NetworkEvaluatorFactory:
        """Measures zero-cost signals alone."""
        return self.factory(
            train_on="nothing",
            settings=self.config.train,
            signals=signals,
            score_images=score_images,
        )

    def proxy_factory(
        self, file: Path, proxy_dataset: ProxyDataset, settings: TrainSettings
    ) -> NetworkEvaluatorFactory:
        """Trains on any proxy data set, such as a control."""
        fidelity = self._fidelity(settings, proxy_dataset.id, len(proxy_dataset.labels))
        return self._factory(settings, file, (), fidelity)

    def full_data_factory(
        self, settings: TrainSettings, judged_by: Literal["search_val", "test"]
    ) -> NetworkEvaluatorFactory:
        """Trains on all search-training images."""
        spec = self.splits.spec
        fidelity = self._fidelity(settings, spec.source_hash, len(self.splits.search_train))
        return self._factory(settings, "search_train", (), fidelity, judged_by)

    def cost(self, evaluation: Evaluation) -> float:
        """Seconds of an evaluation: of processor cores on a CPU, of the clock on a GPU.

        Core-seconds do not count what other processes of a busy machine do in the meantime.
        """
        return evaluation.core_seconds if self.device.type == "cpu" else evaluation.seconds

    def _teachers(self, trained: Sequence[str]) -> tuple[Path, ...]:
        """Files of the teachers that lie beside the proxy data set, if a signal needs them."""
        if "teacher_agreement" not in map(base_signal, trained):
            return ()
        found = teacher_files(self.proxy_file)
        if not found:
            raise StudyError(
                "the signal teacher_agreement needs a teacher, but the distilled set has none; set "
                "distill.labels.kind to soft and name distill.labels.teachers, or leave the signal "
                "out"
            )
        return found

    def _fidelity(self, settings: TrainSettings, dataset_id: str, num_images: int) -> Fidelity:
        return training_fidelity(settings, self.splits.spec, dataset_id, num_images)

    def _factory(
        self,
        settings: TrainSettings,
        train_on: Path | Literal["search_train"] | None,
        signals: tuple[str, ...],
        fidelity: Fidelity,
        judged_by: Literal["search_val", "test"] = "search_val",
    ) -> NetworkEvaluatorFactory:
        return NetworkEvaluatorFactory(
            data=self.config.data,
            space=self.config.space,
            scores=zero_cost_scores(signals),
            settings=settings,
            train_on=train_on,
            judged_by=judged_by,
            device=self.config.device,
            fidelity=fidelity,
        )


def zero_cost_scores(signals: tuple[str, ...]) -> dict[str, ZeroCostScore]:
    """The plug-ins behind those `signals` that need no training, by signal."""
    return {name: SCORES.get(name)() for name in zero_cost_among(signals)}
