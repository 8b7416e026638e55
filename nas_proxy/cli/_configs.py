"""The configuration that a command is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas_proxy.study.config_file import read_mapping

if TYPE_CHECKING:
    from nas_proxy.study.config import StudyConfig


def load_checked(config: Path, overrides: Sequence[str]) -> StudyConfig:
    """Read and check it, before a command imports what it works with.

    Raises:
        ConfigError: With every fault that was found, one per line.
    """
    mapping = read_mapping(config, overrides)
    from nas_proxy.study.config import check_config  # imports torch, which a missing file need not

    return check_config(mapping)
