"""What smaller versions of a network are worth and cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas_proxy.core.results import StoredResult
from nas_proxy.evaluate.latency import Latency
from nas_proxy.statistics.ranks import Estimate


@dataclass(frozen=True)
class CompressionRow:
    """One line of the table; every figure is of the ONNX file.

    Attributes:
        name: `float32` for the network as it came, otherwise the variant's.
        val_accuracy: On the search-validation images, in [0, 1].
        num_parameters: Parameters that are not zero; int8 ones count alike, and norms count as
            before they were folded.
        file_bytes: Size of the file.
        zipped_bytes: The same after zlib: the only size that zeros make smaller.
        latency: Of one image on one CPU thread in ONNX Runtime.
        peak_memory_mib: By how much a process grows at most that loads the file and answers single
            images; what it had before (Python, numpy, the runtime's code) is taken off.
        class_agreement: Share of 100 search-validation images (all, if there are fewer) whose
            class by the file is that by the network in torch.
        largest_difference: Of a logit of the file from the one in torch, on the same images.
        largest_logit: The largest magnitude of a logit in torch there, to compare with.
        train_seconds: Fine-tuning, all steps together.
        paid_seconds: The part of it that no version before this one had paid for already.
    """

    name: str
    val_accuracy: float
    num_parameters: int
    file_bytes: int
    zipped_bytes: int
    latency: Latency
    peak_memory_mib: float
    class_agreement: float
    largest_difference: float
    largest_logit: float
    train_seconds: float
    paid_seconds: float


@dataclass(frozen=True, kw_only=True)
class CompressedVersion(CompressionRow):
    """A version that stays, with what the test images say of it.

    Attributes:
        test_accuracy: With Wilson's interval over images; they are met once.
        file: The ONNX file, from the folder of all versions.
    """

    test_accuracy: Estimate
    file: str


@dataclass(frozen=True)
class CompressionResult(StoredResult):
    """All versions of one network, as `compressed.json` holds them.

    Attributes:
        versions: Those that could be made.
        reason: Why any are missing; empty if none is.
    """

    FORMAT: ClassVar[int] = 1

    versions: tuple[CompressedVersion, ...]
    reason: str = ""
