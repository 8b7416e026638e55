"""`nas-proxy inspect`: what any file that nas_proxy writes says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text


@click.command(name="inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    help="Of a proxy data set: where its picture goes; beside FILE otherwise.",
)
def inspect_command(file: Path, picture: Path | None) -> None:
    """Print what FILE says of itself: any file of a results folder, or a study's folder.

    Of a proxy data set a picture of its images is written too.
    """
    from nas_proxy.study.files import FileKind, kind_of, look_at

    kind = kind_of(file)
    if kind is FileKind.PROXY_DATASET:
        _show_proxy_dataset(file, picture)
        return
    if picture is not None:
        click.echo("--picture is for proxy data sets; none is written", err=True)
    _show({"file": kind.value, **look_at(file, kind)})


def _show_proxy_dataset(file: Path, picture: Path | None) -> None:
    from nas_proxy.data.pictures import write_image_grid
    from nas_proxy.data.proxy_card import ProxyCard

    card = ProxyCard.read(file)
    _show(card.entries)
    target = picture or file.with_suffix(".png")
    write_image_grid(target, card.pixels, card.images_per_class, card.class_names)
    click.echo(f"picture: {target}")


def _show(entries: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in entries.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        table.add_row(Text(name), Text(text))
    Console().print(table)
