"""`nas-proxy init`: a configuration for somebody's own images."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from rich.console import Console

from nas_proxy.errors import ConfigError
from nas_proxy.study.console import ConsoleDisplay


@click.command(name="init")
@click.argument("source", default=".", metavar="[FOLDER|DATASET]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file; else NAME.yaml.")
def init_command(source: str, output: Path | None) -> None:
    r"""Look at images and write a commented configuration that runs as it is.

    FOLDER, the present one unless it is said, holds one of two layouts:

    \b
      train/<class>/*.jpg   and test/<class>/* or val/<class>/*, to test
      <class>/*.jpg         a fifth of each class is held out to test

    Images (jpg, jpeg, png, ppm, bmp, pgm, tif, tiff, webp) count directly in a class folder alone.
    DATASET is a name of `nas-proxy list datasets`, such as cifar10.

    Said are counts, the size that is proposed, uneven classes, and files that cannot be read.
    Nothing is overwritten.
    """
    if output is not None:
        _refuse_overwriting(output)
    from nas_proxy.study.first_config import first_config

    display = ConsoleDisplay(Console(stderr=True))
    with display.progress("looking at images") as progress:
        found = first_config(source, progress=progress)
    path = output or Path(f"{found.study_name}.yaml")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(found.text)
    except FileExistsError:
        _refuse_overwriting(path)
    for finding in found.findings:
        click.echo(finding)
    word = shlex.quote(str(path))
    click.echo(f"written: {path}; next: nas-proxy plan {word}, or nas-proxy run {word}")


def _refuse_overwriting(path: Path) -> None:
    if path.exists():
        raise ConfigError(f"{path} is there already; remove it, or give another with --output")
