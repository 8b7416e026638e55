"""`nas-proxy example`: configurations to begin with."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

import click

import nas_proxy
from nas_proxy.errors import ConfigError, did_you_mean

_PACKAGE = Path(nas_proxy.__file__).parent


@click.command(name="example")
@click.argument("name", required=False)
def example_command(name: str | None) -> None:
    """Print the configuration NAME, to be kept and changed; without a NAME, list them.

    Such as `nas-proxy example quickstart > mine.yaml`.
    """
    files = {file.stem: file for file in sorted(_folder().glob("*.yaml"))}
    if name is None:
        width = max(map(len, files))
        for stem, file in files.items():
            click.echo(f"{stem:{width}}  {_first_sentence(file.read_text())}")
        return
    if name not in files:
        raise ConfigError(f"there is no example {name!r}; {did_you_mean(name, files)}")
    click.echo(files[name].read_text(), nl=False)


def _first_sentence(config: str) -> str:
    """Of the comment that a configuration begins with."""
    comment = takewhile(lambda line: line.startswith("#"), config.splitlines())
    return " ".join(line.strip("# ") for line in comment).partition(". ")[0]


def _folder() -> Path:
    """Where they are: in the wheel inside the package, in a checkout beside it."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"
