"""The user's own code that settings name, told apart by its text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nas_proxy.core.main_module import MAIN
from nas_proxy.core.plugin_source import file_hash, source_hash
from nas_proxy.plugin_files import announced_module, file_of
from nas_proxy.registry import DISTILLERS, SCORES, SEARCH_SPACES

# Where settings name plug-ins: with options beside the name, alone, or in a list.
_SECTIONS = ("space", "distill")
_LISTS = ("signals", "controls")


def sources_named(settings: Any) -> dict[str, str]:
    """Hashes of the user's own code that settings name, by its name there.

    A file or module with a class, such as `my_scores.py:Mine`, is named wherever it stands. A
    registered name counts where a plug-in is meant: the name of a space or a distiller, a signal.

    Args:
        settings: JSON values: sections of a configuration by their names, or such within others.
    """
    return sources_of(_names(settings))


def sources_of(names: Iterable[str]) -> dict[str, str]:
    """Hashes of the user's own code by what it is called; of anything else nothing."""
    found = {name: _source_named(name) for name in dict.fromkeys(names)}
    return {name: source for name, source in found.items() if source is not None}


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


def _names(settings: Any, place: str = "") -> Iterator[str]:
    """Texts that may name plug-ins; `place` is the key that `settings` stand under."""
    if isinstance(settings, str):
        if ":" in settings or place in (*_LISTS, "space"):
            yield settings
    elif isinstance(settings, Mapping):
        if place in _SECTIONS and isinstance(settings.get("name"), str):
            yield settings["name"]
        for key, value in settings.items():
            yield from _names(value, key)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _names(value, place)
