"""The user's own code that settings name, told apart by its text."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nas_proxy.core.main_module import MAIN
from nas_proxy.core.plugin_source import file_hash, source_hash
from nas_proxy.plugin_files import announced_module, file_of
from nas_proxy.registry import DISTILLERS, SCORES, SEARCH_SPACES


def sources_named(settings: Any) -> dict[str, str]:
    """Hashes of the user's own code that is named anywhere in settings, by its name there.

    Args:
        settings: JSON values, such as sections of a configuration.
    """
    found = {word: _source_named(word) for word in dict.fromkeys(_words(settings))}
    return {word: source for word, source in found.items() if source is not None}


def _source_named(word: str) -> str | None:
    """Hash of the plug-in that a word names; None if it names none, or one that ships."""
    location, _, class_name = word.rpartition(":")
    if not location:
        classes = (kind.loaded(word) for kind in (DISTILLERS, SEARCH_SPACES, SCORES))
        return next((source_hash(each) for each in classes if each is not None), None)
    if not class_name.isidentifier():  # a port, an address
        return None
    if location == MAIN:
        plugin = vars(sys.modules[MAIN]).get(class_name)
        return source_hash(plugin) if isinstance(plugin, type) else None
    if location.endswith(".py"):
        file: Path | None = Path(location).expanduser().resolve()
        module = announced_module(file) if file is not None and file.is_file() else None
    else:
        is_module = all(part.isidentifier() for part in location.split("."))
        file, module = (file_of(location), location) if is_module else (None, None)
    if file is None or not file.is_file() or (module or "").startswith("nas_proxy."):
        return None
    return file_hash(file)


def _words(settings: Any) -> Iterator[str]:
    if isinstance(settings, str):
        yield settings
    elif isinstance(settings, Mapping):
        for value in settings.values():
            yield from _words(value)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _words(value)
