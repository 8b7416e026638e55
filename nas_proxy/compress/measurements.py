"""What a version of a network is worth and costs, measured on its ONNX file."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import torch
from torch import nn

from nas_proxy.compress import _probe as probe
from nas_proxy.compress._quantisation import QuantisedNetwork
from nas_proxy.compress.onnx_file import OnnxNetwork
from nas_proxy.errors import CompressionError
from nas_proxy.evaluate.latency import Latency, measure_calls
from nas_proxy.train.measuring import measure
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import ImageDataset

NUM_COMPARED = 100
"""Real images on which a file is held against the network in torch."""
NUM_REPEATS = 100
"""Answers that are timed."""

_FLOAT_TOLERANCE = 1e-3  # of the largest logit
_INT8_AGREEMENT = 0.95  # a number on the edge is rounded up here and down there

EXACT = TrainSettings(num_steps=1, precision="float32", channels_last=False)
"""With which `measure` reads an ONNX file; nothing is trained by it."""

logger = logging.getLogger("nas_proxy")


class FileFigures(TypedDict):
    """Figures of a file alone; see `CompressionRow`."""

    val_accuracy: float
    file_bytes: int
    zipped_bytes: int
    latency: Latency
    peak_memory_mib: float


class Agreement(TypedDict):
    """How far a file is from the network that it holds; see `CompressionRow`."""

    class_agreement: float
    largest_difference: float
    largest_logit: float


def measure_file(path: Path, runtime: OnnxNetwork, search_val: ImageDataset) -> FileFigures:
    """Accuracy, size, latency and memory of an ONNX file.

    Memory is measured in a process of its own, which does not import nas_proxy.

    Raises:
        CompressionError: If ONNX Runtime cannot run the file there.
    """
    content = path.read_bytes()
    dataset = _on_cpu(search_val)
    image = (dataset.images[:1].float() / 255).numpy()
    return {
        "val_accuracy": measure(runtime, dataset, EXACT).accuracy,
        "file_bytes": len(content),
        "zipped_bytes": len(zlib.compress(content, level=9)),
        "latency": measure_calls(
            lambda: runtime.answer(image), batch_size=1, num_repeats=NUM_REPEATS
        ),
        "peak_memory_mib": _peak_memory(path),
    }


def _peak_memory(path: Path) -> float:
    if not Path("/proc/self/status").is_file():
        raise CompressionError(
            f"{path.name} was written, but only Linux tells how much memory it takes; leave "
            "retrain.compress out here"
        )
    done = subprocess.run(
        [sys.executable, "-I", probe.__file__, str(path), str(NUM_REPEATS)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode != 0:
        raise CompressionError(
            f"{path.name} was written, but ONNX Runtime cannot run it: {done.stderr.strip()[-200:]}"
        )
    return float(done.stdout)


@torch.no_grad()
def compare(
    runtime: nn.Module, network: nn.Module, search_val: ImageDataset, name: str
) -> Agreement:
    """How far a file is from the network in torch.

    Rounding to int8 makes a large difference of a small one where a number lies on the edge, so
    int8 is held to its classes alone, and a warning says where less than 95 % are the same.

    Raises:
        CompressionError: If a float32 file differs by more than 1e-3 of the largest logit.
    """
    everything = TrainingSet.of(_on_cpu(search_val))
    images, _ = everything.batch(torch.arange(min(NUM_COMPARED, len(everything))))
    expected, found = network(images), runtime(images)
    difference = float((found - expected).abs().max())
    largest = float(expected.abs().max())
    agreement = float((found.argmax(dim=1) == expected.argmax(dim=1)).double().mean())
    is_int8 = isinstance(network, QuantisedNetwork)
    if not is_int8 and not difference <= _FLOAT_TOLERANCE * max(1.0, largest):
        raise CompressionError(
            f"the ONNX file of {name} does not answer as the network does: a logit differs by "
            f"{difference:.2g} on {len(images)} real images; leave the variant out"
        )
    if is_int8 and agreement < _INT8_AGREEMENT:
        logger.warning(
            "the int8 file of %s gives another class than its simulation in torch for %.0f %% of "
            "%d images; its figures are the file's own",
            name,
            100 * (1 - agreement),
            len(images),
        )
    return {
        "class_agreement": agreement,
        "largest_difference": difference,
        "largest_logit": largest,
    }


def _on_cpu(dataset: ImageDataset) -> ImageDataset:
    return replace(dataset, images=dataset.images.cpu(), labels=dataset.labels.cpu())
