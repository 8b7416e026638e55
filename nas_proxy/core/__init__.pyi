from .checkpoint import Checkpointer
from .environment import check_device, hardware, versions
from .files import append_line, drop_partial_line, whole_lines, write_atomically
from .nested import flatten

__all__ = [
    "Checkpointer",
    "append_line",
    "check_device",
    "drop_partial_line",
    "flatten",
    "hardware",
    "versions",
    "whole_lines",
    "write_atomically",
]
