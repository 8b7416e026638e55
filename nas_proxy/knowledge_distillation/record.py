"""What a result says of the knowledge distillation that its networks learned by."""

from __future__ import annotations

from dataclasses import dataclass

from nas_proxy.data.proxy_dataset import TeacherRecord
from nas_proxy.knowledge_distillation.tuning import TuningRecord


@dataclass(frozen=True)
class DistillationRecord:
    """What networks learned beside the labels, and from whom.

    Attributes:
        terms: Titles of the terms.
        teachers: Whose answers they learn.
        num_leaked_images: How many of the images that judge the networks each source has seen.
        num_unlabelled: Images without labels that they learn from.
        teaching_seconds: What the teachers cost, of one process.
        auto: How what was `auto` was chosen; None if nothing was.
    """

    terms: tuple[str, ...]
    teachers: tuple[TeacherRecord, ...]
    num_leaked_images: tuple[int, ...]
    num_unlabelled: int
    teaching_seconds: float
    auto: TuningRecord | None = None
