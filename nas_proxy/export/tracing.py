"""Networks as torch.export's programs for batches of any size, and why one cannot be exported."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

_LOGGER = logging.getLogger("torch.fx.experimental.symbolic_shapes")
_ADVICE = re.compile(r"\s*For more information, run with TORCH_LOGS.*")


def traced(network: nn.Module, images: Tensor) -> ExportedProgram:
    """Trace a network with the first two images: torch takes a batch of one for a constant.

    Args:
        network: On the CPU, in evaluation mode.
        images: What it takes, float32 `(n, c, h, w)`; n >= 2.

    Raises:
        Exception: Whatever torch raises; `why` says it in words.
    """
    with _quietly():
        return torch.export.export(network, (images[:2],), dynamic_shapes=({0: Dim("batch")},))


def why(error: BaseException) -> str:
    """Why a network cannot be exported, on one line: its innermost cause, in words."""
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    text = str(error).strip() or "no message"
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", text)
    if operator:
        return f"the operator {operator[1]} has no form there"
    if "specialized it to be a constant" in text:
        return (
            "its forward takes the number of images for a constant, as with len(images); write "
            "images.shape[0]"
        )
    if "data-dependent" in text:
        return "its forward decides by the values of a tensor (data-dependent control flow)"
    return f"{type(error).__name__}: {_ADVICE.sub('', text.splitlines()[0])[:200]}"


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch prints of a network that it cannot trace: warnings, and its operators."""
    level = _LOGGER.level
    _LOGGER.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        _LOGGER.setLevel(level)
