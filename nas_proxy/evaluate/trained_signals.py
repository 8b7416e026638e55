"""The signals of a short training, read at its end and at checkpoints on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nas_proxy.core.files import write_atomically
from nas_proxy.errors import StudyError
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.train.loop import TrainResult
from nas_proxy.train.measuring import Measurement, measure, recalibrate_norms
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import ImageDataset

_AVERAGED_SHARE = 4  # the last of so many parts of a training: enough to even out its noise


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """What a network is measured on during and after its training.

    Attributes:
        measured_on: Real images, prepared as the training images are: whitened where these are.
        split: Their split, which names the signals: `val_loss` or `test_loss`.
        training_set: What the network trains on; norms are recalibrated on it.
        fit_on: Some of the training images as they are, with labels; None measures no fit.
        teacher_probabilities: What a teacher says of `measured_on`, `(n, num_classes)`; None
            measures no agreement.
        averages: Whether the mean of the weights over the last quarter of the steps is measured
            too (Izmailov et al., "Averaging weights leads to wider optima and better
            generalization", UAI 2018).
    """

    measured_on: ImageDataset | TrainingSet
    split: Literal["val", "test"]
    training_set: TrainingSet
    fit_on: TrainingSet | None = None
    teacher_probabilities: Tensor | None = None
    averages: bool = False


class SignalObserver:
    """Measures a network at checkpoints and at the end; an `Observer` of the training loop.

    Args:
        network: The one that trains.
        evaluation_data: What it is measured on.
        settings: Its checkpoints, the policy of its norms, its precision.
        num_steps: Steps of the whole training.
        seed: Of the images on which norms are recalibrated; the training's own draws are apart.
        file: Where measurements are kept, for a training that continues after a kill; None keeps
            none.

    Raises:
        StudyError: If the file is damaged, or weights are to be averaged, which no file keeps.
    """

    def __init__(
        self,
        network: nn.Module,
        evaluation_data: EvaluationData,
        settings: TrainSettings,
        num_steps: int,
        seed: int,
        file: Path | None = None,
    ) -> None:
        self._network = network
        self._evaluation_data = evaluation_data
        self._settings = settings
        self._seed = derive_seed("norm images", seed)
        self._steps = {p: step_at(p, num_steps) for p in settings.checkpoints}
        self._file = file
        self._averaged: AveragedModel | None = None
        self._averaged_from = num_steps - max(1, num_steps // _AVERAGED_SHARE) + 1
        if evaluation_data.averages and file is not None:
            raise StudyError(
                "averaged_val_loss and averaged_val_accuracy cannot be measured on trainings whose "
                "state is kept; choose other signals"
            )
        # Percentage to step and signals.
        self._at: dict[int, tuple[int, dict[str, float]]] = _read_measurements(file)

    def __call__(self, step: int, indices: Tensor, logits: Tensor) -> None:
        """Measure if `step` is a checkpoint; average the weights near the end."""
        if self._evaluation_data.averages and step >= self._averaged_from:
            if self._averaged is None:
                self._averaged = AveragedModel(self._network)
            self._averaged.update_parameters(self._network)
        reached = [percentage for percentage, at in self._steps.items() if at == step]
        if reached:
            measured, _ = self._measure()
            self._at.update({percentage: (step, measured) for percentage in reached})
            if self._file is not None:
                write_atomically(self._file, json.dumps(self._at))

    def finish(self, result: TrainResult) -> tuple[dict[str, float], Measurement]:
        """All signals of the training that gave `result`, and the last measurement."""
        split = self._evaluation_data.split
        signals, last = self._measure()
        signals.update(_of_losses(result))
        signals["train_loss_slope"] = result.loss_slope
        losses = [signals[f"{split}_loss"]]
        losses += [measured[f"{split}_loss"] for _, measured in self._at.values()]
        signals.update(self.at_checkpoints(result))
        signals[f"{split}_loss_mean"] = sum(losses) / len(losses)
        if self._averaged is not None:
            signals.update(self._of_average(self._averaged.module))
        return signals, last

    def at_checkpoints(self, result: TrainResult) -> dict[str, float]:
        """The signals of all checkpoints that a training, which gave `result`, has reached."""
        return {
            f"{name}@{percentage}": value
            for percentage, (step, measured) in self._at.items()
            for name, value in {**measured, **_of_losses(result.until(step))}.items()
        }

    def _of_average(self, averaged: nn.Module) -> dict[str, float]:
        """Signals of the averaged weights, whose norms have statistics of no one else's."""
        evaluation_data, settings = self._evaluation_data, self._settings
        generator = make_generator(self._seed, evaluation_data.training_set.images.device)
        recalibrate_norms(averaged, evaluation_data.training_set, settings, generator)
        found = measure(averaged, evaluation_data.measured_on, settings)
        split = evaluation_data.split
        return {
            f"averaged_{split}_loss": found.loss,
            f"averaged_{split}_accuracy": found.accuracy,
        }

    def _measure(self) -> tuple[dict[str, float], Measurement]:
        evaluation_data, settings, network = self._evaluation_data, self._settings, self._network
        if settings.norm_statistics == "recalibrated":
            # The same images each time: the end does not depend on the checkpoints before it.
            generator = make_generator(self._seed, evaluation_data.training_set.images.device)
            recalibrate_norms(network, evaluation_data.training_set, settings, generator)
        expected = evaluation_data.teacher_probabilities
        real = measure(network, evaluation_data.measured_on, settings, expected=expected)
        signals = {
            f"{evaluation_data.split}_loss": real.loss,
            f"{evaluation_data.split}_accuracy": real.accuracy,
        }
        if evaluation_data.fit_on is not None:
            fit = measure(network, evaluation_data.fit_on, settings)
            signals["fit_loss"], signals["fit_accuracy"] = fit.loss, fit.accuracy
            signals["generalisation_gap"] = real.loss - fit.loss
        if real.divergence is not None:
            signals["teacher_agreement"] = -real.divergence
        return signals, real


def step_at(percentage: int, num_steps: int) -> int:
    """The step of a checkpoint, at least the first; several may be at the same one."""
    return max(1, num_steps * percentage // 100)


def _read_measurements(file: Path | None) -> dict[int, tuple[int, dict[str, float]]]:
    if file is None or not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text())
        return {int(p): (step, signals) for p, (step, signals) in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise StudyError(
            f"the measurements {file} are damaged ({error}); delete them and the checkpoint beside "
            "them to train anew"
        ) from error


def _of_losses(result: TrainResult) -> Mapping[str, float]:
    return {"train_loss_mean": result.loss_mean, "train_loss_tail": result.loss_tail}


def some_of(training_set: TrainingSet, num_images: int) -> TrainingSet:
    """At most `num_images` of the training images, always the same, with their labels.

    What a labeller says of the images as they are takes the place of their labels.
    """
    chosen = torch.randperm(
        len(training_set.labels), generator=make_generator(derive_seed("fit images"))
    )[:num_images].to(training_set.labels.device)
    images, labels = training_set.images[chosen], training_set.labels[chosen]
    if training_set.labeller is not None:
        prepared, _ = TrainingSet(images, labels, training_set.spec).batch(
            torch.arange(len(chosen), device=chosen.device)
        )
        labels = training_set.labeller(prepared)
    return TrainingSet(images, labels, training_set.spec)
