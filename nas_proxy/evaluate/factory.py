"""Descriptions of evaluators, light enough to be sent to a worker process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.resized import resized_images
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.data.transforms import chunk_length, normalise, resize, resize_dataset
from nas_proxy.data.whitening import Whitening
from nas_proxy.devices import share_memory
from nas_proxy.errors import ConfigError
from nas_proxy.evaluate.network import LoadedWarmUp, NetworkEvaluator
from nas_proxy.evaluate.trained_signals import EvaluationData, some_of
from nas_proxy.interfaces import Builder, ZeroCostScore
from nas_proxy.knowledge_distillation.prepared import KnowledgeDistillation
from nas_proxy.knowledge_distillation.unlabelled import read_unlabelled, with_unlabelled
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.scores.signals import MAX_FIT_IMAGES
from nas_proxy.teachers.labelling import labeller_of
from nas_proxy.teachers.teacher import Ensemble, over_dataset
from nas_proxy.teachers.training import read_teacher
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import DatasetSpec, Fidelity, ImageDataset, Splits

NUM_SCORE_IMAGES = 64  # real images that zero-cost scores look at


@dataclass(frozen=True)
class WarmUp:
    """Steps on a proxy data set before a training on the real images.

    Attributes:
        file: The proxy data set's.
        num_steps: How many.
    """

    file: Path
    num_steps: int


@dataclass(frozen=True, kw_only=True)
class NetworkEvaluatorFactory:
    """Builds a `NetworkEvaluator` from what is on the disk.

    Attributes:
        data: The real data set.
        space: At full size.
        scores: Zero-cost signals to measure, by the names they are reported under.
        settings: How networks are trained, and at which fidelity.
        train_on: A proxy data set's file; `search_train` for the real images; None for no
            training.
        judged_by: The split that measures trained networks. `test` is for the validator's
            full-data reference, and for what a proxy data set is worth; neither feeds a search.
        device: Where to work, such as `cpu` or `cuda`.
        fidelity: What one evaluation costs.
        keep_confusion: Whether evaluations carry the confusion matrix.
        requested: Trained signals that are measured on request alone, without checkpoints.
        teachers: Files of the trained networks with which `teacher_agreement` is measured.
        score_on: A proxy data set's file whose images zero-cost scores look at; None: real ones.
        keep: Folder in which trained weights stay; see `NetworkEvaluator`.
        knowledge_distillation: What networks learn beside the labels; None: nothing.
        cuda_graph: Do training steps as one CUDA graph each where that can be done.
        num_slots: Processes that evaluate on the same device at the same time.
        warm_up: What comes before a training on `search_train`; None: nothing.
    """

    data: DataSettings
    space: Builder
    scores: Mapping[str, ZeroCostScore]
    settings: TrainSettings
    train_on: Path | Literal["search_train"] | None
    judged_by: Literal["search_val", "test"] = "search_val"
    device: str
    fidelity: Fidelity
    keep_confusion: bool = False
    requested: tuple[str, ...] = ()
    teachers: tuple[Path, ...] = ()
    score_on: Path | None = None
    keep: Path | None = None
    knowledge_distillation: KnowledgeDistillation | None = None
    cuda_graph: bool = False
    num_slots: int = 1
    warm_up: WarmUp | None = None

    @property
    def state_folder(self) -> Path | None:
        """Where files of its evaluations lie; None: there are none."""
        return self.keep

    def with_state_in(self, folder: Path) -> NetworkEvaluatorFactory:
        """The same with these files in another folder."""
        return replace(self, keep=folder)

    def build(self) -> NetworkEvaluator:
        """Load the images and put them on the device, every one at the size of the training."""
        splits = load_splits(self.data)
        device = torch.device(self.device)
        share_memory(device, self.num_slots)
        search_train = _on(splits.search_train, device)
        return NetworkEvaluator(
            space=self.space,
            scores=self.scores,
            score_images=self._score_images(search_train),
            spec=splits.spec,
            settings=self.settings,
            fidelity=self.fidelity,
            evaluation_data=None
            if self.train_on is None
            else self._evaluation_data(splits, search_train),
            keep_confusion=self.keep_confusion,
            keep=self.keep,
            knowledge_distillation=None
            if self.knowledge_distillation is None
            else self.knowledge_distillation.load(splits.spec, device),
            cuda_graph=self.cuda_graph,
            warm_up=None if self.warm_up is None else self._loaded(self.warm_up, search_train),
        )

    def _loaded(self, warm_up: WarmUp, search_train: ImageDataset) -> LoadedWarmUp:
        proxy_dataset = _proxy_dataset(warm_up.file, search_train)
        proxy_dataset.check_source(search_train.spec)
        size = self.settings.image_size or search_train.spec.image_shape[1]
        training_set = _distilled(proxy_dataset, warm_up.file, search_train, size)
        return LoadedWarmUp(training_set, warm_up.num_steps)

    def _score_images(self, search_train: ImageDataset) -> tuple[Tensor, Tensor]:
        """Images for zero-cost scores with their classes, the same ones every time."""
        source = TrainingSet.of(search_train)
        if self.score_on is not None:
            proxy_dataset = _proxy_dataset(self.score_on, search_train)
            proxy_dataset.check_source(search_train.spec)
            source = TrainingSet.of(proxy_dataset)
        generator = make_generator(derive_seed("score images"))
        chosen = torch.randperm(len(source), generator=generator)[:NUM_SCORE_IMAGES]
        images, labels = source.batch(chosen.to(source.images.device))
        return images, labels if labels.ndim == 1 else labels.argmax(dim=1)

    def _evaluation_data(self, splits: Splits, search_train: ImageDataset) -> EvaluationData:
        size = self.settings.image_size or splits.spec.image_shape[1]
        held_out = splits.test if self.judged_by == "test" else splits.search_val
        if self.judged_by == "search_val" and self.settings.num_val_images is not None:
            held_out = _some(held_out, self.settings.num_val_images)
        held_out = _on(held_out, search_train.images.device)
        proxy_dataset = self._proxy_dataset(search_train)
        zca = None if proxy_dataset is None else proxy_dataset.zca
        whitening = None if zca is None else Whitening.fit(search_train, zca)
        training_set = self._training_set(search_train, proxy_dataset, size)
        own_images = training_set
        if (
            self.knowledge_distillation is not None
            and self.knowledge_distillation.settings.unlabelled is not None
        ):
            unlabelled = read_unlabelled(
                Path(self.knowledge_distillation.settings.unlabelled), splits.spec
            )
            training_set = with_unlabelled(training_set, resize(unlabelled, size))
        wants_fit = {"fit_loss", "fit_accuracy", "generalisation_gap"} & set(self.requested)
        return EvaluationData(
            measured_on=_prepared(held_out, whitening, size),
            split="test" if self.judged_by == "test" else "val",
            training_set=training_set,
            fit_on=some_of(own_images, MAX_FIT_IMAGES) if wants_fit else None,
            teacher_probabilities=self._teacher_probabilities(held_out),
            averages=any(signal.startswith("averaged_") for signal in self.requested),
        )

    def _teacher_probabilities(self, held_out: ImageDataset) -> Tensor | None:
        """What the teachers say of the held-out images at full size; None if nobody asks."""
        if "teacher_agreement" not in self.requested:
            return None
        device = held_out.images.device
        teachers = [read_teacher(p).for_images_of(held_out.spec).to(device) for p in self.teachers]
        return over_dataset(Ensemble(teachers), held_out)

    def _proxy_dataset(self, search_train: ImageDataset) -> ProxyDataset | None:
        """The proxy data set to train on, if it is one."""
        if not isinstance(self.train_on, Path):
            return None
        proxy_dataset = _proxy_dataset(self.train_on, search_train)
        if self.judged_by == "test":  # no search_train holds test images
            proxy_dataset.check_fits(search_train.spec)
        else:
            proxy_dataset.check_source(search_train.spec)
        return proxy_dataset

    def _training_set(
        self, search_train: ImageDataset, proxy_dataset: ProxyDataset | None, size: int
    ) -> TrainingSet:
        if isinstance(self.train_on, Path) and proxy_dataset is not None:
            return _distilled(proxy_dataset, self.train_on, search_train, size)
        return replace(TrainingSet.of(search_train), images=resized_images(search_train, size))


def _proxy_dataset(file: Path, search_train: ImageDataset) -> ProxyDataset:
    """On the device of the real images."""
    return ProxyDataset.load(file).to(search_train.images.device)


def _distilled(
    proxy_dataset: ProxyDataset, file: Path, search_train: ImageDataset, size: int
) -> TrainingSet:
    """A proxy data set to train on, at a size, with the labels that its teachers give."""
    labeller = labeller_of(proxy_dataset, file, search_train)
    training_set = TrainingSet.of(proxy_dataset, labeller)
    return replace(training_set, images=resize(training_set.images, size))


def training_fidelity(
    settings: TrainSettings, spec: DatasetSpec, dataset_id: str, num_images: int
) -> Fidelity:
    """The fidelity of training on `num_images` images that `dataset_id` identifies.

    Its `num_steps` is 0 where each architecture says itself how long it is trained.

    Raises:
        ConfigError: If trainings would begin at a larger size than they end at.
    """
    size, first = settings.image_size or spec.image_shape[1], settings.first_image_size
    if first is not None and first > size:
        raise ConfigError(
            f"train.first_image_size is {first}, but trainings end at {size} pixels; lower it, or "
            "leave it out"
        )
    own_length = settings.num_epochs == "architecture"
    return Fidelity(
        dataset_id=dataset_id,
        num_steps=0 if own_length else settings.steps_for(num_images),
        batch_size=min(settings.batch_size, num_images),
        image_size=size,
        space_fidelity=dict(settings.space_fidelity),
        num_seeds=settings.num_seeds,
    )


def _prepared(
    held_out: ImageDataset, whitening: Whitening | None, size: int
) -> ImageDataset | TrainingSet:
    """The held-out images, as networks that train on a proxy data set need them.

    A network that trained on whitened images is asked about whitened ones; like those it is
    trained on, they are whitened at full size and resized then.
    """
    if whitening is None:
        return resize_dataset(held_out, size)
    spec, length = held_out.spec, chunk_length(held_out.images)
    parts = [
        resize(whitening.apply(normalise(part, spec)), size)
        for part in held_out.images.split(length)
    ]
    return TrainingSet(torch.cat(parts), held_out.labels, spec.with_image_size(size))


def _on(dataset: ImageDataset, device: torch.device) -> ImageDataset:
    return replace(dataset, images=dataset.images.to(device), labels=dataset.labels.to(device))


def _some(dataset: ImageDataset, num_images: int) -> ImageDataset:
    """At most about `num_images` images, classes in proportion, always the same ones.

    Each class gives at least one, so that what is measured stays what all images measure.
    """
    if num_images >= len(dataset):
        return dataset
    share, generator = num_images / len(dataset), make_generator(derive_seed("validation images"))
    chosen = []
    labels = dataset.labels.cpu()
    for label in labels.unique():
        members = torch.nonzero(labels == label).flatten()
        drawn = members[torch.randperm(len(members), generator=generator)]
        chosen.append(drawn[: max(1, int(share * len(members)))])
    return dataset.subset(torch.cat(chosen).to(dataset.labels.device))
