"""`nas-proxy check`: whether a plug-in keeps its promises, and if not, where."""

from __future__ import annotations

import click
from rich.console import Console

from nas_proxy.study.config_file import read_values

_NUM_NAMED = 3  # of the checks that found the same fault


@click.command(name="check")
@click.argument("plugin", metavar="PLUGIN")
@click.argument("options", nargs=-1, metavar="[OPTION=VALUE]...")
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Architectures of a search space to draw for each check.",
)
@click.pass_context
def check_command(
    context: click.Context, plugin: str, options: tuple[str, ...], samples: int
) -> None:
    """Run the contract checks on PLUGIN: a search space, a distiller, or a score.

    PLUGIN is what a config calls it: FILE.py:NAME (a class, or the function that is a search
    space), MODULE:NAME, or a registered name. Networks are trained as studies do it: in bfloat16
    with channels-last images, on odd sizes, on one image. Each fault is a line; with one, the exit
    status is 2. A distiller distils many times: give it options that make it cheap.
    """
    given = read_values(options)
    from nas_proxy.lookup import plugin_class
    from nas_proxy.study.console import ConsoleDisplay
    from nas_proxy.study.plain_values import read_options
    from nas_proxy.testing import find_faults

    checked = read_options(plugin_class(plugin), given)
    display = ConsoleDisplay(Console(stderr=True))
    with display.progress(f"checking {plugin}") as progress:
        findings = find_faults(checked, num_samples=samples, progress=progress)
    for finding in findings:
        names = [name.replace("_", " ") for name in finding.checks]
        further = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
        click.echo(f"{finding.fault} [{', '.join(names[:_NUM_NAMED])}{further}]")
    if findings:
        context.exit(2)
    click.echo(f"{plugin} keeps its promises")
