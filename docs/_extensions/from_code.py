"""Puts what the code says of itself into the pages: `<!-- from the code: NAME -->`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from described import distillers, public_names, scores, sections, spaces

_MARK = re.compile(r"<!-- from the code: ([\w ]+) -->")
_TEXTS: dict[str, Callable[[], str]] = {
    "sections": sections,
    "distillers": distillers,
    "spaces": spaces,
    "scores": scores,
    "public names": public_names,
}


def _fill(app: Any, page: str, source: list[str]) -> None:
    source[0] = _MARK.sub(lambda found: _TEXTS[found[1]](), source[0])


def setup(app: Any) -> dict[str, Any]:
    """Sphinx's hook."""
    app.connect("source-read", _fill)
    # The texts depend on all of the code, of which Sphinx knows nothing.
    app.connect("env-get-outdated", lambda *_: {"options", "plugins", "api"})
    return {"version": "1", "parallel_read_safe": True}
