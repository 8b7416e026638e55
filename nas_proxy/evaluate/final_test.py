"""The one look at the test split: networks that were trained before are measured on it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.data.transforms import resize_dataset
from nas_proxy.evaluate._kept import KeptTraining
from nas_proxy.evaluate.network import at_fidelity, training_seed
from nas_proxy.interfaces import Builder
from nas_proxy.reproducibility import isolated_rng
from nas_proxy.train.measuring import measure
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import (
    Architecture,
    DatasetSpec,
    Evaluation,
    Fidelity,
    ImageDataset,
    Status,
)


@dataclass(frozen=True, kw_only=True)
class FinalTestFactory:
    """Builds a `FinalTest` from what is on the disk.

    Attributes:
        data: The real data set.
        space: As it was when the networks were trained.
        settings: With which they were trained.
        device: Where to work.
        fidelity: Of their trainings.
        keep: Where their weights are.
    """

    data: DataSettings
    space: Builder
    settings: TrainSettings
    device: str
    fidelity: Fidelity
    keep: Path

    @property
    def state_folder(self) -> Path | None:
        """Where files of its evaluations lie; None: there are none."""
        return self.keep

    def with_state_in(self, folder: Path) -> FinalTestFactory:
        """The same with these files in another folder."""
        return replace(self, keep=folder)

    def build(self) -> FinalTest:
        """Load the test images, at the size of the training."""
        splits = load_splits(self.data)
        size = self.settings.image_size or splits.spec.image_shape[1]
        test, device = resize_dataset(splits.test, size), torch.device(self.device)
        images, labels = test.images.to(device), test.labels.to(device)
        return FinalTest(self, ImageDataset(images, labels, test.spec))


@dataclass(frozen=True, eq=False)
class FinalTest:
    """Measures `test_accuracy` and `test_loss` of kept networks.

    Attributes:
        factory: What built it.
        test: The test images.
    """

    factory: FinalTestFactory
    test: ImageDataset

    @property
    def fidelity(self) -> Fidelity:
        """That of the networks' trainings."""
        return self.factory.fidelity

    def evaluate(self, architecture: Architecture, seed: int) -> Evaluation:
        """Measure the network of an architecture that was trained with `seed`.

        Raises:
            StudyError: If its weights are missing or damaged.
            DivergedError: If its loss is not finite.
        """
        started, worked = time.perf_counter(), time.process_time()
        settings, device = self.factory.settings, self.test.images.device
        network = kept_network(
            self.factory.space, architecture, self.test.spec, settings, self.factory.keep, seed
        )
        measured = measure(network.to(device), self.test, settings)
        return Evaluation(
            architecture,
            self.fidelity,
            seed,
            Status.COMPLETE,
            signals={"test_accuracy": measured.accuracy, "test_loss": measured.loss},
            confusion=tuple(map(tuple, measured.confusion.tolist())),
            seconds=time.perf_counter() - started,
            core_seconds=time.process_time() - worked,
        )


def kept_network(
    space: Builder,
    architecture: Architecture,
    spec: DatasetSpec,
    settings: TrainSettings,
    keep: Path,
    seed: int,
) -> nn.Module:
    """The trained network of an evaluation with `seed`, on the CPU in evaluation mode.

    Raises:
        StudyError: If its weights are missing or damaged.
    """
    with isolated_rng(0):  # what is drawn here is replaced at once
        network = at_fidelity(space, settings).build(architecture, spec)
    KeptTraining.of(keep, architecture, training_seed(seed)).restore(network)
    return network.eval()
