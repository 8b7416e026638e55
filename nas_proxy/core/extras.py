"""What comes with `pip install nas-proxy[...]` alone, and how to say that it is not there."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

Extra = Literal["export", "compress", "dashboard", "postgres", "ray"]

_EXPORT = ("onnx", "onnxscript", "onnxruntime", "onnx_ir")
# The top-level modules of what pyproject.toml lists for each.
_MODULES: dict[Extra, tuple[str, ...]] = {
    "export": _EXPORT,
    "compress": ("torchao", "torch_pruning", *_EXPORT),
    "dashboard": ("optuna_dashboard",),
    "postgres": ("psycopg",),
    "ray": ("ray",),
}


def is_installed(extra: Extra) -> bool:
    """Whether all of an extra's libraries are there; none of them is imported."""
    return not _missing(extra)


def missing_words(extra: Extra) -> str:
    """That libraries of an extra are missing, and the command that installs them.

    Such as `onnx is not installed; pip install 'nas-proxy[export]'`.
    """
    missing = _missing(extra)
    verb = "is" if len(missing) == 1 else "are"
    return f"{', '.join(missing)} {verb} not installed; pip install 'nas-proxy[{extra}]'"


def _missing(extra: Extra) -> list[str]:
    return [name for name in _MODULES[extra] if find_spec(name) is None]
