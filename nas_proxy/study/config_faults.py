"""What pydantic finds wrong with a configuration, in words: the path, the value, the way out."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from pydantic import BaseModel, ValidationError

from nas_proxy.errors import did_you_mean

# What keys were called before, at any level.
_RENAMED_KEYS = {"distillation": "knowledge_distillation"}
# A key that is no longer needed, with its section, and why.
_DROPPED_KEYS = {
    "validate.num_resamples": "intervals follow from the sample alone and draw nothing",
    "validate.num_stratified": "all are drawn uniformly; add its number to num_architectures",
}
# What pydantic says of types, in the words of a file.
_EXPECTED = {
    "dataclass_type": "a section with keys of its own",
    "dict_type": "a section with keys of its own",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number, in digits",
    "int_type": "a whole number",
    "list_type": "a list, such as [a, b]",
    "path_type": "a path",
    "tuple_type": "a list, such as [a, b]",
}
# How pydantic names one of the kinds that a value may be of; sections are named by their classes.
_KIND = re.compile(r"(?:function-\w+|literal|dict|list|tuple)\[.*\]|str|int|float|bool|[A-Z]\w*")


def in_words(
    error: ValidationError, kind: Any, path: tuple[str, ...], beside: Sequence[str] = ()
) -> list[str]:
    """One sentence for each place where something is wrong.

    Args:
        error: What was raised.
        kind: The section that was read.
        path: Where it stands in the configuration.
        beside: Keys that may stand in the section and are read elsewhere.
    """
    faults = _one_for_each_place(error.errors())
    return [_sentence(fault, kind, path, beside) for fault in faults]


def _one_for_each_place(faults: Sequence[Any]) -> list[dict[str, Any]]:
    """The faults, of which a value that may be of several kinds has one for each kind, as one.

    Pydantic puts the kind behind the value's place. Those that got furthest into the value count.
    """
    by_value: dict[tuple[Any, ...], list[Any]] = {}
    for fault in map(_in_our_words, faults):
        place = tuple(takewhile(lambda part: not _KIND.fullmatch(str(part)), fault["loc"]))
        by_value.setdefault(place, []).append(fault)
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for place, members in by_value.items():
        furthest = max(len(fault["loc"]) for fault in members)
        for fault in members:
            inside = (*place, *fault["loc"][len(place) + 1 :])
            if inside in found:
                found[inside]["msg"] += f", or {_bare(fault['msg'])}"
            elif len(fault["loc"]) == furthest:
                found[inside] = {**fault, "loc": inside}
    return list(found.values())


def _in_our_words(fault: Any) -> Any:
    expected = _EXPECTED.get(fault["type"])
    return fault if expected is None else {**fault, "msg": f"Input should be {expected}"}


def _bare(message: str) -> str:
    return message.removeprefix("Value error, ").removeprefix("Input should be ")


def _sentence(fault: Any, kind: Any, path: tuple[str, ...], beside: Sequence[str]) -> str:
    location = ".".join(str(part) for part in (*path, *fault["loc"]))
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        *inside, key = map(str, fault["loc"])
        known = [*([] if inside else beside), *_keys_at(kind, inside)]
        if _RENAMED_KEYS.get(key) in known:
            return f"{location}: this key is called {_RENAMED_KEYS[key]} now; rename it"
        why = _DROPPED_KEYS.get(location)
        if why is not None:
            return f"{location}: this key is no longer needed ({why}); take it out"
        return f"{location}: unknown key; {did_you_mean(key, known)}"
    if fault["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{location}: missing"
    message = fault["msg"].removeprefix("Value error, ").replace("Input", "the value")
    unquoted = _taken_for(fault["input"])
    if "valid string" in message and unquoted:
        return f"{location}: {unquoted}; put the word in quotes to have it as it is written"
    shown = repr(fault["input"])
    given = f" (got {shown if len(shown) <= 60 else shown[:57] + '...'})"
    # What a section says itself names the value that is wrong, and the section is not it.
    is_own = fault["type"] == "value_error" and isinstance(fault["input"], Mapping)
    return f"{location or 'configuration'}: {message}{'' if is_own or 'got ' in message else given}"


def _taken_for(value: Any) -> str:
    """How YAML read a word without quotes that was meant as text; empty if it did not."""
    if isinstance(value, bool):
        words = "yes, on and true" if value else "no, off and false"
        return f"without quotes YAML reads {words} as a truth value, not as text"
    if isinstance(value, int | float | datetime.date):
        return f"without quotes YAML reads this as {value}, not as text"
    return ""


def _keys_at(kind: Any, location: Sequence[str]) -> list[str]:
    """The keys that the section at `location` knows."""
    for part in location:
        fields = _fields(kind)
        kind = fields.get(part, kind)
    return list(_fields(kind))


def _fields(kind: Any) -> dict[str, Any]:
    """Key to type of a section; nothing for a type that is no section."""
    for candidate in (kind, *getattr(kind, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return {f.alias or n: f.annotation for n, f in candidate.model_fields.items()}
        if isinstance(candidate, type) and dataclasses.is_dataclass(candidate):
            from typing import get_type_hints

            hints = get_type_hints(candidate)
            return {field.name: hints[field.name] for field in dataclasses.fields(candidate)}
    return {}
