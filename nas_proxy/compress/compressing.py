"""A trained network in, its smaller versions out: files, networks and a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nas_proxy.compress.settings import CompressSettings
from nas_proxy.train.objective import Objective
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import ImageDataset

ObjectiveFactory = Callable[[nn.Module], Objective]
"""From a student, on its device, to what its fine-tuning minimises."""


@dataclass(frozen=True)
class CompressionRow:
    """One line of the table; every figure is of the ONNX file.

    Attributes:
        name: `float32` for the network as it came, otherwise the variant's.
        val_accuracy: On the search-validation images, in [0, 1].
        num_parameters: Weights that are not zero by pruning or removed; int8 ones count alike.
        file_bytes: Size of the ONNX file.
        zipped_bytes: The same after zlib: the only size that zeros make smaller.
        latency_seconds: Median of one image, one CPU thread, ONNX Runtime.
        latency_low: 10th percentile of the same.
        latency_high: 90th percentile of the same.
        peak_memory_mib: What a process that loads the file and answers one image takes more than
            before it loaded it.
        class_agreement: Share of 100 search-validation images for which the file's class is that
            of the network in torch.
        largest_difference: Of a logit of the file from the one in torch on these images.
        train_seconds: Fine-tuning of all steps.
    """

    name: str
    val_accuracy: float
    num_parameters: int
    file_bytes: int
    zipped_bytes: int
    latency_seconds: float
    latency_low: float
    latency_high: float
    peak_memory_mib: float
    class_agreement: float
    largest_difference: float
    train_seconds: float

    def to_json(self) -> dict[str, Any]:
        """A JSON mapping with the attributes' names."""
        return dict(vars(self))


@dataclass(frozen=True, eq=False)
class CompressedModel:
    """One version of the network.

    Attributes:
        name: As in its row.
        network: In torch, in evaluation mode; of int8 it computes what the file does.
        runtime: The file in ONNX Runtime, one thread, in the shape of a network on the CPU: for
            `measure` on the test split.
        onnx: The file `<name>.onnx`; takes normalised float32 `images` `(n, c, h, w)`, any n, and
            gives `logits` `(n, num_classes)`.
        row: Its figures.
    """

    name: str
    network: nn.Module
    runtime: nn.Module
    onnx: Path
    row: CompressionRow


def compress(
    network: nn.Module,
    training_set: TrainingSet,
    search_val: ImageDataset,
    settings: CompressSettings,
    *,
    folder: Path,
    seed: int,
    make_objective: ObjectiveFactory | None = None,
) -> tuple[CompressedModel, ...]:
    """Make every variant of `settings`, and measure it beside the network as it came.

    Args:
        network: Trained; on the device of the images; it is not altered.
        training_set: What fine-tuning learns and calibration sees; never what is tested on.
        search_val: Measures accuracy.
        settings: With `fine_tuning` said: see `CompressSettings.after`.
        folder: Gets `<name>.onnx` for each version. States of trainings are kept here until all
            variants are done, so that a killed call continues when it is repeated.
        seed: Of batches and augmentation.
        make_objective: What fine-tuning minimises in variants with `distillation`.

    Returns:
        The network as it came under the name `float32`, then the variants in their order.

    Raises:
        CompressionError: If the network cannot be changed or exported so; the message says where.
        StudyError: If a saved state is damaged or belongs to other work.
    """
    raise NotImplementedError
