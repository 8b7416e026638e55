"""Building an architecture's network, training it, and reading its signals."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.splits import draw_per_class
from nas_proxy.data.transforms import normalise, resize, resize_dataset
from nas_proxy.errors import EvaluationError
from nas_proxy.interfaces import SearchSpace, ZeroCostScore
from nas_proxy.reproducibility import derive_seed, isolated_rng, make_generator
from nas_proxy.train.loop import TrainingSet, TrainResult, measure, train
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, DatasetSpec, Evaluation, Fidelity, ImageDataset, Status

NUM_SCORE_IMAGES = 64  # real images that zero-cost scores look at


@dataclass(frozen=True, eq=False)
class NetworkEvaluator:
    """Measures an architecture by building its network.

    Attributes:
        space: At full size; zero-cost scores see its networks like this.
        scores: Zero-cost signals to measure.
        score_images: Normalised real images for them, `(n, c, h, w)`.
        spec: The real data set's, at full image size.
        training_set: What networks are trained on; None measures zero-cost signals alone.
        dataset_id: Content hash of the training set.
        measured_on: Real images that judge the trained network.
        measured_split: Their split, which names the signals: `val_loss` or `test_loss`.
        settings: How networks are trained.
    """

    space: SearchSpace
    scores: tuple[ZeroCostScore, ...]
    score_images: Tensor
    spec: DatasetSpec
    settings: TrainSettings
    training_set: TrainingSet | None = None
    dataset_id: str = ""
    measured_on: ImageDataset | None = None
    measured_split: Literal["val", "test"] = "val"

    @cached_property
    def fidelity(self) -> Fidelity:
        """What one evaluation costs."""
        if self.training_set is None:
            return Fidelity("", 0, 0, self.spec.image_shape[1])
        return Fidelity(
            dataset_id=self.dataset_id,
            num_steps=self.settings.steps_for(len(self.training_set)),
            batch_size=min(self.settings.batch_size, len(self.training_set)),
            image_size=self.training_set.images.shape[-1],
            space_fidelity=dict(self.settings.space_fidelity),
            num_seeds=self.settings.num_seeds,
        )

    def evaluate(self, architecture: Architecture, seed: int) -> Evaluation:
        """Measure all signals; whatever goes wrong makes a failed evaluation with its reason."""
        evaluation = Evaluation(architecture, self.fidelity, seed, Status.FAILED)
        started = time.perf_counter()
        try:
            signals, costs = self._zero_cost(architecture, seed)
            if self.training_set is not None:
                evaluation = self._trained(evaluation)
            evaluation = replace(
                evaluation,
                status=Status.COMPLETE,
                signals={**signals, **evaluation.signals},
                signal_seconds={**costs, **evaluation.signal_seconds},
            )
        except Exception as error:  # noqa: BLE001 - a plug-in's network may raise anything
            evaluation = replace(evaluation, reason=failure_reason(error))
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # what an out-of-memory error left behind
        return replace(evaluation, seconds=time.perf_counter() - started)

    @property
    def device(self) -> torch.device:
        """Where networks are built."""
        return self.score_images.device

    def _zero_cost(
        self, architecture: Architecture, seed: int
    ) -> tuple[dict[str, float], dict[str, float]]:
        signals, seconds = {}, {}
        for score in self.scores:
            started = time.perf_counter()
            with isolated_rng(derive_seed("weights", seed)):
                network = self.space.build(architecture, self.spec).to(self.device)
                signals[score.name] = _finite(score.name, score.measure(network, self.score_images))
            seconds[score.name] = time.perf_counter() - started
        return signals, seconds

    def _trained(self, evaluation: Evaluation) -> Evaluation:
        """The evaluation with the signals of `num_seeds` trainings, averaged."""
        started = time.perf_counter()
        seed_signals, results = [], []
        for index in range(self.settings.num_seeds):
            signals, result = self._train_once(
                evaluation.architecture, derive_seed("training", evaluation.seed, index)
            )
            seed_signals.append(signals)
            results.append(result)
        return replace(
            evaluation,
            signals={name: _mean([s[name] for s in seed_signals]) for name in seed_signals[0]},
            seed_signals=tuple(seed_signals),
            train_losses=tuple(
                _mean(step) for step in zip(*(r.losses for r in results), strict=True)
            ),
            signal_seconds={"training": time.perf_counter() - started},
        )

    def _train_once(
        self, architecture: Architecture, seed: int
    ) -> tuple[Mapping[str, float], TrainResult]:
        assert self.training_set is not None
        assert self.measured_on is not None
        space = replace(self.space, **dict(self.settings.space_fidelity))
        generator = make_generator(seed, self.device)
        # Everything inside: a candidate's own dropout draws from the global generator too.
        with isolated_rng(seed):
            network = space.build(architecture, self.measured_on.spec).to(self.device)
            result = train(network, self.training_set, self.settings, generator)
            loss, accuracy = measure(network, self.measured_on, self.settings)
        return {
            f"{self.measured_split}_loss": loss,
            f"{self.measured_split}_accuracy": accuracy,
            "train_loss_mean": result.loss_mean,
            "train_loss_tail": result.loss_tail,
            "train_seconds": result.train_seconds,
            "images_seen": float(result.images_seen),
        }, result


def network_evaluator(
    space: SearchSpace,
    scores: tuple[ZeroCostScore, ...],
    settings: TrainSettings,
    *,
    search_train: ImageDataset,
    train_on: ImageDataset | ProxyDataset | None,
    dataset_id: str,
    measured_on: ImageDataset,
    measured_split: Literal["val", "test"] = "val",
) -> NetworkEvaluator:
    """An evaluator for `train_on`, with every image at the settings' size.

    Args:
        space: At full size.
        scores: Zero-cost signals to measure.
        settings: How networks are trained, and at which fidelity.
        search_train: Real images, on the device to work on; zero-cost scores draw from them.
        train_on: What networks are trained on, on the same device; None for no training.
        dataset_id: Content hash of `train_on`.
        measured_on: What judges a trained network, on the same device.
        measured_split: Which split that is.
    """
    generator = make_generator(derive_seed("score images"))
    chosen = torch.randperm(len(search_train), generator=generator)[:NUM_SCORE_IMAGES]
    size = settings.image_size or search_train.spec.image_shape[1]
    training_set = None if train_on is None else TrainingSet.of(train_on)
    if training_set is not None:
        training_set = replace(training_set, images=resize(training_set.images, size))
    if settings.num_val_images is not None and measured_split == "val":
        measured_on = _balanced(measured_on, settings.num_val_images)
    return NetworkEvaluator(
        space=space,
        scores=scores,
        score_images=normalise(
            search_train.images[chosen.to(search_train.images.device)], search_train.spec
        ),
        spec=search_train.spec,
        settings=settings,
        training_set=training_set,
        dataset_id=dataset_id,
        measured_on=resize_dataset(measured_on, size),
        measured_split=measured_split,
    )


def failure_reason(error: BaseException) -> str:
    """Why an evaluation failed, on one line."""
    text = (str(error).strip() or "no message").splitlines()[0]
    if isinstance(error, EvaluationError):
        return text
    # On a CPU torch raises a plain RuntimeError for memory; the text is all there is to tell by.
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return f"does not fit in memory: {text}"
    return f"{type(error).__name__}: {text}"


def _balanced(dataset: ImageDataset, num_images: int) -> ImageDataset:
    """About `num_images` images, the same number of each class, always the same ones."""
    smallest = int(torch.bincount(dataset.labels.cpu()).min())
    per_class = min(max(1, num_images // dataset.spec.num_classes), smallest)
    generator = make_generator(derive_seed("validation images"))
    return dataset.subset(draw_per_class(dataset, per_class, generator))


def _finite(name: str, value: float) -> float:
    if not abs(value) < float("inf"):
        raise EvaluationError(f"signal {name} is not finite ({value})")
    return value


def _mean(values: list[float] | tuple[float, ...]) -> float:
    return sum(values) / len(values)
