"""Options and public names in Markdown, from the dataclasses and docstrings themselves."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser

import nas_proxy
from nas_proxy.options import Bound, Options, OrAuto, adapter
from nas_proxy.registry import DISTILLERS, SCORES, SEARCH_SPACES, Registry
from nas_proxy.study.config import _DISTILL_KEYS, StudyConfig, _Sections

_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_OPEN = object()  # of an option without a default


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: As it stands in the file.
        kind: Its annotation.
        default: `_OPEN` if it has to be given.
        text: What its docstring says.
    """

    name: str
    kind: Any
    default: Any
    text: str


def sections() -> str:
    """Every section of a configuration, in the file's order, then what stands inside of them."""
    texts = _documented(StudyConfig)
    texts |= {
        "distill": texts["distiller"],
        "num_workers": texts["distill_workers"],
        "calibrate": texts["calibration"],
        "validate": texts["validation"],
    }
    top = []
    for name, found in _Sections.model_fields.items():
        key = found.alias or name
        kind = Annotated[found.annotation, *found.metadata] if found.metadata else found.annotation
        top.append(
            Option(key, kind, _OPEN if found.is_required() else found.default, texts.get(key, ""))
        )
    every = [
        Option(key, kind, default, texts.get(key) or _description(kind))
        for key, (kind, default) in _DISTILL_KEYS.items()
    ]
    return "\n\n".join(
        [
            "## The top level",
            _list(top),
            "## `distill`",
            "`name` says which of the [distillers](plugins.md#distillers), whose options stand "
            "beside. The same for all of them:",
            _list(every),
            "## `space`",
            "`name` says which of the [spaces](plugins.md#search-spaces), or FILE.py:CLASS; its "
            "options stand beside.",
            *(_section(kind, path) for kind, path in _section_kinds().items()),
        ]
    )


def _section_kinds() -> dict[type, str]:
    """The dataclasses that a configuration is read into, and where each is met first."""
    top = {found.alias or name: found.annotation for name, found in _Sections.model_fields.items()}
    waiting = [(key, kind) for key, annotation in top.items() for kind in _nested(annotation)]
    waiting += [
        (f"distill.{key}", each)
        for key, (kind, _) in _DISTILL_KEYS.items()
        for each in _nested(kind)
    ]
    return _reached(waiting)


def _reached(waiting: list[tuple[str, type]]) -> dict[type, str]:
    """All that is nested in some dataclasses, and these, by where each is met first."""
    found: dict[type, str] = {}
    while waiting:
        path, kind = waiting.pop(0)
        if kind not in found:
            found[kind] = path
            inner = [(f"{path}.{o.name}", each) for o in _options(kind) for each in _nested(o.kind)]
            waiting = inner + waiting
    return found


def _section(kind: type, path: str, level: int = 2) -> str:
    head = f"({_anchor(kind)})=\n{'#' * level} `{path}`"
    return f"{head}\n\n{_text(kind)}\n\n{_list(_options(kind))}"


def distillers() -> str:
    """Every distiller with its options."""
    return _plugins(DISTILLERS)


def spaces() -> str:
    """Every search space with its options."""
    return _plugins(SEARCH_SPACES)


def scores() -> str:
    """Every zero-cost score with its options."""
    return _plugins(SCORES)


def _plugins(registry: Registry[Any]) -> str:
    parts, told = [], dict(_section_kinds())
    for name in registry.names():
        plugin = registry.get(name)
        if not plugin.__module__.startswith("nas_proxy."):
            continue  # of another distribution on this machine
        facts = {
            "Family": getattr(plugin, "family", ""),
            "Source": plugin.paper,
            "Takes": getattr(plugin, "typical_cost", ""),
        }
        options = _options(plugin)
        parts += [f"### `{name}`", _text(plugin)]
        parts += [
            "\n".join(f"*{key}*: {value}\\" for key, value in facts.items() if value).strip("\\")
        ]
        parts += [_list(options) if options else "It has no options."]
        inner = _reached([(f"{name}.{o.name}", each) for o in options for each in _nested(o.kind)])
        new = {kind: path for kind, path in inner.items() if kind not in told}
        parts += [_section(kind, path, level=4) for kind, path in new.items()]
        told |= new
    return "\n\n".join(filter(None, parts))


