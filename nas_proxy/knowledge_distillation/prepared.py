"""A knowledge distillation as worker processes receive it, and as they use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.transforms import resize_dataset
from nas_proxy.errors import DivergedError
from nas_proxy.interfaces import DistillContext
from nas_proxy.knowledge_distillation.objective import KnowledgeObjective, make_objective
from nas_proxy.knowledge_distillation.settings import KnowledgeDistillationSettings
from nas_proxy.knowledge_distillation.teachers import Generation, Teachers
from nas_proxy.knowledge_distillation.unlabelled import (
    check_unlabelled,
    read_unlabelled,
    say_left_out,
)
from nas_proxy.reproducibility import content_hash, derive_seed, isolated_rng, make_generator
from nas_proxy.teachers.leakage import check_leakage
from nas_proxy.teachers.teacher import Teacher
from nas_proxy.teachers.training import obtain_teachers, read_teacher
from nas_proxy.train.loop import Observer, TrainResult
from nas_proxy.train.measuring import Measurement, measure
from nas_proxy.train.phases import Phase, train_phases
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import DatasetSpec, Splits

_VALIDATED = ("val_accuracy", "val_loss")  # variants that need the teachers' own figures


@dataclass(frozen=True, kw_only=True)
class KnowledgeDistillation:
    """What students learn beside the labels: settings and the files of the teachers.

    Attributes:
        settings: Which terms.
        files: Of the teachers, in the order of `settings.all_teachers`; they are named by content.
        num_leaked_images: Held-out images (search_val, test) that each of them was trained on,
            and how many of them the unlabelled images are.
        val_accuracies: Of the teachers on the search-validation images; empty if nobody asks.
        val_losses: The same for their cross-entropy.
        num_unlabelled: Images without a label that are trained on.
        unlabelled_id: Hash of their content; empty without any.
        teaching_seconds: What the training of the teachers cost.
    """

    settings: KnowledgeDistillationSettings
    files: tuple[Path, ...] = ()
    num_leaked_images: tuple[int, ...] = ()
    val_accuracies: tuple[float, ...] = ()
    val_losses: tuple[float, ...] = ()
    num_unlabelled: int = 0
    unlabelled_id: str = ""
    teaching_seconds: float = 0.0

    @property
    def identity(self) -> str:
        """Hash of all that a student's weights depend on."""
        return content_hash(
            asdict(self.settings), self.sources, self.val_accuracies, self.val_losses
        )

    @property
    def sources(self) -> dict[str, Any]:
        """What the files and folders that the settings name hold, as JSON values."""
        teachers = [path.stem for path in self.files]
        return {"teachers": teachers, "unlabelled": self.unlabelled_id}

    def load(self, spec: DatasetSpec, device: torch.device) -> LoadedKnowledgeDistillation:
        """With the teachers on a device, for images that are normalised for `spec`.

        Raises:
            ProxyFileError: If a file is missing or damaged.
            DataError: If a teacher knows other classes.
        """
        teachers = [read_teacher(path).for_images_of(spec).to(device) for path in self.files]
        found = Teachers(tuple(teachers), self.val_accuracies, self.val_losses)
        return LoadedKnowledgeDistillation(self.settings, found, self.identity)


def prepare_distillation(
    settings: KnowledgeDistillationSettings,
    splits: Splits,
    context: DistillContext,
    folder: Path,
    *,
    section: str = "knowledge_distillation",
) -> KnowledgeDistillation:
    """Train or fetch the teachers, make sure that nothing leaks, and leave their files in a folder.

    Args:
        settings: Which terms.
        splits: The search-training images teach the teachers; the search-validation images weight
            them where that is asked for.
        context: Device, progress and cache.
        folder: Where the files go.
        section: Where the settings stand in a configuration, for messages.

    Raises:
        UserError: As `obtain_teachers`.
        StudyError: If a teacher, or the unlabelled images, have seen images that judge the
            student, unless that is allowed.
        DivergedError: If the training of a teacher diverges.
    """
    dataset = splits.search_train
    moved = replace(
        dataset,
        images=dataset.images.to(context.device),
        labels=dataset.labels.to(context.device),
    )
    teachers = obtain_teachers(settings.all_teachers, moved, context)
    allowed, option = settings.allow_leakage, f"{section}.allow_leakage"
    found = check_leakage(teachers, splits, allow=allowed, option=option)
    seen, num_unlabelled, unlabelled_id = [found[each.id] for each in teachers], 0, ""
    if settings.unlabelled is not None:
        images = read_unlabelled(Path(settings.unlabelled), splits.spec)
        say_left_out(Path(settings.unlabelled))
        seen.append(check_unlabelled(images, splits, allow=allowed, option=option))
        num_unlabelled, unlabelled_id = len(images), content_hash(images)
    files = tuple(folder / f"{teacher.id}.safetensors" for teacher in teachers)
    for teacher, path in zip(teachers, files, strict=True):
        if not path.is_file():
            teacher.save(path)
    validated = any(term.variant in _VALIDATED for term in settings.terms)
    measured = [_measured(each, splits, context) for each in teachers] if validated else []
    return KnowledgeDistillation(
        settings=settings,
        files=files,
        num_leaked_images=tuple(seen),
        val_accuracies=tuple(each.accuracy for each in measured),
        val_losses=tuple(each.loss for each in measured),
        num_unlabelled=num_unlabelled,
        unlabelled_id=unlabelled_id,
        teaching_seconds=sum(teacher.train_seconds for teacher in teachers),
    )


