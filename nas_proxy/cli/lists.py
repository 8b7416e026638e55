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
from nas_proxy.errors import PluginError

# What a plug-in's class says of itself, and what that is called here.
_COLUMNS = {
    "summary": "summary",
    "paper": "source",
    "family": "family",
    "typical_cost": "typical_cost",
}


@click.command(name="list")
@click.argument(
    "kind",
    required=False,
    type=click.Choice(["distillers", "spaces", "scores", "datasets"]),
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(kind: str | None, as_json: bool) -> None:
    """Show what can be named in a config: distillers, search spaces, scores and data sets."""
    found = {name: rows() for name, rows in _LISTS.items() if kind in (None, name)}
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    output = Console()
    for name, entries in found.items():
        table = Table(title=name, title_justify="left", show_lines=True)
        table.add_column("name", no_wrap=True)
        for column in ("family", "what it is, where it comes from, what it takes"):
            if column != "family" or name == "distillers":
                table.add_column(column)
        for entry in entries:
            lines = (entry.get(key) for key in ("summary", "source", "typical_cost"))
            family = [entry["family"]] if name == "distillers" else []
            table.add_row(entry["name"], *family, "\n".join(filter(None, lines)))
        output.print(table)


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
