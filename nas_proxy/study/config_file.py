"""From a YAML file and overrides to a mapping, which is not checked yet.

Nothing here imports torch: what cannot be read is refused before that takes its seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from nas_proxy.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe one, which would take the last of several equal keys in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Read a mapping, each of whose keys stands in it once."""
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} stands twice in one section", key.start_mark
                )
            seen.update([key.value] if isinstance(key, yaml.ScalarNode) else [])
        return super().construct_mapping(node, deep)


def read_mapping(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a configuration's file and put the overrides into it.

    Args:
        path: YAML file.
        overrides: Such as `train.num_steps=200`; the value is read as YAML.

    Raises:
        ConfigError: If the file or an override cannot be read; the message says where.
    """
    mapping = _read_yaml(path)
    for override in overrides:
        _apply(mapping, override)
    return mapping


def read_values(words: Sequence[str]) -> dict[str, Any]:
    """What overrides alone say, such as `width=32`; as those of a file.

    Raises:
        ConfigError: If one cannot be read.
    """
    mapping: dict[str, Any] = {}
    for word in words:
        _apply(mapping, word)
    return mapping


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        mapping = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a safe one
    except OSError as error:
        raise ConfigError(f"the configuration {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the configuration {path} is not UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}{place} is not valid YAML: {problem}") from error
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path} must hold sections such as data: and distill:, as a mapping")
    return mapping


def _apply(mapping: dict[str, Any], override: str) -> None:
    """Set one value in place, creating sections on the way."""
    key, equals, text = override.partition("=")
    if not equals or not key or not all(key.split(".")):
        raise ConfigError(f"override {override!r} must look like section.key=value")
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - a safe one
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None)
        said = f": {problem}" if problem else ""
        raise ConfigError(f"the value of override {override!r} is not valid YAML{said}") from error
    *sections, last = key.split(".")
    inner = mapping
    for section in sections:
        if inner.get(section) is None:
            inner[section] = {}
        inner = inner[section]
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {section!r} is a value, not a section")
    inner[last] = value
