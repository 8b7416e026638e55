"""What a compressed network learns from the network that it comes from."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import nn

from nas_proxy.knowledge_distillation.objective import make_objective
from nas_proxy.knowledge_distillation.settings import KnowledgeDistillationSettings, TermSettings
from nas_proxy.knowledge_distillation.teachers import Generation, Teachers
from nas_proxy.reproducibility import make_generator
from nas_proxy.train.objective import Objective
from nas_proxy.train.phases import Phase
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet

TEMPERATURE, WEIGHT = 4.0, 0.9  # of the soft labels (Hinton et al. 2015)
_FROM_ITSELF = KnowledgeDistillationSettings(
    terms=(
        TermSettings(kind="self", variant="generations", temperature=TEMPERATURE, weight=WEIGHT),
    )
)


@dataclass(frozen=True)
class DistilFromItself:
    """Makes the objective of a compressed network: labels, and the answer of the whole network.

    Attributes:
        network: As it was before compressing.
        training_set: What the compressed one is fine-tuned on.
    """

    network: nn.Module
    training_set: TrainingSet

    def __call__(
        self, student: nn.Module, settings: TrainSettings
    ) -> AbstractContextManager[Objective]:
        """Of one fine-tuning; see `compress`."""
        spec = self.training_set.spec
        earlier = Generation(copy.deepcopy(self.network), spec.class_names, spec.image_shape)
        return make_objective(
            _FROM_ITSELF,
            student,
            Teachers(earlier=earlier),
            self.training_set,
            (Phase("fine-tuning", settings),),
            make_generator(0),
        )
