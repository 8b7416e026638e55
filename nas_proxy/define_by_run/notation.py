"""Choices as text, `width=32,depth=4`, and back; every value comes back as what it was."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_WORDS = {"True": True, "False": False, "None": None}
_BARE = re.compile(r"[^\W\d][\w.+-]*")  # begins with a letter, so that it is no number
_NUMBERS = re.compile(r"[+-]?\d[\w.+-]*")
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')


def write_choices(choices: Mapping[str, Any], *, separator: str = ",") -> str:
    """The choices in their order, as `name=value`.

    Texts stand in JSON's quotes where they would be read as something else: numbers, True, False,
    None, and whatever is not made of letters, digits and `_.+-`.
    """
    return separator.join(f"{_word(name)}={_word(value)}" for name, value in choices.items())


def read_choices(text: str) -> dict[str, Any]:
    """The inverse of `write_choices`; blanks around `,` and `=` do not count.

    Raises:
        ValueError: If it is not of that form; the message says where it breaks off.
    """
    choices: dict[str, Any] = {}
    rest = text.strip()
    while True:
        name, rest = _read(rest, text)
        if not rest.startswith("="):
            raise _unreadable(text, rest, "'=' and a value")
        value, rest = _read(rest[1:].lstrip(), text)
        if str(name) in choices:
            raise ValueError(f"{text!r} names {name!r} twice")
        choices[str(name)] = value
        if not rest:
            return choices
        if not rest.startswith(","):
            raise _unreadable(text, rest, "','")
        rest = rest[1:].lstrip()


def _word(value: Any) -> str:
    if not isinstance(value, str):
        return str(value) if value is None or isinstance(value, bool) else json.dumps(value)
    is_plain = _BARE.fullmatch(value) is not None and value not in _WORDS
    return value if is_plain else json.dumps(value)


def _read(rest: str, text: str) -> tuple[Any, str]:
    """The value that `rest` begins with, and what follows it."""
    for kind in (_TEXT, _BARE, _NUMBERS):
        found = kind.match(rest)
        if found is None:
            continue
        word = found[0]
        try:
            value = _WORDS.get(word, word) if kind is _BARE else json.loads(word.removeprefix("+"))
        except ValueError:
            break
        return value, rest[found.end() :].lstrip()
    raise _unreadable(text, rest, 'a word, a number, or a text in "quotes"')


def _unreadable(text: str, rest: str, expected: str) -> ValueError:
    at = f"at {rest[:20]!r}" if rest else "at its end"
    return ValueError(
        f"{text!r} is not of the form width=32,depth=4: {at} there should be {expected}"
    )
