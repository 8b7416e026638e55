"""Distilling with the teachers that it needs, in a study or without one."""

from __future__ import annotations

from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.distill.measured import distill_and_label
from nas_proxy.interfaces import Distiller, DistillTask
from nas_proxy.teachers.leakage import check_leakage, with_leaked_images
from nas_proxy.teachers.settings import LabelSettings
from nas_proxy.teachers.teacher import Teacher
from nas_proxy.teachers.training import obtain_teachers
from nas_proxy.train.teacher_settings import TeacherSettings
from nas_proxy.types import Splits


def distill_images(
    distiller: Distiller, labels: LabelSettings, splits: Splits, task: DistillTask
) -> tuple[ProxyDataset, list[Teacher]]:
    """Make and label a set, with what it cost and how many held-out images had a part in it.

    Teachers are checked before anything is distilled: hours would be lost on one that knows the
    answers.

    Args:
        distiller: The method.
        labels: Which its images get.
        splits: All images, to look for held-out ones among those that teachers have seen.
        task: What is to be made, of `splits.search_train` on the context's device.

    Returns:
        The set, and all networks that were trained for it.

    Raises:
        UserError: If something is wrong that the user can mend.
        DivergedError: If a training reached a loss that is not finite.
    """
    needed = needed_teachers(distiller, labels)
    teachers = obtain_teachers(needed, task.dataset, task.context)
    seen = check_leakage(teachers, splits, allow=labels.allow_leakage)
    return with_leaked_images(distill_and_label(distiller, task, labels), seen), teachers


def needed_teachers(distiller: Distiller, labels: LabelSettings) -> list[TeacherSettings]:
    """Those of the method and of the labels, each once."""
    needed = [*distiller.teachers, *(labels.teachers if labels.kind != "hard" else ())]
    return [each for index, each in enumerate(needed) if each not in needed[:index]]
