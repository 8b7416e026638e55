"""`nas-proxy new`: files to begin a plug-in of one's own with."""

from __future__ import annotations

import keyword
import sys
import sysconfig
from importlib.machinery import PathFinder
from importlib.resources import files
from pathlib import Path
from string import Template

import click

from nas_proxy.errors import ConfigError


@click.group(name="new")
def new_command() -> None:
    """Write a file to begin a plug-in of your own with, and its test."""


@new_command.command(name="space")
@click.argument("file", type=click.Path(path_type=Path))
def new_space(file: Path) -> None:
    """Write a search space to FILE, and its test beside it as test_FILE.

    It is one function, which runs as it is. No file is overwritten.
    """
    if file.suffix != ".py" or not file.stem.isidentifier() or keyword.iskeyword(file.stem):
        raise ConfigError(
            f"{file} cannot be imported: take a name of letters, digits and _ that ends in .py, "
            "such as my_space.py"
        )
    if _is_installed(file.stem) and not file.exists():
        raise ConfigError(
            f"{file.name} would hide the installed module {file.stem!r} from whatever is run in "
            "its folder; take another name, such as my_space.py"
        )
    texts = {
        file: _filled("space.py.txt", file),
        file.with_name(f"test_{file.name}"): _filled("test_space.py.txt", file),
    }
    for path in texts:
        if path.exists():
            raise ConfigError(f"{path} exists; move it away, or choose another name")
    if not file.parent.is_dir():
        raise ConfigError(f"the folder {file.parent} does not exist; create it, or choose another")
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    click.echo(f"search space: {file}, its test: {file.with_name(f'test_{file.name}')}")
    click.echo(f"check it with:       nas-proxy check {file}:network")
    click.echo(f"name it in a config: space: {{name: {file}:network}}")


def _filled(template: str, file: Path) -> str:
    text = files("nas_proxy.cli").joinpath("templates", template).read_text(encoding="utf-8")
    return Template(text).substitute(file=file.name, stem=file.stem)


def _is_installed(name: str) -> bool:
    """Whether Python or a library brings a module of that name; the user's own do not count."""
    spec = PathFinder.find_spec(name, sorted({*sysconfig.get_paths().values()}))
    return spec is not None or name in sys.builtin_module_names
