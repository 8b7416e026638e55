"""Whether a teacher was trained on images that judge its students."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nas_proxy.data.proxy_dataset import ProxyDataset, TeacherRecord
from nas_proxy.data.splits import image_hashes
from nas_proxy.errors import StudyError
from nas_proxy.teachers.teacher import Teacher
from nas_proxy.types import Splits

_WORDNET_ID = re.compile(r"n\d{8}")


def count_leaked_images(teacher: Teacher, splits: Splits) -> int:
    """How many images of search_val and test the teacher was trained on.

    Images are compared by content. One that search_train holds too, as some data sets have
    duplicates, does not count. What a network of torchvision has seen is not on record: where the
    images are ImageNet's, all count that may be of its training images.
    """
    num_published = num_of_imagenet(splits) if teacher.knows_imagenet else 0
    if teacher.spec.source_hash == splits.spec.source_hash:
        return num_published
    return max(num_published, count_leaked_among(teacher.seen, splits))


def count_leaked_among(seen: Tensor, splits: Splits) -> int:
    """How many images of search_val and test, and not of search_train, have one of the hashes.

    Args:
        seen: As `image_hashes` gives them, int64 `(n,)`.
        splits: The study's.
    """
    own = image_hashes(splits.search_train.images)
    held_out = torch.cat([image_hashes(part.images) for part in (splits.search_val, splits.test)])
    return int((torch.isin(held_out, seen) & ~torch.isin(held_out, own)).sum())


def check_leakage(
    teachers: Sequence[Teacher],
    splits: Splits,
    *,
    allow: bool,
    option: str = "distill.labels.allow_leakage",
) -> dict[str, int]:
    """How many held-out images each teacher has seen, by the teacher's id.

    Args:
        teachers: Those of the students.
        splits: The study's.
        allow: Whether to go on all the same.
        option: What the user has to set for that.

    Raises:
        StudyError: If any has seen one, unless that is allowed.
    """
    found = {teacher.id: count_leaked_images(teacher, splits) for teacher in teachers}
    for teacher in teachers:
        if found[teacher.id] and not allow:
            num_held_out = len(splits.search_val) + len(splits.test)
            raise StudyError(
                f"the teacher {teacher.description} was trained on {found[teacher.id]} of the "
                f"{num_held_out} images that judge its students, so their figures would mean "
                "nothing; train one on this study's own split, or set "
                f"{option}=true to go on, and the report will say so"
            )
    return found


def with_leaked_images(proxy_dataset: ProxyDataset, seen: Mapping[str, int]) -> ProxyDataset:
    """The set whose records say how many held-out images each teacher has seen.

    Of a teacher that is not among `seen`, as of a set that was made elsewhere, the record stays.
    """

    def marked(records: tuple[TeacherRecord, ...]) -> tuple[TeacherRecord, ...]:
        return tuple(
            replace(r, num_leaked_images=seen.get(r.id, r.num_leaked_images)) for r in records
        )

    labelling = proxy_dataset.labelling
    return replace(
        proxy_dataset,
        networks=marked(proxy_dataset.networks),
        labelling=replace(labelling, teachers=marked(labelling.teachers)),
    )


def num_of_imagenet(splits: Splits) -> int:
    """How many held-out images may be training images of ImageNet."""
    if splits.spec.name == "imagenette":
        # Its 3,925 test images are drawn from both of ImageNet's splits, which hold some 1,290 and
        # 50 images of each of its ten classes.
        return len(splits.search_val) + len(splits.test)
    if all(map(_WORDNET_ID.fullmatch, splits.spec.class_names)):
        return len(splits.search_val)  # the test images are taken for ImageNet's validation set
    return 0
