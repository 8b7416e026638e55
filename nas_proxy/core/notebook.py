"""The few lines of HTML by which results show themselves in a notebook; all texts are escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_LEFT = "text-align:left;vertical-align:top"


def table(title: str, rows: Mapping[str, Any], *, sentence: str = "") -> str:
    """A title, a sentence, and a row for each name with its value; empty values are left out.

    Args:
        title: In bold.
        rows: Values as text; several in one are joined by commas.
        sentence: Below the title.
    """
    cells = "".join(
        f"<tr><th style='{_LEFT}'>{escape(name)}</th><td style='{_LEFT}'>{_text(value)}</td></tr>"
        for name, value in rows.items()
        if value not in ("", None, ())
    )
    said = f"<p>{escape(sentence)}</p>" if sentence else ""
    return f"<div><strong>{escape(title)}</strong>{said}<table>{cells}</table></div>"


def grid(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, sentence: str) -> str:
    """A sentence and a table with a head; the first column stands on the left."""
    first = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>"
        + f"<th style='{_LEFT}'>{escape(row[0])}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f"<div><strong>{escape(title)}</strong><p>{escape(sentence)}</p>"
        f"<table><tr>{first}</tr>{body}</table></div>"
    )


def _text(value: Any) -> str:
    return escape(", ".join(map(str, value)) if isinstance(value, tuple) else str(value))
