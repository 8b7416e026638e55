"""Reading tensors from files of strangers, without running what the files bring along.

Pickles are read by torch's restricted unpickler. Beside tensors and plain values it accepts the
numbers of numpy, which the condensation literature keeps in the same file; these are rebuilt here,
without numpy's own functions. Whatever else a file asks for is refused and never called.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from nas_proxy.errors import ProxyFileError


def load_safely(path: Path) -> Any:
    """The tensors and plain values of a file.

    Raises:
        ProxyFileError: If it is missing, damaged, of an unknown kind, or would run code.
        PermissionError: If it may not be read.
    """
    if not path.is_file():
        raise ProxyFileError(f"{path} does not exist or is not a file")
    if path.suffix not in _LOADERS:
        raise ProxyFileError(
            f"{path} is of no kind that can be read ({', '.join(_LOADERS)}); KIP's and FRePo's "
            ".npz hold targets of a regression, which are no labels"
        )
    try:
        return _LOADERS[path.suffix](path)
    except PermissionError:
        raise
    except Exception as error:  # noqa: BLE001 - damaged and hostile files raise anything
        if isinstance(error, ProxyFileError):
            raise
        code = code_in(error)
        if code:
            raise ProxyFileError(
                f"{path} would run {code} while it is read, which images and labels do not "
                "need; it was not opened further"
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        raise ProxyFileError(f"{path} is truncated or damaged ({reason}); copy it again") from error


def code_in(error: Exception) -> str:
    """What a pickle asked torch's restricted unpickler to run; empty if that was not the fault."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return found[1] if found else ""


class _NumberType:
    """Stands for `numpy.dtype` while a number of numpy is read."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not re.fullmatch(r"[bif][1248]|u[1248]", code):
            raise UnpicklingError(f"numpy's type {code!r} is not a number's")
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = "=" if state[1] == "|" else state[1]


def _number(kind: object, content: object) -> float | int | bool:
    """Stands for numpy's `scalar`, which could do more than read a number."""
    if not isinstance(kind, _NumberType) or not isinstance(content, bytes):
        raise UnpicklingError("a number of numpy is damaged")
    number: float | int | bool = np.frombuffer(content, np.dtype(kind.order + kind.code))[0].item()
    return number


# By the names that numpy 1 and numpy 2 give them.
_STAND_INS: list[Any] = [
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]


def _load_torch(path: Path) -> Any:
    with torch.serialization.safe_globals(_STAND_INS):
        return torch.load(path, map_location="cpu", weights_only=True)


def _load_numpy(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path, allow_pickle=False))


def _load_safetensors(path: Path) -> Tensor:
    tensors = load_file(path)
    if len(tensors) != 1:
        raise ProxyFileError(
            f"{path} holds {len(tensors)} tensors instead of one; a proxy data set of this "
            "program needs no import"
        )
    return next(iter(tensors.values()))


_LOADERS: dict[str, Callable[[Path], Any]] = {
    **dict.fromkeys((".pt", ".pth", ".tar"), _load_torch),
    ".npy": _load_numpy,
    ".safetensors": _load_safetensors,
}


def plain_tensor(value: Any, path: Path) -> Tensor:
    """A tensor with numbers in it, free of gradients.

    Raises:
        ProxyFileError: If it is something else.
    """
    if not isinstance(value, Tensor):
        raise ProxyFileError(f"{path} holds a {type(value).__name__} where a tensor is expected")
    is_plain = value.layout == torch.strided and value.device.type == "cpu"
    if not is_plain or value.is_quantized or value.is_complex():
        raise ProxyFileError(
            f"{path} holds a tensor without plain numbers ({value.dtype}, {value.layout}, "
            f"{value.device}); save it dense and with real values"
        )
    return value.detach()
