"""`nas-proxy list`: what can be named in a configuration."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from nas_proxy.cli._plugin_text import class_texts
from nas_proxy.data.descriptions import DATASET_WORDS
from nas_proxy.errors import PluginError, UserError, did_you_mean

# What a plug-in's class says of itself, and what that is called here.
_COLUMNS = {
    "summary": "summary",
    "paper": "source",
    "family": "family",
    "typical_cost": "typical_cost",
}


_TITLES = {"typical_cost": "what it takes", "source": "where it comes from"}


@click.command(name="list")
@click.argument(
    "kind",
    required=False,
    type=click.Choice(["distillers", "spaces", "scores", "datasets"]),
)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(kind: str | None, name: str | None, as_json: bool) -> None:
    """Show what can be named in a config: distillers, search spaces, scores and data sets.

    With a KIND one line each, with a NAME of it all that is known of one.
    """
    found = {each: rows() for each, rows in _LISTS.items() if kind in (None, each)}
    if kind is not None and name is not None:
        found = {kind: [_named(kind, name, found[kind])]}
    if as_json:
        click.echo(json.dumps(found, indent=1))
    elif kind is None:
        for each, entries in found.items():
            names = ", ".join(entry["name"] for entry in entries)
            click.echo(f"{each} ({len(entries)}): {names}\n")
        click.echo("nas-proxy list KIND: a line each; nas-proxy list KIND NAME: all of one")
    elif name is None:
        _show_lines(found[kind])
    else:
        _show_details(found[kind][0])


def _named(kind: str, name: str, entries: list[dict[str, str]]) -> dict[str, str]:
    names = [entry["name"] for entry in entries]
    if name not in names:
        raise UserError(f"there is no {name!r} among {kind}; {did_you_mean(name, names)}")
    return entries[names.index(name)]


def _show_lines(entries: list[dict[str, str]]) -> None:
    """One line for each; a terminal cuts what is too long for it, and a file gets all."""
    console, longest = Console(), max(len(entry["name"]) for entry in entries)
    for entry in entries:
        line = f"{entry['name']:<{longest}}  {entry['summary']}"
        if console.is_terminal:
            line = shorten_line(line, console.width)
        click.echo(line)


def shorten_line(line: str, width: int) -> str:
    """The line with an ellipsis where it would not fit."""
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _show_details(entry: dict[str, str]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in entry.items():
        table.add_row(_TITLES.get(title, title), text)
    Console().print(table)


def _plugins(group: str) -> list[dict[str, str]]:
    """The plug-ins of an entry-point group, by name; one that cannot be imported is warned of.

    Those that ship are known to work and are not imported: that takes seconds.
    """
    rows = []
    for name, module, class_name in sorted(
        (e.name, e.module, e.attr) for e in entry_points(group=group)
    ):
        try:
            if module.startswith("nas_proxy."):
                said = class_texts(module, class_name, _COLUMNS)
            else:
                said = _imported_texts(group, name)
        except PluginError as error:
            logging.getLogger("nas_proxy").warning("%s", error)
            continue
        row = {"name": name, **{_COLUMNS[key]: said[key] for key in _COLUMNS if key in said}}
        rows += [row] if row not in rows else []  # of a distribution that is found twice
    return rows


def _imported_texts(group: str, name: str) -> dict[str, str]:
    from nas_proxy.registry import DISTILLERS, SCORES, SEARCH_SPACES

    registries: dict[str, Any] = {r.group: r for r in (DISTILLERS, SEARCH_SPACES, SCORES)}
    plugin = registries[group].get(name)
    return {key: getattr(plugin, key) for key in _COLUMNS if hasattr(plugin, key)}


def _distillers() -> list[dict[str, str]]:
    rows = _plugins("nas_proxy.distillers")
    return sorted(rows, key=lambda row: (row["family"], row["name"]))


def _datasets() -> list[dict[str, str]]:
    return [
        {"name": name, "summary": words.summary, "source": words.licence}
        for name, words in DATASET_WORDS.items()
    ]


_LISTS: dict[str, Callable[[], list[dict[str, str]]]] = {
    "distillers": _distillers,
    "spaces": partial(_plugins, "nas_proxy.search_spaces"),
    "scores": partial(_plugins, "nas_proxy.scores"),
    "datasets": _datasets,
}
