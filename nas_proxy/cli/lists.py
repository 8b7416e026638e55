"""`nas-proxy list`: what can be named in a configuration."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from nas_proxy.errors import PluginError


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


def _registered(registry: Any) -> list[dict[str, str]]:
    entries = []
    for name in registry.names():
        try:
            plugin = registry.get(name)
        except PluginError as error:
            logging.getLogger("nas_proxy").warning("%s", error)
            continue
        entry = {"name": name, "summary": plugin.summary, "source": plugin.paper}
        for extra in ("family", "typical_cost"):
            if hasattr(plugin, extra):
                entry[extra] = getattr(plugin, extra)
        entries.append(entry)
    return entries


def _distillers() -> list[dict[str, str]]:
    from nas_proxy.registry import DISTILLERS

    return sorted(_registered(DISTILLERS), key=lambda entry: (entry["family"], entry["name"]))


def _spaces() -> list[dict[str, str]]:
    from nas_proxy.registry import SEARCH_SPACES

    return _registered(SEARCH_SPACES)


def _scores() -> list[dict[str, str]]:
    from nas_proxy.registry import SCORES

    return _registered(SCORES)


def _datasets() -> list[dict[str, str]]:
    from nas_proxy.data.sources import DATASETS

    return [
        {"name": name, "summary": source.summary, "source": source.licence}
        for name, source in DATASETS.items()
    ]


_LISTS: dict[str, Callable[[], list[dict[str, str]]]] = {
    "distillers": _distillers,
    "spaces": _spaces,
    "scores": _scores,
    "datasets": _datasets,
}
