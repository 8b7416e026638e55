"""Where plug-ins are found: by registered name, by entry point, or straight from a file.

`DISTILLERS`, `SEARCH_SPACES` and `SCORES` each map a name to a class. A name is known once the
class's decorator has run, or when an installed distribution announces it as an entry point; the
built-in plug-ins are announced in the same way. Where a search space is a function, its class is
made of it (`nas_proxy.define_by_run`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from inspect import isfunction
from typing import Any, Generic, TypeVar

from nas_proxy.core.main_module import MAIN
from nas_proxy.core.packing import pack, unpack
from nas_proxy.core.plugin_source import know_sources, source_hash
from nas_proxy.errors import PluginError, StudyError, did_you_mean
from nas_proxy.interfaces import Distiller, SearchSpace, ZeroCostScore
from nas_proxy.plugin_files import (
    GROUPS,
    import_file,
    import_module,
    imported,
    is_outdated,
    loaded_files,
    reason,
)

T = TypeVar("T")
Plugin = TypeVar("Plugin", bound=Callable[..., Any])  # a class, or a function that stands for one

_NAMED: set[type] = set()  # classes whose name is what they are found by
_BY_REFERENCE: dict[tuple[str, str], str] = {}  # by module and name in it: what has no decorator


class Registry(Generic[T]):
    """Named classes of one kind.

    Args:
        kind: What the classes are, for messages: "distiller".
        base: The class that every entry derives from.
        group: Entry-point group in which distributions announce theirs.
        class_of: Makes the class of a function that is written instead; None: only classes count.

    Attributes:
        kind: As given.
        group: As given.

    >>> "naswot" in SCORES.names() and "convnet" in SEARCH_SPACES.names()
    True
    >>> DISTILLERS.get("herding").name
    'herding'
    """

    def __init__(
        self,
        kind: str,
        base: type[T],
        group: str,
        class_of: Callable[[Any], type[T]] | None = None,
    ) -> None:
        self.kind = kind
        self._base = base
        self.group = group
        self._class_of = class_of
        self._classes: dict[str, type[T]] = {}
        self._sent: dict[str, bytes | str] = {}
        self._looked_for: dict[tuple[str, ...], tuple[EntryPoint, ...]] = {}

    def register(self, name: str) -> Callable[[Plugin], Plugin]:
        """Decorator that makes a class known as `name`, and sets its attribute `name`.

        Raises:
            PluginError: If another class has the name already; the message names both.
        """

        def decorate(plugin: Plugin) -> Plugin:
            made = self._made(plugin)
            known = self._classes.get(name)
            if known is not None and _origin(known) != _origin(made):
                raise PluginError(
                    f"two {self.kind}s are called {name!r}: {_origin(known)} and "
                    f"{_origin(made)}; rename one of them"
                )
            made.name = name
            self._classes[name] = made
            _NAMED.add(made)
            return plugin

        return decorate

    def class_of(self, plugin: Any) -> type[T]:
        """The class itself, or that of a function.

        Raises:
            PluginError: If it is not of this kind.
        """
        made = self._made(plugin)
        self._check(made, getattr(plugin, "__qualname__", repr(plugin)))
        return made  # type: ignore[no-any-return]

    def get(self, reference: str) -> type[T]:
        """The class that a configuration names.

        Args:
            reference: A registered name, `module:Class`, or `path/to/file.py:Class`; of a search
                space the class may be a function.

        Raises:
            PluginError: If it does not exist (the message names the nearest), cannot be imported,
                or is not a plug-in of this kind.
        """
        if ":" in reference:
            return self._from_reference(reference)
        if reference in self._sent:
            self._take_sent(reference)
        announced = self._announced().get(reference)
        if reference not in self._classes and announced is not None:
            self._load(announced)
        if reference not in self._classes:
            raise PluginError(
                f"unknown {self.kind} {reference!r}; {did_you_mean(reference, self.names())} "
                "(a plug-in of your own is named path/to/file.py:NAME or module:NAME; what a "
                "notebook or a script defines has a name there alone, so save it in a file)"
            )
        return self._classes[reference]

    def reference(self, plugin: Any) -> str:
        """What a configuration calls a class, or a function that stands for one.

        What is not found in a module, such as what a notebook defines, is registered under the name
        that it has there.

        Raises:
            PluginError: If it is not a plug-in of this kind, or its name is taken.
        """
        own, home = getattr(plugin, "__qualname__", repr(plugin)), getattr(plugin, "__module__", "")
        made: Any = self.class_of(plugin)
        if made in _NAMED and (":" in made.name or self._is_found(made)):
            return str(made.name)
        module = sys.modules.get(home)
        if home == MAIN or getattr(module, own, None) is not plugin:
            self.register(plugin.__name__.strip("<>"))(plugin)
            return str(made.name)
        file = getattr(module, "__file__", None)
        return f"{file if file in loaded_files() else home}:{own}"

    def _is_found(self, plugin: Any) -> bool:
        """Whether its registered name alone finds it: in any process, or as long as this runs."""
        in_main = plugin.__module__ == MAIN and self._classes.get(plugin.name) is plugin
        return in_main or plugin.name in self._announced()

    def loaded(self, name: str) -> type[T] | None:
        """The class of a registered name, if its module was imported."""
        return self._classes.get(name)

    def known(self) -> list[type[T]]:
        """The classes whose modules were imported."""
        return list(self._classes.values())

    def names(self) -> list[str]:
        """All known names, sorted, whether or not their modules can be imported."""
        return sorted({*self._classes, *self._sent, *self._announced()})

    def to_send(self) -> Iterator[tuple[str, bytes | str]]:
        """Classes that a decorator made known in modules that nothing here names.

        Yields:
            Name and the packed class, or why it cannot be packed.
        """
        for name, plugin in self._classes.items():
            if _is_found_elsewhere(plugin):
                continue
            try:
                yield name, pack(plugin)
            except StudyError as error:
                yield name, str(error)

    def receive(self, name: str, packed: bytes | str) -> None:
        """Keep what `to_send` yields in another process until it is asked for."""
        self._sent[name] = packed

    def _take_sent(self, name: str) -> None:
        packed = self._sent[name]
        if isinstance(packed, str):
            raise PluginError(f"{self.kind} {name!r}: {packed}")
        try:
            plugin = unpack(packed)  # of a module that is imported for it, whose decorators run
        except Exception as error:  # noqa: BLE001 - the module's import may raise anything
            raise PluginError(
                f"{self.kind} {name!r} cannot be imported in a worker process: {reason(error)}"
            ) from error
        self._classes.setdefault(name, plugin)

    def _announced(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for entry in self._entry_points():
            other = found.setdefault(entry.name, entry)
            if other.value != entry.value:
                raise PluginError(
                    f"two {self.kind}s are called {entry.name!r}: {other.value} and {entry.value}; "
                    "uninstall one of their distributions"
                )
        return found

    def _entry_points(self) -> tuple[EntryPoint, ...]:
        """Looked for once on each search path: that reads a file of every distribution on it."""
        path = tuple(sys.path)
        if path not in self._looked_for:
            self._looked_for[path] = tuple(entry_points(group=self.group))
        return self._looked_for[path]

    def _load(self, entry: EntryPoint) -> None:
        try:
            plugin = entry.load()
        except Exception as error:  # noqa: BLE001 - a plug-in's import may raise anything
            raise PluginError(
                f"{self.kind} {entry.name!r} ({entry.value}) cannot be imported: {reason(error)}"
            ) from error
        self._check(self._made(plugin), entry.value)
        if entry.name not in self._classes:  # announced without the decorator
            self.register(entry.name)(plugin)

    def _from_reference(self, reference: str) -> type[T]:
        location, _, class_name = reference.rpartition(":")
        module = imported(location)
        written = getattr(module, class_name, None)
        if written is None:
            own = [
                name
                for name, value in vars(module).items()
                if (isinstance(value, type) or self._is_function(value))
                and value.__module__ == module.__name__
            ]
            what = "class" if self._class_of is None else "class or function"
            raise PluginError(
                f"{location} has no {what} {class_name!r}; {did_you_mean(class_name, own)}"
            )
        plugin = self._made(written)
        self._check(plugin, reference)
        if plugin not in _NAMED:  # a name of its author's own would not find it again
            plugin.name = reference
            _NAMED.add(plugin)
            if plugin is written:  # what is made of a function takes its name along
                _BY_REFERENCE[module.__name__, class_name] = reference
        return plugin  # type: ignore[no-any-return]

    @property
    def forms(self) -> str:
        """In which forms its plug-ins are written, in words."""
        return "a class" if self._class_of is None else "a class, a function of (trial, spec)"

    def _is_function(self, plugin: object) -> bool:
        return self._class_of is not None and isfunction(plugin)

    def _made(self, plugin: Any) -> Any:
        """The class of a function; anything else as it is."""
        if self._class_of is not None and isfunction(plugin):
            return self._class_of(plugin)
        return plugin

    def _check(self, plugin: object, origin: str) -> None:
        if not (isinstance(plugin, type) and issubclass(plugin, self._base)):
            instead = "" if self._class_of is None else ", or write a function of (trial, spec)"
            raise PluginError(
                f"{origin} is not a {self.kind}: derive the class from nas_proxy.interfaces."
                f"{self._base.__name__}{instead}"
            )
        missing = sorted(getattr(plugin, "__abstractmethods__", ()))
        either: tuple[str, ...] = getattr(self._base, "implement_one_of", ())
        if either and all(getattr(plugin, n) is getattr(self._base, n) for n in either):
            missing.append(either[0])
        if missing:
            raise PluginError(
                f"{self.kind} {origin} lacks the method{'s' * (len(missing) > 1)} "
                f"{', '.join(missing)} of nas_proxy.interfaces.{self._base.__name__}"
            )


def _origin(plugin: type) -> str:
    # By file, not by module: an edited file that is loaded again replaces its earlier self.
    file = getattr(sys.modules.get(plugin.__module__), "__file__", None)
    return f"{file or plugin.__module__}:{plugin.__qualname__}"


def _is_found_elsewhere(plugin: type) -> bool:
    """Whether another process finds a class by itself: it ships, or is of a file that is named."""
    module = plugin.__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    return module.partition(".")[0] == "nas_proxy" or file in loaded_files()


@dataclass(frozen=True)
class LoadedPlugins:
    """What a process has loaded by reference; another one loads it before it unpacks their objects.

    Attributes:
        files: That classes were loaded from.
        names: Of classes without a decorator, by module and the name in it.
        sent: What decorators made known elsewhere, such as in a notebook: the kind of plug-in, the
            name, and the class, packed.
        sources: Hashes of what the script or notebook itself defines, whose text is not sent.
    """

    files: tuple[str, ...] = ()
    names: tuple[tuple[tuple[str, str], str], ...] = ()
    sent: tuple[tuple[str, str, bytes | str], ...] = ()
    sources: tuple[tuple[str, str | None], ...] = ()

    @classmethod
    def here(cls) -> LoadedPlugins:
        """Those of this process."""
        registries = (DISTILLERS, SEARCH_SPACES, SCORES)
        own = {plugin for plugin in _NAMED if plugin.__module__ == MAIN}
        return cls(
            loaded_files(),
            tuple(
                (place, name)
                for place, name in _BY_REFERENCE.items()
                if place[0] != MAIN and not is_outdated(place[0])
            ),
            tuple((kind.group, *each) for kind in registries for each in kind.to_send()),
            tuple((plugin.__qualname__, source_hash(plugin)) for plugin in own),
        )

    def load(self) -> None:
        """Load them into this process.

        Raises:
            PluginError: If a file is not there any more, was edited, or its import fails.
        """
        know_sources(dict(self.sources))
        for file in self.files:
            import_file(file)
        for (module, class_name), name in self.names:
            location = name.rpartition(":")[0]
            if location.endswith(".py") and module not in sys.modules:
                raise PluginError(
                    f"{location} was edited after it had been loaded; start the program again, "
                    "which goes on with what it has"
                )
            plugin = vars(import_module(module)).get(class_name)
            if plugin is not None:  # else whatever needs it will say so
                plugin.name = name
        registries = {kind.group: kind for kind in (DISTILLERS, SEARCH_SPACES, SCORES)}
        for group, name, packed in self.sent:
            registries[group].receive(name, packed)


DISTILLERS = Registry[Distiller](
    "distiller",
    Distiller,  # type: ignore[type-abstract]
    GROUPS[0],
)


def plugin_modules() -> set[str]:
    """Names of the modules that define what decorators or references made known here."""
    classes = (each for kind in (DISTILLERS, SEARCH_SPACES, SCORES) for each in kind.known())
    return {each.__module__ for each in classes} | {module for module, _ in _BY_REFERENCE}


def _class_of_function(function: Any) -> type[SearchSpace]:
    from nas_proxy.define_by_run.definition import space_class  # imports optuna

    return space_class(function)


SEARCH_SPACES = Registry[SearchSpace](
    "search space",
    SearchSpace,  # type: ignore[type-abstract]
    GROUPS[1],
    _class_of_function,
)
SCORES = Registry[ZeroCostScore](
    "score",
    ZeroCostScore,
    GROUPS[2],
)
