"""Nested mappings, such as a study's settings, as one level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def flatten(mapping: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value with its keys joined by dots, in order.

    Args:
        mapping: Its values may be mappings; an empty one, like a list, is a value.
        path: What stands before each key.
    """
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def set_values(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The same as a dict, without what is None or empty: what somebody or something has set."""
    return {key: value for key, value in flatten(mapping) if value not in (None, "", [], (), {})}
