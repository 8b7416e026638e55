"""Networks as ONNX files, float32 or int8, and such files in the shape of a network."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript import opset18
from torch import Tensor, nn

from nas_proxy.core.files import write_atomically
from nas_proxy.errors import CompressionError, required
from nas_proxy.export.tracing import traced, why
from nas_proxy.types import DatasetSpec

op: Any = opset18  # its own types ask for tensors where these functions see their stand-ins
_FLOAT, _INT8 = onnx_ir.DataType.FLOAT.value, onnx_ir.DataType.INT8.value


class _OnColours(nn.Module):
    """A network with its normalisation, so that users of the file need no mean and deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, spec: DatasetSpec) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)  # type: ignore[no-any-return]


class OnnxNetwork(nn.Module):
    """An ONNX file in the shape of a network: ONNX Runtime on one thread of the CPU.

    Args:
        path: As `write_onnx` leaves it.
        spec: Of the images it was trained on.
    """

    def __init__(self, path: Path, spec: DatasetSpec) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._mean = torch.tensor(spec.mean).view(1, -1, 1, 1)
        self._std = torch.tensor(spec.std).view(1, -1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images on the CPU, `(n, c, h, w)`, to logits `(n, num_classes)`."""
        return torch.from_numpy(self.answer((images * self._std + self._mean).numpy()))

    def answer(self, colours: Any) -> Any:
        """Images in [0, 1], a float32 array `(n, c, h, w)`, to logits, one `(n, num_classes)`."""
        return self._session.run(["logits"], {"images": colours})[0]


def write_onnx(network: nn.Module, spec: DatasetSpec, path: Path) -> None:
    """Write a network as an ONNX file, atomically.

    Its input `images` is float32 in [0, 1], `(n, c, h, w)` with any n; its output is `logits`.
    int8 weights are stored as int8, with QuantizeLinear and DequantizeLinear around the operators,
    which runtimes turn into integer kernels.

    Args:
        network: On the CPU, in evaluation mode; maps normalised images to logits.
        spec: Of these images.
        path: The file.

    Raises:
        CompressionError: If an operator has no ONNX form; the message has the exporter's reason.
        OSError: If the folder cannot be written or the disk is full.
    """
    images = torch.zeros(2, *spec.image_shape)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                traced(_OnColours(network, spec), images),
                input_names=["images"],
                output_names=["logits"],
                custom_translation_table=_translations(),
                verbose=False,
            )
    except Exception as error:
        raise CompressionError(
            f"the network cannot be written as ONNX ({why(error)}); take the variant out"
        ) from error
    exported = required(exported, "the exported program")
    # What each node was in torch, with its line of source: more bytes than a small network has.
    ClearMetadataAndDocStringPass()(exported.model)
    write_atomically(path, exported.model_proto.SerializeToString())


def _translations() -> dict[Any, Any]:
    """Rounding of torch, in ONNX's words; its exporter knows none of it."""
    known = torch.ops.quantized_decomposed
    return {
        known.quantize_per_tensor.default: _quantise,
        known.dequantize_per_tensor.default: _dequantise,
        known.dequantize_per_channel.default: _dequantise_channels,
    }


def _quantise(x, scale: float, zero_point: int, quant_min: int, quant_max: int, dtype):  # type: ignore[no-untyped-def]
    """One scale for the tensor, uint8."""
    return op.QuantizeLinear(x, *_constants(scale, zero_point))


def _dequantise(  # type: ignore[no-untyped-def]
    x, scale: float, zero_point: int, quant_min: int, quant_max: int, dtype, out_dtype=None
):
    """One scale for the tensor, uint8."""
    return op.DequantizeLinear(x, *_constants(scale, zero_point))


def _dequantise_channels(  # type: ignore[no-untyped-def]
    x, scales, zero_points, axis: int, quant_min: int, quant_max: int, dtype, out_dtype=None
):
    """One scale for each output channel, int8."""
    return op.DequantizeLinear(
        x, op.Cast(scales, to=_FLOAT), op.Cast(zero_points, to=_INT8), axis=axis
    )


def _constants(scale: float, zero_point: int) -> tuple[object, object]:
    return (
        op.Constant(value=onnx_ir.tensor(np.float32(scale))),
        op.Constant(value=onnx_ir.tensor(np.uint8(zero_point))),
    )
