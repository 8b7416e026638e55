"""One trained network as a folder of files."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_proxy.core.files import write_atomically
from nas_proxy.errors import ExportError
from nas_proxy.export.model_file import DeployedModel, ModelOrigin, load_model, save_model
from nas_proxy.export.programs import PROGRAMS, ProgramFormat, largest_difference

MODEL_FILE = "model.safetensors"
ARCHITECTURE_FILE = "architecture.json"
NUM_CHECKED = 100
"""Real images on which every written file has to agree with the network."""

logger = logging.getLogger("nas_proxy")


@dataclass(frozen=True)
class ExportedFile:
    """One file of a model, or the reason why it is missing.

    Attributes:
        name: Such as `model.onnx`.
        largest_difference: Of a logit from the network's, on `num_images` real images; None if
            the file is missing.
        num_images: How many were compared.
        reason: Why it is missing; empty if it is there.
    """

    name: str
    largest_difference: float | None
    num_images: int
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON values with the attributes' names."""
        return asdict(self)


def export_model(
    network: nn.Module,
    origin: ModelOrigin,
    images: Tensor,
    folder: Path,
    formats: Sequence[ProgramFormat] = tuple(PROGRAMS),
) -> tuple[ExportedFile, ...]:
    """Write a trained network as `model.safetensors`, `architecture.json` and the asked programs.

    Each file is loaded again and has to agree with the network before it counts. A format that
    cannot hold the network is left out and said; an older file of that name is removed.

    Args:
        network: Maps normalised images to logits; left as it is, wherever it is.
        origin: What it was built from.
        images: Real ones to compare on, uint8 `(n, c, h, w)`, n >= 2; 100 of them are looked at.
        folder: Where the files go.
        formats: The programs to write.

    Returns:
        The model's file first, then one entry for each format.

    Raises:
        ExportError: If what is read back answers otherwise: it keeps a part of itself elsewhere
            than in its parameters and buffers.
        OSError: If the folder cannot be written or the disk is full.
    """
    plain = copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format)
    model = DeployedModel(plain.requires_grad_(False), origin)
    colours = images[:NUM_CHECKED].cpu().float() / 255
    save_model(model, folder / MODEL_FILE)
    difference = largest_difference(load_model(folder / MODEL_FILE), model, colours)
    described = {"id": origin.architecture.id, **origin.to_json()}
    write_atomically(folder / ARCHITECTURE_FILE, json.dumps(described, indent=1))
    written = [ExportedFile(MODEL_FILE, difference, len(colours))]
    written += [_export_program(model, colours, folder, name) for name in formats]
    return tuple(written)


def _export_program(
    model: DeployedModel, colours: Tensor, folder: Path, name: ProgramFormat
) -> ExportedFile:
    file_name, make = PROGRAMS[name]
    (folder / file_name).unlink(missing_ok=True)
    try:
        content, difference = make(model, colours)
    except ExportError as error:
        logger.warning("%s is missing from %s: %s", file_name, folder, error)
        return ExportedFile(file_name, None, 0, str(error))
    write_atomically(folder / file_name, content)
    return ExportedFile(file_name, difference, len(colours))
