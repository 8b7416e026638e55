"""Where plug-ins are found: by registered name, by entry point, or straight from a file.

`DISTILLERS`, `SEARCH_SPACES` and `SCORES` each map a name to a class. A name is known once the
class's decorator has run, or when an installed distribution announces it as an entry point; the
built-in plug-ins are announced in the same way. Where a search space is a function, its class is
made of it (`nas_proxy.define_by_run`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from inspect import isfunction
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from nas_proxy.core.plugin_source import file_hash, source_hash
from nas_proxy.errors import PluginError, did_you_mean
from nas_proxy.interfaces import Distiller, SearchSpace, ZeroCostScore

T = TypeVar("T")
Plugin = TypeVar("Plugin", bound=Callable[..., Any])  # a class, or a function that stands for one

_NAMED: set[type] = set()  # classes whose name is what they are found by
_PLUGIN_FILES: list[str] = []
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
        announced = self._announced().get(reference)
        if reference not in self._classes and announced is not None:
            self._load(announced)
        if reference not in self._classes:
            raise PluginError(
                f"unknown {self.kind} {reference!r}; {did_you_mean(reference, self.names())} "
                "(a plug-in of your own is named path/to/file.py:NAME or module:NAME)"
            )
        return self._classes[reference]

    def loaded(self, name: str) -> type[T] | None:
        """The class of a registered name, if its module was imported."""
        return self._classes.get(name)

    def names(self) -> list[str]:
        """All known names, sorted, whether or not their modules can be imported."""
        return sorted({*self._classes, *self._announced()})

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
                f"{self.kind} {entry.name!r} ({entry.value}) cannot be imported: {_reason(error)}"
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


def imported(location: str) -> ModuleType:
    """The module of a reference: what stands before its last colon, a file or a module's name.

    Raises:
        PluginError: If it does not exist or cannot be imported; the message says why.
    """
    return import_file(location) if location.endswith(".py") else _import_module(location)


def _origin(plugin: type) -> str:
    # By file, not by module: an edited file that is loaded again replaces its earlier self.
    file = getattr(sys.modules.get(plugin.__module__), "__file__", None)
    return f"{file or plugin.__module__}:{plugin.__qualname__}"


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _import_module(name: str) -> ModuleType:
    try:
        file = _file_of(name)
        return importlib.import_module((file and _announced_module(file)) or name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it may raise anything, or exit
        raise PluginError(
            f"plug-in module {name!r} cannot be imported: {_reason(error)}"
        ) from error


def _announced_module(file: Path) -> str | None:
    """What a file is called as a module, if a distribution announces a plug-in that is in it.

    It is imported under this name alone: as two modules, it would define each class twice.
    """
    if not (file.parent / "__init__.py").is_file():
        return None  # of no package, and looking through all distributions takes long
    for registry in (DISTILLERS, SEARCH_SPACES, SCORES):
        for entry in entry_points(group=registry.group):
            if entry.module.rpartition(".")[2] == file.stem and _file_of(entry.module) == file:
                return entry.module
    return None


def _file_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # noqa: BLE001 - it imports the module's package, which may raise anything
        return None
    return Path(spec.origin).resolve() if spec is not None and spec.origin else None


@dataclass(frozen=True)
class LoadedPlugins:
    """What a process has loaded by reference; another one loads it before it unpacks their objects.

    Attributes:
        files: That classes were loaded from.
        names: Of classes without a decorator, by module and the name in it.
    """

    files: tuple[str, ...] = ()
    names: tuple[tuple[tuple[str, str], str], ...] = ()

    @classmethod
    def here(cls) -> LoadedPlugins:
        """Those of this process."""
        return cls(tuple(_PLUGIN_FILES), tuple(_BY_REFERENCE.items()))

    def load(self) -> None:
        """Load them into this process.

        Raises:
            PluginError: If a file is not there any more or its import fails.
        """
        for file in self.files:
            import_file(file)
        for (module, class_name), name in self.names:
            _import_module(module).__dict__[class_name].name = name


def import_file(location: str) -> ModuleType:
    """Import a plug-in's file, which need not be on the module search path.

    Raises:
        PluginError: If the file does not exist or its import fails; the message says why.
    """
    path = Path(location).expanduser().resolve()
    if not path.is_file():
        raise PluginError(f"plug-in file {location} does not exist (looked at {path})")
    announced = _announced_module(path)
    if announced is not None:
        return _import_module(announced)
    # The content is part of the name, so that an edited file is a new module, and the path, so
    # that two files of one name live side by side.
    source = path.read_bytes()
    identity = hashlib.sha256(str(path).encode() + source).hexdigest()[:12]
    name = f"{path.stem}_{identity}"
    if name in sys.modules:
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
        raise PluginError(
            f"plug-in file {location} cannot be imported: {_reason(error)}"
        ) from error
    _PLUGIN_FILES.append(str(path))
    return module


DISTILLERS = Registry[Distiller](
    "distiller",
    Distiller,  # type: ignore[type-abstract]
    "nas_proxy.distillers",
)


def _class_of_function(function: Any) -> type[SearchSpace]:
    from nas_proxy.define_by_run.definition import space_class  # imports optuna

    return space_class(function)


SEARCH_SPACES = Registry[SearchSpace](
    "search space",
    SearchSpace,  # type: ignore[type-abstract]
    "nas_proxy.search_spaces",
    _class_of_function,
)
SCORES = Registry[ZeroCostScore](
    "score",
    ZeroCostScore,
    "nas_proxy.scores",
)


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
    if location.endswith(".py"):
        file: Path | None = Path(location).expanduser().resolve()
        module = _announced_module(file) if file is not None and file.is_file() else None
    else:
        is_module = all(part.isidentifier() for part in location.split("."))
        file, module = (_file_of(location), location) if is_module else (None, None)
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
