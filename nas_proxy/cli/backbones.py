"""The commands for transfer learning: looking at backbones, and pre-training them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from nas_proxy.cli._configs import load_checked

if TYPE_CHECKING:  # torch takes seconds to import, and `--help` should not
    from nas_proxy.backbones.catalogue import BackboneFacts

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def _count(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """A number such as `10M`, `500k` or `1.5e6`."""
    if text is None:
        return None
    fault = f"{text!r} is no number such as 10M or 500k"
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)([kmgb]?)", text.strip().lower())
    if match is None:
        raise click.BadParameter(fault)
    try:
        return int(float(match[1]) * _UNITS[match[2]])
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(fault) from error


@click.command(name="backbones")
@click.option(
    "--sort",
    type=click.Choice(["params", "accuracy", "flops", "latency"]),
    default="params",
    show_default=True,
    help="The smallest, fastest or most accurate first.",
)
@click.option("--max-params", callback=_count, help="Leave out larger ones, such as 10M.")
@click.option("--latency", is_flag=True, help="Measure each on this machine; --sort latency too.")
@click.option("--device", default="cpu", show_default=True, help="For the latency.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), help="PNG file of a scatter plot."
)
@click.pass_context
def backbones_command(
    context: click.Context,
    sort: Any,
    max_params: int | None,
    latency: bool,
    device: str,
    as_json: bool,
    picture: Path | None,
) -> None:
    """Show torchvision's classification networks: size, cost, published accuracy, head.

    All of them can be backbones of the search space torchvision_backbones. Figures are those that
    torchvision publishes for its best weights; latencies are measured here, of one image at the
    size for which the accuracy was published, on one thread of a CPU.
    """
    from nas_proxy.backbones.catalogue import list_backbones, smallest_backbone
    from nas_proxy.core.environment import check_device
    from nas_proxy.core.files import write_atomically
    from nas_proxy.errors import UserError
    from nas_proxy.study.console import ConsoleDisplay

    check_device(device)
    measure = _measure(device) if latency or sort == "latency" else None
    with ConsoleDisplay(Console(stderr=True)).progress("looking at backbones") as progress:
        rows = list_backbones(sort=sort, max_params=max_params, measure=measure, progress=progress)
    if not rows:
        name, num_params = smallest_backbone()
        raise UserError(
            f"no backbone has {max_params:,} parameters or fewer; the smallest, {name}, has "
            f"{num_params:,}"
        )
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=1))
    else:
        Console().print(_table(rows))
    if picture is not None:
        from nas_proxy.report.backbone_figure import draw_backbones

        write_atomically(picture, draw_backbones(rows))
        click.echo(f"picture: {picture}", err=True)


def _measure(device: str) -> Any:
    import torch

    from nas_proxy.evaluate.latency import measure_latency

    def measure(network: Any, shape: tuple[int, int, int]) -> float:
        measured = measure_latency(
            network, shape, num_warm_up=2, num_repeats=10, device=torch.device(device)
        )
        return measured.median_seconds

    return measure


def _table(rows: list[BackboneFacts]) -> Table:
    from nas_proxy.backbones.weights import LICENCE

    table = Table(
        title=f"{len(rows)} backbones of torchvision",
        caption="MACs: multiply-adds of one image. top-1: on ImageNet-1K, as published, with "
        f"images of so many pixels; below it the smallest size. Licence: {LICENCE}.",
    )
    table.add_column("backbone", no_wrap=True)
    for column in ("params\n10^6", "MACs\n10^9", "top-1\n%", "pixels\nfrom"):
        table.add_column(column, justify="right")
    if rows[0].latency_seconds is not None:
        table.add_column("ms", justify="right")
    table.add_column("head")
    for row in rows:
        latency = [] if row.latency_seconds is None else [f"{1e3 * row.latency_seconds:.1f}"]
        table.add_row(
            row.name,
            f"{row.num_params / 1e6:.1f}",
            f"{row.multiply_adds / 1e9:.2f}",
            f"{100 * row.accuracy:.1f}",
            f"{row.image_size}\n{row.smallest_size}",
            *latency,
            row.head,
        )
    return table


@click.command(name="pretrain")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--force", is_flag=True, help="Replace what other settings made.")
def pretrain_command(config: Path, overrides: tuple[str, ...], force: bool) -> None:
    """Make weights for backbones from CONFIG's own images, by default without their labels.

    The section pretrain of CONFIG says how; only search-training images, or those of a folder, are
    learned from. The space torchvision_backbones takes the files as weights: {NAME: FILE}.
    """
    loaded = load_checked(config, overrides)
    import torch

    from nas_proxy.backbones.pretrain_settings import PretrainSettings
    from nas_proxy.backbones.pretraining import make_weights
    from nas_proxy.core.environment import check_device
    from nas_proxy.data.sources import load_splits
    from nas_proxy.errors import ConfigError
    from nas_proxy.study.console import ConsoleDisplay

    settings = loaded.pretrain or PretrainSettings()
    names = settings.backbones or getattr(loaded.space, "backbones", None)
    if not names:
        raise ConfigError(
            f"the space {loaded.space.name!r} has no backbones; name some in pretrain.backbones"
        )
    check_device(loaded.device)
    torch.set_num_threads(loaded.num_threads)
    display = ConsoleDisplay(Console(stderr=True))
    splits = load_splits(loaded.data)
    for name in names:
        with display.progress(f"pre-training {name}") as progress:
            path = make_weights(
                name,
                splits,
                settings,
                seed=loaded.seed,
                device=torch.device(loaded.device),
                progress=progress,
                force=force,
            )
        click.echo(f"{name}: {path}")
