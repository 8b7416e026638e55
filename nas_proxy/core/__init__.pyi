from .checkpoint import Checkpointer
from .environment import check_device, hardware, versions
from .files import append_line, drop_partial_line, whole_lines, write_atomically
from .locks import exclusive, sole_user
from .nested import flatten
from .results import StoredResult

__all__ = [
    "Checkpointer",
    "StoredResult",
    "append_line",
    "check_device",
    "drop_partial_line",
    "exclusive",
    "flatten",
    "hardware",
    "sole_user",
    "versions",
    "whole_lines",
    "write_atomically",
]
