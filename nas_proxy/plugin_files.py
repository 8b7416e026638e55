"""Python files that hold plug-ins, and how they become modules."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from nas_proxy.errors import PluginError

GROUPS = ("nas_proxy.distillers", "nas_proxy.search_spaces", "nas_proxy.scores")
"""Entry-point groups in which distributions announce plug-ins."""

_loaded: dict[str, str] = {}  # module by file, as it was read last
_outdated: set[str] = set()  # modules of earlier texts of these files


def loaded_files() -> tuple[str, ...]:
    """The files that were imported by their paths, in that order."""
    return tuple(_loaded)


def loaded_modules() -> dict[str, str]:
    """The same files, each with the name of the module that it is now."""
    return dict(_loaded)


def is_outdated(module: str) -> bool:
    """Whether a module was made from a file that has been edited and read again since.

    Another process cannot import it, for it would find the new text.
    """
    return module in _outdated


def imported(location: str) -> ModuleType:
    """The module of a reference: what stands before its last colon, a file or a module's name.

    Raises:
        PluginError: If it does not exist or cannot be imported; the message says why.
    """
    return import_file(location) if location.endswith(".py") else import_module(location)


def import_file(location: str) -> ModuleType:
    """Import a plug-in's file, which need not be on the module search path.

    Raises:
        PluginError: If the file does not exist or its import fails; the message says why.
    """
    path = Path(location).expanduser().resolve()
    if not path.is_file():
        raise PluginError(f"plug-in file {location} does not exist (looked at {path})")
    announced = announced_module(path)
    if announced is not None:
        return import_module(announced)
    # The content is part of the name, so that an edited file is a new module, and the path, so
    # that two files of one name live side by side.
    source = path.read_bytes()
    identity = hashlib.sha256(os.fsencode(path) + source).hexdigest()[:12]
    name = f"{path.stem}_{identity}"
    if name in sys.modules:
        note_module(path, name)
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plug-in file {location} is not Python code; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is being imported
    try:
        # Python's loader would take the bytecode of an earlier text of the same length and second.
        exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it may raise anything, or exit
        del sys.modules[name]
        raise PluginError(f"plug-in file {location} cannot be imported: {reason(error)}") from error
    note_module(path, name)
    return module


def note_module(path: Path, module: str) -> None:
    """Remember that a file is this module now."""
    _outdated.add(_loaded.get(str(path), module))
    _outdated.discard(module)
    _loaded[str(path)] = module


def import_module(name: str) -> ModuleType:
    """Import a module by its name.

    Raises:
        PluginError: If its import fails; the message says why.
    """
    try:
        file = file_of(name)
        return importlib.import_module((file and announced_module(file)) or name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it may raise anything, or exit
        raise PluginError(f"plug-in module {name!r} cannot be imported: {reason(error)}") from error


def announced_module(file: Path) -> str | None:
    """What a file is called as a module, if a distribution announces a plug-in that is in it.

    It is imported under this name alone: as two modules, it would define each class twice.
    """
    if not (file.parent / "__init__.py").is_file():
        return None  # of no package, and looking through all distributions takes long
    for group in GROUPS:
        for entry in entry_points(group=group):
            if entry.module.rpartition(".")[2] == file.stem and file_of(entry.module) == file:
                return entry.module
    return None


def file_of(module: str) -> Path | None:
    """The file of a module that can be imported; None if there is none."""
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # noqa: BLE001 - it imports the module's package, which may raise anything
        return None
    return Path(spec.origin).resolve() if spec is not None and spec.origin else None


def reason(error: BaseException) -> str:
    """What was raised, in words."""
    return f"{type(error).__name__}: {error}"
