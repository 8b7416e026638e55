"""The configuration section `retrain`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nas_proxy.compress.settings import CompressSettings
from nas_proxy.export.programs import ProgramFormat, installed_formats
from nas_proxy.knowledge_distillation.settings import KnowledgeDistillationOption
from nas_proxy.options import Options, PositiveInt
from nas_proxy.search.pareto import Pick
from nas_proxy.train.settings import TrainSettings

Comparison = Literal["median", "resnet18"]


@dataclass(frozen=True, kw_only=True)
class RetrainSettings(Options):
    """How what the search found is trained for use.

    Attributes:
        train: The full recipe, on all search-training images.
        num_architectures: How many of the best are trained, by score; 1 unless `pick` is given.
        pick: Who of the Pareto front of a search with several objectives is trained: `knee`, which
            gives up least of everything; `all`; `max_accuracy`, the highest score. None: the
            best by score.
        num_seeds: Trainings of each. The one that the search-validation images like best is
            exported, the mean over all is reported.
        knowledge_distillation: What all of these networks learn beside the labels; None: nothing.
        comparisons: What is trained in the same way to compare with. `median`: the architecture of
            median score among the uniformly drawn ones of the validation, or among the search's
            trials where nothing was validated. `resnet18`: ResNet-18 with batch norm, of the
            width that brings it closest to as many parameters as the search's first has.
        formats: Programs that are written beside the weights; `onnx` needs the extra `export`, and
            is written by default where that is installed.
        compress: Smaller versions of the recommended network; None: none.
    """

    train: TrainSettings
    num_architectures: PositiveInt | None = None
    pick: Pick | None = None
    num_seeds: PositiveInt = 3
    knowledge_distillation: KnowledgeDistillationOption | None = None
    comparisons: tuple[Comparison, ...] = ("median", "resnet18")
    formats: tuple[ProgramFormat, ...] = field(default_factory=installed_formats)
    compress: CompressSettings | None = None

    def __post_init__(self) -> None:
        """Refuse what is said twice."""
        if self.pick is not None and self.num_architectures is not None:
            raise ValueError(
                f"pick: {self.pick} and num_architectures: {self.num_architectures} both say what "
                "is retrained; give one of them"
            )
        if self.train.num_seeds != 1:
            raise ValueError(
                f"train.num_seeds is {self.train.num_seeds}, but each training is one model here; "
                "leave it out and set retrain.num_seeds"
            )
        for name in ("comparisons", "formats"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names one twice: {', '.join(values)}")
