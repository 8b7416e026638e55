"""`nas-proxy plan`: what a study will do and cost, before anything is spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from nas_proxy.cli._configs import load_checked
from nas_proxy.statistics.words import duration
from nas_proxy.study.console import ConsoleDisplay

if TYPE_CHECKING:  # torch takes seconds to import, and `--help` should not
    from nas_proxy.study.estimate import StageEstimate, StudyEstimate, TaskEstimate


@click.command(name="plan")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--timing-seconds",
    type=click.FloatRange(min=0, min_open=True, max=86_400),
    default=60.0,
    show_default=True,
    help="How long candidates may be timed.",
)
def plan_command(
    config: Path, overrides: tuple[str, ...], as_json: bool, timing_seconds: float
) -> None:
    """Say what a study will do, what it costs here and what that buys, before it begins.

    A few training steps of a few random candidates are timed on this machine. What an earlier run
    has finished is not counted again, and nothing in the study's folder is changed.
    """
    loaded = load_checked(config, overrides)
    from nas_proxy.study.planning import plan_study

    display = ConsoleDisplay(Console(stderr=True))
    found = plan_study(loaded, display, timing_seconds=timing_seconds)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
    else:
        _show(found, Console())


def _show(found: StudyEstimate, console: Console) -> None:
    workers = f"{found.num_workers} worker{'s' if found.num_workers > 1 else ''}"
    table = Table(title=f"{found.study_name} on {found.hardware}, {workers}", title_justify="left")
    table.add_column("stage", no_wrap=True)
    table.add_column("what is left", ratio=1, overflow="fold")
    table.add_column("each", justify="right")
    table.add_column("core time")
    table.add_column("wall time", justify="right")
    for stage in found.stages:
        for cells in _rows(stage):
            table.add_row(*cells)
        table.add_section()
    table.add_row("all", "", "", str(found.core_seconds), duration(found.wall_seconds.expected))
    console.print(table)
    for stage in found.stages:
        for title, sentences in (
            ("buys", stage.buys),
            ("cheaper", stage.cheaper),
            ("note", stage.notes),
        ):
            for sentence in sentences:
                _say(console, f"{stage.stage}, {title}: {sentence}")
    _say(console, f"in all, with proof: {found.core_seconds} of cores' time")
    _say(console, f"in all, without proof: {found.core_seconds_without_proof}")
    if found.all_fully_trained is not None:
        _say(console, f"instead, all searched candidates fully trained: {found.all_fully_trained}")
    if found.peak_mib is not None:
        _say(console, f"memory: one process grows by up to {found.peak_mib:.0f} MiB beside images")
    for note in found.notes:
        _say(console, note)


def _rows(stage: StageEstimate) -> list[tuple[str, ...]]:
    if stage.is_finished:
        return [(stage.stage, "done", "", "", "")]
    rows = [("", _work_words(task), *_cost_words(task)) for task in stage.tasks]
    wall = duration(stage.wall_seconds.expected) if stage.tasks else ""
    return [(stage.stage, "", "", str(stage.core_seconds) if stage.tasks else "", wall), *rows]


def _work_words(task: TaskEstimate) -> str:
    left = task.total - task.done
    count = f"{left} of {task.total} left" if task.done else str(task.total)
    if task.likely_left < left:
        count = f"at most {count}, {task.likely_left} expected"
    missing = f" ({task.unknown})" if task.unknown and left else ""
    return f"{task.what}: {count}{missing}"


def _cost_words(task: TaskEstimate) -> tuple[str, str, str]:
    if task.core_seconds is None or task.wall_seconds is None:
        return "?", "?", "?"
    each = "" if task.seconds_each is None else duration(task.seconds_each)
    left = (task.core_seconds.expected, task.wall_seconds.expected)
    return each, duration(left[0]), duration(left[1])


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
