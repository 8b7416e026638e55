"""The commands that exchange proxy data sets with other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nas_proxy.cli._configs import load_checked
from nas_proxy.errors import UserError


def _numbers(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not of the form 0.49,0.48,0.45") from error


_WHERE: list[Callable[[Any], Any]] = [
    click.option(
        "--format",
        type=click.Choice(["auto", "dc", "mtt", "idc", "folder", "tensors"]),
        default="auto",
        show_default=True,
        help="Refuse SOURCE unless it can be read as this.",
    ),
    click.option("--index", type=click.IntRange(0), default=0, help="Which of several sets in it."),
    click.option("--labels", type=click.Path(path_type=Path), help="The file with the labels."),
]
_WHAT: list[Callable[[Any], Any]] = [
    click.option("--decode-factor", type=click.IntRange(1), help="Tiles along each side (IDC)."),
    click.option("--normalised", type=click.BOOL, help="yes: by mean and std; no: in [0, 1]."),
    click.option("--mean", callback=_numbers, help="That it is normalised with: 0.49,0.48,0.45."),
    click.option("--std", callback=_numbers, help="The same for the deviation."),
    click.option("--zca", type=float, help="Whitened with this, as authors count; usually 0.1."),
    click.option("--soft-labels", type=click.Choice(["probabilities", "logits"])),
    click.option("--temperature", type=float, default=1.0, help="That soft labels were made at."),
    click.option("--learning-rate", type=float, help="At which the images teach best."),
]


def _options(options: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command(name="import-proxy")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A .safetensors file.")
@click.option("--force", is_flag=True, help="Replace the file if it is there already.")
@_options(_WHERE)
@_options(_WHAT)
def import_proxy(
    source: Path, config: Path, overrides: tuple[str, ...], out: Path, force: bool, **words: Any
) -> None:
    """Make a proxy data set file of a set that others published.

    SOURCE is a file or folder as of DC, DSA, DM, MTT, DATM or IDC, a folder of pictures as of SRe2L
    or RDED, or what export-proxy wrote. The section data of CONFIG says which data set it was
    distilled from. What the files do not say can be said by options; what is assumed is printed.
    No code that a file brings along is run.
    """
    if out.suffix != ".safetensors" or out.is_dir():
        raise UserError(f"--out must name a file that ends in .safetensors, not {out}")
    if out.exists() and not force:
        raise UserError(f"{out} is there already; pass --force to replace it, or name another file")
    settings = load_checked(config, overrides).data
    from nas_proxy.data.sources import load_splits
    from nas_proxy.interchange.published import import_published
    from nas_proxy.interchange.published_formats import Source
    from nas_proxy.interchange.published_meaning import Assumptions

    form, index, labels = (words.pop(name) for name in ("format", "index", "labels"))
    found = Source(path=source, format=None if form == "auto" else form, index=index, labels=labels)
    said = Assumptions(**words)
    spec = load_splits(settings).spec
    imported = import_published(found, spec, said)
    imported.save(out)
    for sentence in imported.parameters["assumed"]:
        click.echo(f"assumed: {sentence}")
    click.echo(
        f"{len(imported)} images of {spec.name} by {imported.method}, "
        f"{imported.labelling.kind} labels, id {imported.id}: {out}"
    )


@click.command(name="export-proxy")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True)
@click.option(
    "--as",
    "form",
    type=click.Choice(["folder", "tensors"]),
    help="Pictures in class folders, or plain tensors; both without this option.",
)
def export_proxy(file: Path, folder: Path, form: str | None) -> None:
    """Write the proxy data set FILE as pictures with labels, and as plain tensors."""
    from nas_proxy.data.proxy_dataset import ProxyDataset
    from nas_proxy.interchange.export import EXPORT_FORMS, export_proxy_dataset

    forms = [name for name in EXPORT_FORMS if form in (None, name)]
    export_proxy_dataset(ProxyDataset.load(file), folder, forms)
    click.echo(f"{' and '.join(forms)}: {folder}")