def _measured(teacher: Teacher, splits: Splits, context: DistillContext) -> Measurement:
    """On the search-validation images, at the size and in the colours that the teacher knows."""
    size = teacher.spec.image_shape[1]
    reduced = resize_dataset(splits.search_val, size)
    val = replace(
        reduced,
        images=reduced.images.to(context.device),
        labels=reduced.labels.to(context.device),
        spec=teacher.spec,  # a teacher of another study was trained with other statistics
    )
    try:
        return measure(teacher.network, val, TrainSettings(num_steps=1, precision="float32"))
    except DivergedError as error:
        raise DivergedError(
            f"the teacher {teacher.description} answers with no finite number ({error}); name "
            "another, or train it anew"
        ) from error


@dataclass(frozen=True, eq=False)
class LoadedKnowledgeDistillation:
    """A knowledge distillation in the process where students train: its teachers are loaded.

    Attributes:
        settings: Which terms.
        teachers: On the device of the training.
        identity: As `KnowledgeDistillation.identity`.
    """

    settings: KnowledgeDistillationSettings
    teachers: Teachers
    identity: str = ""

    def objective(
        self,
        student: nn.Module,
        training_set: TrainingSet,
        phases: Sequence[Phase],
        generator: torch.Generator,
    ) -> KnowledgeObjective:
        """What a student's training minimises; see `make_objective`."""
        return make_objective(
            self.settings, student, self.teachers, training_set, phases, generator
        )

    def after_generations(
        self,
        build: Callable[[], nn.Module],
        training_set: TrainingSet,
        phases: Sequence[Phase],
        seed: int,
        checkpoint: Checkpointer | None = None,
    ) -> tuple[LoadedKnowledgeDistillation, float]:
        """Train the generations that come before the one that counts, each taught by the last.

        Args:
            build: A fresh network of the student's architecture on the device of the images;
                weights from torch's global generator.
            training_set: What they train on, as the last one will.
            phases: How, in the same way.
            seed: Of their weights, batches and augmentation; theirs are apart from the last one's.
            checkpoint: Where a killed training continues, in whichever generation it was.

        Returns:
            What the generation that counts learns, and the seconds that it took; `self`
            if nothing is learned from generations.
        """
        now, seconds = self, 0.0
        learned = self.settings.first_generation()
        for number in range(self.settings.num_generations):
            own_seed = derive_seed("generation", seed, number)
            generator = make_generator(own_seed, training_set.images.device)
            part = None if checkpoint is None else checkpoint.part(f"generation{number}")
            with isolated_rng(own_seed):
                network = build()
                taught = None if learned is None else replace(now, settings=learned)
                result = train_student(
                    taught, network, training_set, phases, generator, checkpoint=part
                )
            now = replace(self, teachers=self.teachers.after(_generation(network, training_set)))
            seconds, learned = seconds + result.train_seconds, self.settings
        return now, seconds


def train_student(
    knowledge_distillation: LoadedKnowledgeDistillation | None,
    network: nn.Module,
    training_set: TrainingSet,
    phases: Sequence[Phase],
    generator: torch.Generator,
    observer: Observer | None = None,
    *,
    checkpoint: Checkpointer | None = None,
    until: int | None = None,
    graphed: bool = False,
) -> TrainResult:
    """`train_phases` of a student; None teaches nothing but the labels."""
    if knowledge_distillation is None:
        return train_phases(
            network,
            training_set,
            phases,
            generator,
            observer,
            checkpoint=checkpoint,
            until=until,
            graphed=graphed,
        )
    with knowledge_distillation.objective(network, training_set, phases, generator) as objective:
        return train_phases(
            network,
            training_set,
            phases,
            generator,
            observer,
            objective=objective,
            checkpoint=checkpoint,
            until=until,
            graphed=graphed,
        )


def _generation(network: nn.Module, training_set: TrainingSet) -> Generation:
    """A trained network that is not trained any more."""
    _, channels, height, width = training_set.images.shape
    frozen = network.eval().requires_grad_(False)
    return Generation(frozen, training_set.spec.class_names, (channels, height, width))
