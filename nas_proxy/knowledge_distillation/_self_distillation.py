"""`self`: a network without another teacher.

Its earlier generation: Furlanello et al., "Born Again Neural Networks", ICML 2018. Its own deeper
part: Zhang et al., "Be Your Own Teacher", ICCV 2019.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_proxy.errors import ConfigError
from nas_proxy.knowledge_distillation._term import Term, TermInputs, divergence, labels_loss
from nas_proxy.knowledge_distillation.feature_maps import FeatureLayout, FeatureMap


class Exits(Term):
    """Shallow maps answer too, learn from labels and the last answer, and imitate the last map.

    The exits are trained along and used by nobody afterwards. For each: `soft_share` times the
    divergence from the network's softened answer, the rest times the labels' loss, and
    `feature_weight` times the distance of the batch's pooled features from those of the last map.
    What teaches gets no gradient. As the authors do it, there is no square of the temperature, and
    the distance is of the whole batch.

    Args:
        layout: Of the student's feature maps.
        num_classes: Answers of an exit.
        temperature: Divides the logits of exits and network.
        soft_share: The paper's alpha.
        feature_weight: The paper's lambda.
        partly_labelled: Whether there are images without a label.

    Raises:
        ConfigError: If the student has feature maps of fewer than two resolutions.
    """

    def __init__(
        self,
        layout: FeatureLayout,
        num_classes: int,
        *,
        temperature: float,
        soft_share: float,
        feature_weight: float,
        partly_labelled: bool = False,
    ) -> None:
        super().__init__()
        if len(layout.feature_maps) < 2:
            raise ConfigError(
                f"self (exits) needs feature maps of two resolutions or more, but those of "
                f"{layout.name} are: {layout.listed}; choose self (generations), or another kind"
            )
        self.student_maps = layout.feature_maps
        last = layout.feature_maps[-1]
        self.exits = nn.ModuleList(_Exit(s, last, num_classes) for s in layout.feature_maps[:-1])
        self._temperature = temperature
        self._soft_share = soft_share
        self._feature_weight = feature_weight
        self._partly_labelled = partly_labelled

    def forward(self, inputs: TermInputs) -> Tensor:
        """See the class."""
        maps = inputs.student.record.maps
        *shallow, last = (maps[feature_map] for feature_map in self.student_maps)
        goal = last.mean(dim=(2, 3)).detach()
        said = (inputs.student.logits.detach() / self._temperature).softmax(dim=1)
        losses = [
            self._loss(exit_(each), said, goal, inputs)
            for exit_, each in zip(self.exits, shallow, strict=True)
        ]
        return torch.stack(losses).sum()

    def _loss(
        self, answer: tuple[Tensor, Tensor], said: Tensor, goal: Tensor, inputs: TermInputs
    ) -> Tensor:
        features, logits = answer
        batch = replace(inputs.batch, logits=logits)
        hard = labels_loss(batch, partly_labelled=self._partly_labelled)
        soft = divergence(logits, said, self._temperature)
        share = self._soft_share
        distance = torch.dist(features, goal)
        return share * soft + (1 - share) * hard + self._feature_weight * distance


class _Exit(nn.Module):
    """From a shallow feature map to features like those of the last one, and to logits."""

    def __init__(self, feature_map: FeatureMap, last: FeatureMap, num_classes: int) -> None:
        super().__init__()
        self._size = last.shape[1:]
        self.bottleneck = nn.Sequential(
            nn.Conv2d(feature_map.shape[0], last.shape[0], 1, bias=False),
            nn.BatchNorm2d(last.shape[0]),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(last.shape[0], num_classes)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """`(n, c, h, w)` to features `(n, d)` and logits `(n, num_classes)`."""
        features = self.bottleneck(F.adaptive_avg_pool2d(maps, self._size)).mean(dim=(2, 3))
        return features, self.classifier(features)
