"""The user's own code, sent to nodes on which its files are not.

A module travels as its name and the text of its file, with those modules of the same folder that
it imports, and is imported on the node under the driver's name for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

from nas_proxy.core.main_module import MAIN
from nas_proxy.core.plugin_source import own_files
from nas_proxy.plugin_files import import_module, loaded_modules, note_module
from nas_proxy.registry import LoadedPlugins, plugin_modules

_INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class SentModule:
    """A module of the driver's.

    Attributes:
        name: What the driver calls it.
        path: Of its file there.
        source: The file's bytes.
    """

    name: str
    path: str
    source: bytes

    @property
    def is_package(self) -> bool:
        """Whether it is a folder's `__init__.py`."""
        return Path(self.path).name == "__init__.py"


@dataclass(frozen=True)
class SentPlugins:
    """What a driver has loaded, for processes that have not its files.

    Attributes:
        plugins: As for another process of the same machine.
        files: Those of them that were imported by their paths, with their modules' names.
        modules: The text of these, and of all others that are not installed.
    """

    plugins: LoadedPlugins = LoadedPlugins()
    files: tuple[tuple[str, str], ...] = ()
    modules: tuple[SentModule, ...] = ()

    @classmethod
    def here(cls) -> SentPlugins:
        """Those of this process, as they are now."""
        files = tuple(loaded_modules().items())
        roots = [name for _, name in files] + sorted(plugin_modules())
        return cls(LoadedPlugins.here(), files, tuple(_with_imports(roots)))

    def load(self, folder: Path) -> None:
        """Load them into this process.

        Args:
            folder: Where the files are written, unless they are here under the driver's paths.

        Raises:
            PluginError: If an import fails.
            OSError: If the folder cannot be written.
        """
        sys.meta_path.insert(0, _Finder(self.modules, folder))
        for file, name in self.files:
            import_module(name)
            note_module(Path(file), name)
        replace(self.plugins, files=()).load()


def _with_imports(names: Sequence[str]) -> list[SentModule]:
    """Modules of the user's own with those that they import from their folder, each once."""
    by_file = {
        Path(file).resolve(): name
        for name, module in list(sys.modules.items())
        if (file := getattr(module, "__file__", None)) and name != MAIN
    }
    found: dict[str, SentModule] = {}
    for name in names:
        file = _own_file(sys.modules.get(name))
        if file is None:
            continue
        for each in (file, *sorted(own_files(file) - {file})):
            own = name if each == file else by_file.get(each)
            if own is not None and own not in found:
                found[own] = SentModule(own, str(each), each.read_bytes())
    return list(found.values())


def _own_file(module: ModuleType | None) -> Path | None:
    """The file of a module that no distribution brings to every node."""
    file = Path(getattr(module, "__file__", None) or "")
    if module is None or module.__name__ == MAIN or not file.is_file():
        return None
    is_installed = bool(_INSTALLED & {*file.parts}) or module.__name__.startswith("nas_proxy.")
    return None if is_installed else file.resolve()


class _Finder(MetaPathFinder):
    """Finds modules that were sent."""

    def __init__(self, modules: Sequence[SentModule], folder: Path) -> None:
        self._modules = {module.name: module for module in modules}
        # Folders of modules that have none of their own here, such as namespace packages.
        self._parents = {
            name.rpartition(".")[0] for name in self._modules if "." in name
        } - self._modules.keys()
        self._folder = folder

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        """The specification of a module that was sent; None for all others."""
        if fullname in self._parents:
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = []
            return spec
        sent = self._modules.get(fullname)
        if sent is None:
            return None
        locations: list[str] | None = [] if sent.is_package else None
        return spec_from_file_location(
            fullname, self._here(sent), submodule_search_locations=locations
        )

    def _here(self, sent: SentModule) -> Path:
        """Its file: the driver's own path where it leads to the same text, else a copy."""
        original = Path(sent.path)
        if original.is_file() and original.read_bytes() == sent.source:
            return original
        copy = self._folder / original.relative_to(original.anchor)
        if not copy.is_file() or copy.read_bytes() != sent.source:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(sent.source)
        return copy
