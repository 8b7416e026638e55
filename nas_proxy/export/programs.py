"""Programs that need neither nas_proxy nor the search space: ONNX, and torch.export's own.

Both take colour values, as `DeployedModel` does, in batches of any size, and are loaded again and
compared with the network on real images before they are written.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from nas_proxy.core.extras import is_installed, missing_words
from nas_proxy.errors import ExportError, required
from nas_proxy.export.model_file import DeployedModel
from nas_proxy.export.tracing import traced, why

ProgramFormat = Literal["onnx", "torch_export"]

TOLERANCE = 1e-4
"""Largest difference of a logit from the network's that an exported program may have, as a share
of the largest logit's magnitude, which counts as one at least."""


def onnx_program(model: DeployedModel, images: Tensor) -> tuple[bytes, float]:
    """The model as an ONNX file, which has been run in ONNX Runtime.

    Args:
        model: On the CPU.
        images: Real ones on which both have to agree, float32 in [0, 1], `(n, c, h, w)`; n >= 2.

    Returns:
        The file's content, and the largest difference of a logit on `images`.

    Raises:
        ExportError: If an operator has no ONNX form, the program answers otherwise, or the extra
            `export` is not installed.
    """
    if not is_installed("export"):
        raise ExportError(missing_words("export"))
    import onnxruntime

    with _quietly("ONNX"):
        program = torch.onnx.export(
            traced(model.eval(), images),
            input_names=["images"],
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        content: bytes = required(program, "the exported program").model_proto.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return content, largest_difference(run, model, images)


def torch_program(model: DeployedModel, images: Tensor) -> tuple[bytes, float]:
    """The model as a file for `torch.export.load`; otherwise as `onnx_program`.

    Raises:
        ExportError: If the network cannot be traced, or the program answers otherwise.
    """
    buffer = io.BytesIO()
    with _quietly("torch.export"):
        torch.export.save(traced(model.eval(), images), buffer)
        buffer.seek(0)
        program = torch.export.load(buffer).module()
    return buffer.getvalue(), largest_difference(program, model, images)


PROGRAMS: dict[ProgramFormat, tuple[str, Callable[[DeployedModel, Tensor], tuple[bytes, float]]]]
PROGRAMS = {
    "onnx": ("model.onnx", onnx_program),
    "torch_export": ("model.pt2", torch_program),
}
"""File name and maker of each format."""


def installed_formats() -> tuple[ProgramFormat, ...]:
    """Those that can be written here: `onnx` needs the extra `export`."""
    return tuple(name for name in PROGRAMS if name != "onnx" or is_installed("export"))


@torch.no_grad()
def largest_difference(
    program: Callable[[Tensor], Tensor], model: DeployedModel, images: Tensor
) -> float:
    """How far a logit of what was exported is from the model's, at most.

    Raises:
        ExportError: If it is farther than `TOLERANCE` allows.
    """
    expected = model(images)
    difference = float((program(images) - expected).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise ExportError(
            "what was exported does not answer as the network does: a logit differs by "
            f"{difference:.2g} on {len(images)} real images, where {allowed:.2g} is allowed"
        )
    return difference


@contextmanager
def _quietly(target: str) -> Iterator[None]:
    """Turn whatever an exporter raises into one sentence, and keep its advice to itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        raise ExportError(f"it cannot be exported to {target}: {why(error)}") from error
