"""From what a user gives for the sections of a configuration to the mapping that is checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import isfunction
from pathlib import Path
from typing import Any

from torch import nn

from nas_proxy.api.images import ArrayImages
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.errors import ConfigError
from nas_proxy.interfaces import Distiller, SearchSpace
from nas_proxy.options import Options, adapter
from nas_proxy.registry import DISTILLERS, SEARCH_SPACES, Registry
from nas_proxy.study.config import section_kinds

SpaceLike = (
    str | SearchSpace | type[SearchSpace] | Callable[[Any, Any], nn.Module] | Mapping[str, Any]
)
"""A name or `FILE.py:NAME`, an object, a class, a function of `(trial, spec)`, or a mapping.

A mapping has `name`, which may be any of the others, and options beside it.
"""

DistillerLike = str | Distiller | type[Distiller] | Mapping[str, Any]
"""The same of a distiller; a mapping may hold `images_per_class`, `labels` and `num_workers`."""

DataLike = Any


def as_mapping(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A configuration's mapping, as a file would hold it.

    Args:
        given: Sections by name, of which those that are None are left out.
        folder: For the file of images that are in memory.

    Raises:
        UserError: If an object is of the wrong kind for its section, or no file could name it.
    """
    mapping: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name == "space":
            mapping[name] = plugin_section(SEARCH_SPACES, value)
        elif name == "distill":
            mapping[name] = plugin_section(DISTILLERS, value)
        elif name == "data":
            mapping[name] = data_section(value, folder)
        else:
            mapping[name] = _section(name, value)
    return mapping


def data_section(given: DataLike, folder: Path) -> Any:
    """The section `data`; images in memory are those of a file below `folder`, not written yet."""
    if isinstance(given, ArrayImages):
        return _plain(given.file(folder))
    return {"name": given} if isinstance(given, str) else _section("data", given)


@dataclass(frozen=True)
class GivenProxyDataset:
    """A proxy data set, in memory or in a file.

    Attributes:
        content: The set.
        file: Where it lies; None: in memory alone.
    """

    content: ProxyDataset
    file: Path | None

    @classmethod
    def of(cls, given: ProxyDataset | Path | str) -> GivenProxyDataset:
        """The set, or what its file holds.

        Raises:
            ProxyFileError: If there is no such file, or it is damaged.
        """
        if isinstance(given, ProxyDataset):
            return cls(given, None)
        return cls(ProxyDataset.load(given), Path(given))

    def section(self, folder: Path) -> dict[str, Any]:
        """The section `distill` that takes it from its file, which `save` writes to `folder`."""
        size = self.content.images_per_class
        return {"name": "file", "path": str(self._path(folder)), "images_per_class": size}

    def save(self, folder: Path) -> None:
        """Write what is in memory alone."""
        if self.file is None:
            self.content.save(self._path(folder))

    def _path(self, folder: Path) -> Path:
        return self.file or folder / f"{self.content.id}.safetensors"


def executor_section(num_workers: int) -> dict[str, Any]:
    """The keys of the section `search` that say where evaluations run."""
    if num_workers == 1:
        return {"executor": "serial"}
    return {"executor": "processes", "num_workers": num_workers}


def plugin_section(registry: Registry[Any], given: Any) -> dict[str, Any]:
    """A section that names a plug-in in `name`, with its options beside it."""
    if not isinstance(given, Mapping):
        return _named(registry, given)
    section = {key: _plain(value) for key, value in given.items() if key != "name"}
    named = _named(registry, given["name"]) if "name" in given else {}
    return {**named, **section}


def _named(registry: Registry[Any], plugin: Any) -> dict[str, Any]:
    if isinstance(plugin, str):
        return {"name": plugin}
    if isinstance(plugin, type) or isfunction(plugin):
        return {"name": registry.reference(plugin)}
    if isinstance(plugin, Options):
        return {"name": registry.reference(type(plugin)), **_plain(plugin)}
    raise ConfigError(
        f"a {registry.kind} is a name, FILE.py:NAME, an object, {registry.forms}, or a mapping "
        f"with name and options; got {type(plugin).__name__}"
    )


def _section(name: str, given: Any) -> Any:
    """Any other section; an object must be of the section's own class."""
    kinds = section_kinds(name)
    if isinstance(given, Options) and kinds and not isinstance(given, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ConfigError(f"{name}: expected {wanted} or a mapping, got {type(given).__name__}")
    return _plain(given)


def _plain(value: Any) -> Any:
    """What a file would hold: of an object what differs from its defaults."""
    if isinstance(value, Options):
        kind: Any = type(value)
        return adapter(kind).dump_python(value, mode="json", exclude_defaults=True)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
