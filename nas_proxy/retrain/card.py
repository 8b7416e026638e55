"""The card that goes with a model: what it is, how good, and under which terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nas_proxy.evaluate.latency import Latency
from nas_proxy.export.folder import ExportedFile
from nas_proxy.export.model_file import ModelOrigin
from nas_proxy.knowledge_distillation.record import DistillationRecord
from nas_proxy.statistics.accuracy import SeedMean, percent
from nas_proxy.statistics.base_rate import BaseRate
from nas_proxy.statistics.ranks import Estimate


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a user of a model has to know.

    Attributes:
        study_name: The study that found it.
        description: The architecture in words.
        origin: The architecture and the images it was trained on.
        test_accuracy: Of this very network, with Wilson's interval over test images.
        num_test_images: How many there are.
        over_seeds: Test accuracy of the architecture's trainings with several seeds.
        over_seeds_interval: Their mean with Student's interval.
        val_accuracy: Of this very network on the search-validation images, which chose it.
        num_params: Parameters.
        flops: For one image; a multiply-add is two. None if they cannot be counted.
        latencies: Of one image, on each kind of hardware that it was measured on.
        licences: Terms of what it was made from, by name.
        recipe: How it was trained.
        train_seconds: Wall-clock seconds of its training.
        hardware: On what.
        files: What was written, and what is missing.
        created: When.
        versions: Of the libraries.
        knowledge_distillation: What it learned beside the labels, as the report has it; None:
            nothing.
        base_rate: What `over_seeds` must be read against; None where classes are alike in size.
    """

    study_name: str
    description: str
    origin: ModelOrigin
    test_accuracy: Estimate
    num_test_images: int
    over_seeds: SeedMean
    over_seeds_interval: Estimate
    val_accuracy: float
    num_params: int
    flops: int | None
    latencies: Sequence[Latency]
    licences: Mapping[str, str]
    recipe: Mapping[str, Any]
    train_seconds: float
    hardware: str
    files: Sequence[ExportedFile]
    created: str
    versions: Mapping[str, str]
    knowledge_distillation: DistillationRecord | None = None
    base_rate: BaseRate | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values with the attributes' names."""
        return {
            **{name: value for name, value in vars(self).items() if name not in _STRUCTURED},
            "origin": self.origin.to_json(),
            "test_accuracy": asdict(self.test_accuracy),
            "over_seeds": asdict(self.over_seeds),
            "over_seeds_interval": asdict(self.over_seeds_interval),
            "latencies": [each.to_json() for each in self.latencies],
            "files": [file.to_json() for file in self.files],
            "knowledge_distillation": None
            if self.knowledge_distillation is None
            else asdict(self.knowledge_distillation),
            "base_rate": None if self.base_rate is None else asdict(self.base_rate),
        }

    def to_markdown(self) -> str:
        """The card as a page."""
        spec = self.origin.spec
        channels, height, width = spec.image_shape
        rows = {
            "Architecture": f"{self.description} (search space {self.origin.architecture.space})",
            "Test accuracy": f"{percent(self.test_accuracy)} on {self.num_test_images:,} images of "
            f"{spec.name} (95 % interval over images)",
            **({} if self.base_rate is None else {"Read against": self.base_rate.words}),
            "All its trainings": self._seeds(),
            "Search-validation accuracy": f"{100 * self.val_accuracy:.1f} %; these images chose "
            "what is exported, so it flatters",
            **self._knowledge_distillation(),
            "Parameters": f"{self.num_params:,}",
            "FLOPs": "not known" if self.flops is None else f"{self.flops:,} for one image",
            **{f"Latency on {each.device}": _latency(each) for each in self.latencies},
            "Input": f"float32 images in [0, 1], `(n, {channels}, {height}, {width})`; the "
            "normalisation is part of the model",
            "Output": f"logits `(n, {spec.num_classes})`",
            "Classes": ", ".join(spec.class_names),
            **{f"Licence of {name}": text for name, text in self.licences.items()},
            "Trained": f"{self.train_seconds:,.0f} s on {self.hardware}, {self.created[:10]}",
            "Study": self.study_name,
        }
        listed = "\n".join(f"- **{name}:** {text}" for name, text in rows.items())
        return f"# {self.description}\n\n{listed}\n\n## Files\n\n{self._file_list()}\n"

    def _seeds(self) -> str:
        values = ", ".join(f"{100 * value:.1f}" for value in self.over_seeds.values)
        if self.over_seeds.standard_error is None:
            return "none: the accuracy of another seed is not known"
        error = f"± {100 * self.over_seeds.standard_error:.1f} (standard error)"
        return (
            f"{percent(self.over_seeds_interval)} over {len(self.over_seeds.values)} seeds "
            f"{error}: {values}"
        )

    def _knowledge_distillation(self) -> dict[str, str]:
        """What it learned beside the labels, and what that says of its accuracy."""
        if self.knowledge_distillation is None:
            return {}
        taught = ", ".join(self.knowledge_distillation.terms)
        teachers = [each.description for each in self.knowledge_distillation.teachers]
        rows = {"Distillation": f"{taught}, from {'; '.join(teachers)}" if teachers else taught}
        seen = sum(self.knowledge_distillation.num_leaked_images)
        if seen:
            rows["Warning"] = (
                f"its teachers or its unlabelled images have seen {seen} of the images that judge "
                "it: the accuracies above mean nothing"
            )
        return rows

    def _file_list(self) -> str:
        return "\n".join(f"- `{file.name}`: {_agreement(file)}" for file in self.files)


_STRUCTURED = (
    "origin", "test_accuracy", "over_seeds", "over_seeds_interval", "latencies", "files",
    "knowledge_distillation", "base_rate",
)  # fmt: skip


def _latency(found: Latency) -> str:
    images = "one image" if found.batch_size == 1 else f"{found.batch_size} images"
    return f"{found} (median and quartiles) for {images}, {found.num_threads} thread"


def _agreement(file: ExportedFile) -> str:
    if file.largest_difference is None:
        return f"missing: {file.reason}"
    if not file.largest_difference:
        return f"gives the network's own logits on {file.num_images} real images"
    return (
        f"gives the network's logits on {file.num_images} real images, to within "
        f"{file.largest_difference:.1g}"
    )
