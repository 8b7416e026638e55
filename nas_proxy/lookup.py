"""From what a user calls a plug-in to the plug-in: a name, a class, a function, or a space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nas_proxy.errors import PluginError, did_you_mean
from nas_proxy.interfaces import Distiller, SearchSpace, ZeroCostScore
from nas_proxy.options import adapter
from nas_proxy.plugin_files import imported
from nas_proxy.registry import DISTILLERS, SCORES, SEARCH_SPACES


def search_space(
    space: Callable[..., Any] | SearchSpace | str,
    *,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> SearchSpace:
    """The search space that is meant by a function, a class, or a name.

    What is defined in a module is called as a configuration would call it, `module:function`.
    What is not found there, such as a function of a notebook, is registered under its own name.

    Args:
        space: A function of `(trial, spec)` that returns an `nn.Module`; a class of spaces; what
            `space.name` may be in a configuration; a space, which is given back.
        name: Registers a function or class under this name.
        options: Of the space, checked as those in a configuration.

    Raises:
        PluginError: If it is no search space, its name is taken, or an option is wrong.

    >>> import nas_proxy as nas
    >>> nas.search_space("convnet", options={"widths": [16]}).widths
    (16,)
    """
    from pydantic import ValidationError

    if isinstance(space, SearchSpace):
        if name is not None or options is not None:
            raise PluginError(f"{space.name!r} is a space with its options and its name already")
        return space
    kind = SEARCH_SPACES.get(space) if isinstance(space, str) else _class_named(space, name)
    try:
        made: SearchSpace = adapter(kind).validate_python(dict(options or {}))
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise PluginError(f"options of the space {kind.name!r}: {'; '.join(faults)}") from error
    return made


def search_space_class(space: Callable[..., Any] | SearchSpace | str) -> type[SearchSpace]:
    """The class of a function, a class, a space or a name; nothing is registered.

    Raises:
        PluginError: If it is no search space.
    """
    if isinstance(space, SearchSpace):
        return type(space)
    return SEARCH_SPACES.get(space) if isinstance(space, str) else SEARCH_SPACES.class_of(space)


def _class_named(space: Any, name: str | None) -> type[SearchSpace]:
    """The class of a function, or a class, with a name by which it is found again."""
    if name is None:
        return SEARCH_SPACES.get(SEARCH_SPACES.reference(space))
    made = SEARCH_SPACES.class_of(space)
    SEARCH_SPACES.register(name)(space)
    return made


def plugin_class(reference: str) -> type[SearchSpace | Distiller | ZeroCostScore]:
    """The class of a plug-in of whichever kind, by what a configuration may call it.

    Raises:
        PluginError: If there is none, or it cannot be imported.
    """
    if reference.endswith(".py"):
        raise PluginError(
            f"{reference} is a file; name the class or function in it, as in {reference}:NAME"
        )
    if ":" not in reference:
        known = {
            name: kind for kind in (SCORES, DISTILLERS, SEARCH_SPACES) for name in kind.names()
        }
        if reference not in known:
            raise PluginError(
                f"unknown plug-in {reference!r}; {did_you_mean(reference, known)} (one of your own "
                "is named path/to/file.py:NAME or module:NAME)"
            )
        return known[reference].get(reference)
    location, _, name = reference.rpartition(":")
    written = getattr(imported(location), name, None)
    if isinstance(written, type) and issubclass(written, Distiller):
        return DISTILLERS.get(reference)
    if isinstance(written, type) and issubclass(written, ZeroCostScore):
        return SCORES.get(reference)
    return SEARCH_SPACES.get(reference)
