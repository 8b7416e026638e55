"""Neural architecture search on distilled proxy data sets, with proof of their ranking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas_proxy.export.model_file import load_model

__version__ = "0.1.0"
__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    """`load_model`, fetched when it is asked for: the command line starts without torch."""
    if name == "load_model":
        from nas_proxy.export.model_file import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
