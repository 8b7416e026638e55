"""`attention`: the student looks where the teacher looks.

Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017: attention maps are the
channels' mean square, as vectors of length one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_proxy.knowledge_distillation._term import Term, TermInputs
from nas_proxy.knowledge_distillation.feature_maps import FeatureMap


class Attention(Term):
    """The squared difference of the attention maps, mean over pixels and images, sum over pairs.

    Args:
        pairs: Matched feature maps, the student's first. Where their sizes differ, the larger map
            is pooled to the smaller, height and width each.
    """

    def __init__(self, pairs: Sequence[tuple[FeatureMap, FeatureMap]]) -> None:
        super().__init__()
        self._pairs = tuple(pairs)
        self.student_maps = tuple(ours for ours, _ in pairs)
        self.teacher_maps = tuple(theirs for _, theirs in pairs)

    def forward(self, inputs: TermInputs) -> Tensor:
        """See the class."""
        (teacher,) = inputs.teachers
        return torch.stack(
            [
                attention_loss(inputs.student.record.maps[ours], teacher.record.maps[theirs])
                for ours, theirs in self._pairs
            ]
        ).sum()


def attention_loss(maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """The loss of one pair of feature maps.

    Args:
        maps: The student's, `(n, c, h, w)`.
        teacher_maps: `(n, any, any, any)`.
    """
    (height, width), (their_height, their_width) = maps.shape[2:], teacher_maps.shape[2:]
    size = (min(height, their_height), min(width, their_width))
    ours, theirs = (attention_map(F.adaptive_avg_pool2d(m, size)) for m in (maps, teacher_maps))
    return (ours - theirs).square().mean()


def attention_map(maps: Tensor) -> Tensor:
    """Where a feature map is large: `(n, c, h, w)` to `(n, h * w)`, rows of length one."""
    return F.normalize(maps.square().mean(dim=1).flatten(1), dim=1)
