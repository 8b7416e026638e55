"""What a score without training implements."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from nas_proxy.options import Options
from nas_proxy.plugin_calls import GuardedCalls


@dataclass(frozen=True, kw_only=True)
class ZeroCostScore(GuardedCalls, Options, ABC, role="score"):
    """A number that ranks an untrained network in seconds: one signal.

    Attributes:
        name: The registered name, which is also the signal's.
        higher_is_better: The direction in which good architectures are found.
        summary: One line for `nas-proxy list`.
        paper: What it implements; empty when it is folklore.
        implement_one_of: Methods of which a score implements at least one.

    >>> import torch
    >>> from nas_proxy.registry import SCORES
    >>> score = SCORES.get("num_params")()
    >>> score.measure(nn.Linear(3, 4), torch.zeros(1, 3))
    16.0
    """

    implement_one_of: ClassVar[tuple[str, ...]] = ("measure", "measure_labelled")

    name: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""

    def measure(self, network: nn.Module, images: Tensor) -> float:
        """Score a freshly initialised network, which may be altered: nobody uses it afterwards.

        Torch's global generator is seeded by the caller and may be drawn from.

        Args:
            network: At the search space's full size, on the device of `images`.
            images: Normalised images, `(n, c, h, w)`.

        Raises:
            EvaluationError: If the score is not defined for this network, with the reason.
        """
        raise NotImplementedError(f"{type(self).__name__} implements measure_labelled alone")

    def measure_labelled(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        """The same for a score that looks at the classes too, int64 `(n,)`; this is what is called.

        Implement this one or `measure`; by default the labels are left aside.
        """
        return self.measure(network, images)
