"""Labels for the images of a proxy data set, whatever method made them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_proxy.core.files import write_atomically
from nas_proxy.data.proxy_dataset import Labelling, ProxyDataset
from nas_proxy.data.transforms import normalise, resize
from nas_proxy.data.whitening import Whitening
from nas_proxy.errors import ProxyFileError
from nas_proxy.interfaces import DistillContext
from nas_proxy.teachers.label_solve import project_to_simplex, solve_labels
from nas_proxy.teachers.settings import LabelSettings
from nas_proxy.teachers.teacher import Ensemble, Teacher, in_batches
from nas_proxy.teachers.training import obtain_teachers, read_teacher
from nas_proxy.train.measuring import num_parts
from nas_proxy.train.teacher_settings import TeacherSettings
from nas_proxy.types import ImageDataset

_FOLDER = "teachers"  # beside the file of a proxy data set


def label(
    proxy_dataset: ProxyDataset,
    settings: LabelSettings,
    dataset: ImageDataset,
    context: DistillContext,
) -> ProxyDataset:
    """The same images with the labels that are asked for; the context's `costs` count that.

    Labels that the method has learned itself stay where learned ones are asked for; where hard
    ones are, the set is left as it is.

    Args:
        proxy_dataset: On the context's device.
        settings: What labels.
        dataset: The search-training images, for teachers and for learned labels.
        context: Device, progress and cache.

    Raises:
        UserError: As `obtain_teachers`.
        DivergedError: If a teacher diverges, or its embeddings are of no use for learned labels.
    """
    if settings.kind == "hard" or proxy_dataset.labelling.kind == settings.kind == "learned":
        return proxy_dataset
    teachers = obtain_teachers(settings.teachers, dataset, context)
    with context.costs.measure("labelling"):
        before = _unwhiten(proxy_dataset, dataset)
        images = proxy_dataset.training_images()
        if before is not None:
            images = in_batches(before, images)
        if settings.kind == "soft":
            labels = in_batches(Ensemble(teachers, settings.temperature), images)
        else:
            labels = _solved(images, teachers, dataset)
    return replace(
        proxy_dataset,
        labels=labels,
        labelling=Labelling(
            kind=settings.kind,
            temperature=settings.temperature,
            per=settings.per,
            teachers=tuple(teacher.record() for teacher in teachers),
        ),
    )


def labeller_of(proxy_dataset: ProxyDataset, file: Path, dataset: ImageDataset) -> Ensemble | None:
    """What labels every view of a set during training; None if its labels are in the file.

    Args:
        proxy_dataset: Of `file`, on the device of the training.
        file: Beside which the folder `teachers` lies.
        dataset: The search-training images, for undoing a whitening.

    Raises:
        ProxyFileError: If a teacher's file is missing, truncated, altered or of another teacher.
    """
    if proxy_dataset.labelling.per == "image":
        return None
    teachers = []
    for record in proxy_dataset.labelling.teachers:
        path = _teacher_file(file, record.id)
        teacher = read_teacher(path)
        if teacher.id != record.id:
            raise ProxyFileError(
                f"the teacher file {path} holds another teacher, {teacher.id}; copy the folder "
                "teachers/ again that went with the proxy data set"
            )
        teachers.append(teacher.for_images_of(proxy_dataset.spec).to(proxy_dataset.images.device))
    temperature = proxy_dataset.labelling.temperature
    return Ensemble(teachers, temperature, _unwhiten(proxy_dataset, dataset))


def save_teachers(teachers: Sequence[Teacher], file: Path) -> None:
    """Put teachers beside the proxy data set `file`, where `labeller_of` looks for them.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
    """
    for teacher in teachers:
        path = _teacher_file(file, teacher.id)
        if not path.is_file():
            teacher.save(path)


def copy_teachers(source: Path, target: Path) -> None:
    """Give the proxy data set `target` the teachers that lie beside `source`.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
    """
    for path in teacher_files(source):
        copy = target.parent / _FOLDER / path.name
        if not copy.is_file():  # its name says what is in it
            write_atomically(copy, path.read_bytes())


def teacher_files(file: Path) -> tuple[Path, ...]:
    """Files of the teachers that lie beside the proxy data set `file`."""
    return tuple(sorted((file.parent / _FOLDER).glob("*.safetensors")))


def labels_like(
    proxy_dataset: ProxyDataset, file: Path, configured: LabelSettings
) -> LabelSettings:
    """What gives other images the kind of labels that a set has.

    Args:
        proxy_dataset: The set.
        file: Where it lies; its teachers are those whose files lie beside it.
        configured: Names the teachers where there are none.
    """
    labelling = proxy_dataset.labelling
    if labelling.kind == "hard":
        return LabelSettings()
    return LabelSettings(
        kind=labelling.kind,
        teachers=teachers_beside(proxy_dataset, file) or configured.teachers,
        temperature=labelling.temperature,
        per=labelling.per,
        allow_leakage=configured.allow_leakage,
    )


def teachers_beside(proxy_dataset: ProxyDataset, file: Path) -> tuple[TeacherSettings, ...]:
    """The teachers that labelled a set, if all of their files lie beside its own; else none."""
    files = [_teacher_file(file, record.id) for record in proxy_dataset.labelling.teachers]
    if not all(path.is_file() for path in files):
        return ()
    return tuple(TeacherSettings(checkpoint=str(path)) for path in files)


def _teacher_file(file: Path, teacher_id: str) -> Path:
    return file.parent / _FOLDER / f"{teacher_id}.safetensors"


def _solved(images: Tensor, teachers: Sequence[Teacher], dataset: ImageDataset) -> Tensor:
    """Label solve on the embeddings of all teachers, side by side."""

    def embed(batch: Tensor) -> Tensor:
        return torch.cat([_unit(teacher.embed(batch)) for teacher in teachers], dim=1)

    support = in_batches(embed, images)
    return project_to_simplex(solve_labels(support, _embedded(embed, dataset)))


@torch.no_grad()
def _embedded(
    embed: Callable[[Tensor], Tensor], dataset: ImageDataset
) -> Iterator[tuple[Tensor, Tensor]]:
    number = num_parts(len(dataset), dataset.images.shape)
    parts = (each.tensor_split(number) for each in (dataset.images, dataset.labels))
    for images, labels in zip(*parts, strict=True):
        one_hot = F.one_hot(labels, dataset.spec.num_classes).float()
        yield embed(normalise(images, dataset.spec)), one_hot


def _unit(embeddings: Tensor) -> Tensor:
    """Rows of length one: no teacher drowns another."""
    return F.normalize(embeddings, dim=1)


def _unwhiten(
    proxy_dataset: ProxyDataset, dataset: ImageDataset
) -> Callable[[Tensor], Tensor] | None:
    """Back from a whitening to the images that teachers know; None if there was none."""
    if proxy_dataset.zca is None:
        return None
    whitening = Whitening.fit(dataset, proxy_dataset.zca)
    size = dataset.spec.image_shape[1]
    # A student may train on smaller images, which were whitened before they were reduced.
    return lambda images: whitening.undo(resize(images, size))