def public_names() -> str:
    """What `nas_proxy` offers, as directives of autodoc."""
    kinds: dict[str, list[str]] = {"Functions": [], "Classes": [], "Errors": []}
    for name in sorted(nas_proxy.__all__, key=str.lower):
        offered = getattr(nas_proxy, name)
        if inspect.isclass(offered) and issubclass(offered, BaseException):
            kinds["Errors"].append(f".. autoexception:: nas_proxy.{name}")
        elif inspect.isclass(offered):
            kinds["Classes"].append(f".. autoclass:: nas_proxy.{name}\n   :members:")
        elif callable(offered):
            # A package of the same name stands in for its function, and has another docstring.
            home = "nas_proxy.api.steps" if inspect.ismodule(offered) else "nas_proxy"
            kinds["Functions"].append(f".. autofunction:: {home}.{name}")
    return "\n\n".join(
        f"## {kind}\n\n```{{eval-rst}}\n" + "\n\n".join(directives) + "\n```"
        for kind, directives in kinds.items()
        if directives
    )


def _options(kind: type) -> list[Option]:
    texts = _documented(kind)
    hints = get_type_hints(kind, include_extras=True)
    return [
        Option(field.name, hints[field.name], _default(field), texts.get(field.name, ""))
        for field in dataclasses.fields(kind)
        if field.init
    ]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return _OPEN if field.default_factory is MISSING else field.default_factory()


def _documented(kind: type) -> dict[str, str]:
    """What the docstrings of a class and of its bases say of each attribute."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        parsed = docstring_parser.parse(base.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
        for told in parsed.params:
            found[told.arg_name] = " ".join((told.description or "").split())
    return found


def _description(kind: Any) -> str:
    """What stands at the annotation of a key that is no field of a dataclass."""
    found = (getattr(told, "description", None) for told in get_args(kind)[1:])
    return next(filter(None, found), "")


def _text(kind: type) -> str:
    """A docstring without its list of attributes."""
    return re.split(r"\n(?=Attributes:\n)", inspect.cleandoc(kind.__doc__ or ""))[0].strip()


def _list(options: Sequence[Option]) -> str:
    """A line for each option: its name, what it may be, and what it means."""
    lines = []
    for option in options:
        given = "required" if option.default is _OPEN else f"default {_value(option.default)}"
        text = f": {option.text}" if option.text else ""
        lines.append(f"- **`{option.name}`** ({_kind(option.kind)}; {given}){text}")
    return "\n".join(lines)


def _value(default: Any) -> str:
    if isinstance(default, Options):
        return "its own defaults"
    kind: Any = type(default)
    plain = adapter(kind).dump_python(default, mode="json")
    if isinstance(default, tuple) and any(isinstance(each, Options) for each in default):
        return "its own defaults"
    if plain is None:
        return "none"
    return f"`{plain}`" if isinstance(plain, str) and plain else f"`{json.dumps(plain)}`"


def _kind(kind: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _annotated(inner[0], inner[1:])
    if origin is Literal:
        return " or ".join(f"`{word}`" for word in inner)
    if origin in (Union, types.UnionType):
        words = [_kind(each) for each in inner if each is not types.NoneType]
        return " or ".join(dict.fromkeys(words))
    if origin in (tuple, list) or origin is Sequence:
        return f"list of {_kind(inner[0])}" if inner else "list"
    if origin in (dict, Mapping):
        return f"mapping of {_kind(inner[0])} to {_kind(inner[1])}"
    if isinstance(kind, type) and issubclass(kind, Options):
        return f"[section](#{_anchor(kind)})"
    return _WORDS.get(kind, "mapping" if kind is dict else "anything")


def _annotated(kind: Any, metadata: Sequence[Any]) -> str:
    words = _kind(kind)
    for limit in metadata:
        if isinstance(limit, OrAuto):
            return f"number{_limits([limit.bound])} or `auto`"
    return words + _limits(metadata)


def _limits(metadata: Sequence[Any]) -> str:
    signs = [
        f"{_SIGNS[name]} {limit:g}"
        for bound in metadata
        if isinstance(bound, Bound)
        for name, limit in vars(bound).items()
        if limit is not None
    ]
    return f" {' and '.join(signs)}" if signs else ""


def _nested(kind: Any) -> list[type]:
    """The sections within a type."""
    if isinstance(kind, type) and issubclass(kind, Options):
        return [kind]
    return [found for inner in get_args(kind) for found in _nested(inner)]


def _anchor(kind: type) -> str:
    return f"section-{kind.__name__.lower()}"
