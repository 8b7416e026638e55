"""The configuration that a command is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas_proxy.errors import ConfigError
from nas_proxy.study.config_file import read_mapping

if TYPE_CHECKING:
    from nas_proxy.study.config import StudyConfig


def load_checked(config: Path, overrides: Sequence[str]) -> StudyConfig:
    """Read and check it, before a command imports what it works with.

    Raises:
        ConfigError: With every fault that was found, one per line.
    """
    keys = Counter(each.partition("=")[0] for each in overrides)
    for key, count in keys.items():  # scripts may add to theirs; what a person types means all
        if count > 1:
            raise ConfigError(f"{key} is given {count} times on the command line; give it once")
    mapping = read_mapping(config, overrides)
    from nas_proxy.study.config import check_config  # imports torch, which a missing file need not

    return check_config(mapping)
