"""What an accuracy must be read against where classes differ in size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas_proxy.statistics.accuracy import SeedMean, over_seeds
from nas_proxy.statistics.intervals import wilson

UNEVEN = 1.5
"""From this ratio of the largest class to the smallest on, base rates are said."""


@dataclass(frozen=True)
class BaseRate:
    """Beside the test accuracy of a network, on images whose classes differ in size.

    Attributes:
        largest_class: Name of the class with the most test images.
        majority_share: Its share: the accuracy of always answering it.
        balanced_accuracy: Mean recall over the classes that have test images, over seeds.
        is_beaten: Whether the 95 % interval of the accuracy lies above that share: Student's over
            seeds, Wilson's over images where the seeds are too few or too alike for one.
    """

    largest_class: str
    majority_share: float
    balanced_accuracy: float
    is_beaten: bool

    @property
    def words(self) -> str:
        """One sentence, to stand beside the accuracy."""
        outcome = "" if self.is_beaten else ", and the network is not shown to beat that"
        return (
            f"Always answering {self.largest_class} reaches {100 * self.majority_share:.1f} %"
            f"{outcome}; its balanced accuracy (mean over classes) is "
            f"{100 * self.balanced_accuracy:.1f} %."
        )


def is_uneven(class_sizes: Sequence[int]) -> bool:
    """Whether the largest class has at least `UNEVEN` times the images of the smallest."""
    return max(class_sizes) >= UNEVEN * min(class_sizes) and max(class_sizes) > min(class_sizes)


def majority_words(class_sizes: Sequence[int], class_names: Sequence[str]) -> str:
    """What always answering the largest class reaches, a sentence; empty for alike classes.

    Args:
        class_sizes: Images that accuracies are measured on.
        class_names: In the same order.
    """
    if not class_sizes or not is_uneven(class_sizes):
        return ""
    largest = max(range(len(class_sizes)), key=class_sizes.__getitem__)
    share = class_sizes[largest] / sum(class_sizes)
    return f"Always answering {class_names[largest]} reaches {100 * share:.1f} %."


def base_rate(
    confusions: Sequence[Sequence[Sequence[int]]], class_names: Sequence[str]
) -> BaseRate | None:
    """What stands beside the accuracy of trainings with several seeds.

    Args:
        confusions: Of each training; entry `[i][j]` counts images of class i taken for class j.
        class_names: In the order of the classes.

    Returns:
        None where classes are of about the same size.
    """
    matrices = np.array(confusions)  # (seeds, num_classes, num_classes)
    if matrices.ndim != 3 or not is_uneven(matrices[0].sum(axis=1).tolist()):
        return None
    sizes = matrices[0].sum(axis=1)
    correct = matrices.diagonal(axis1=1, axis2=2)
    recalls = (correct / np.maximum(sizes, 1))[:, sizes > 0]
    share = float(sizes.max() / sizes.sum())
    hits = correct.sum(axis=1)
    low = over_seeds(SeedMean.of((hits / sizes.sum()).tolist())).low
    if low is None:
        low = wilson(int(hits.mean()), int(sizes.sum()))[0]
    largest = class_names[int(sizes.argmax())]
    return BaseRate(largest, share, float(recalls.mean()), is_beaten=bool(low > share))
