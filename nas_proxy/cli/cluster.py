"""`nas-proxy cluster`: what a study will find on a cluster, and a job script for one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from nas_proxy.cli._configs import load_checked
from nas_proxy.errors import StudyError

if TYPE_CHECKING:  # torch takes seconds to import, and `--help` should not
    from nas_proxy.cluster.check import NodeCheck
    from nas_proxy.study.config import StudyConfig


@click.group(name="cluster")
def cluster_command() -> None:
    """Check a Ray cluster, or write a job script that makes one."""


@cluster_command.command(name="check")
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--address", help="Of the cluster, instead of search.ray.address.")
def check_command(config: Path | None, overrides: tuple[str, ...], address: str | None) -> None:
    """Ask every node what a study would find there.

    Nodes and their resources, versions, free disk, the way to them and back; with CONFIG its images
    too. Exit status 2 if nodes differ in what decides about figures.
    """
    loaded = None if config is None else load_checked(config, overrides)
    from nas_proxy.cluster.check import faults_in_words

    checks = _checked(loaded, address)
    Console().print(_table(checks))
    faults = faults_in_words(checks)
    if faults:
        raise StudyError(faults)


def _checked(config: StudyConfig | None, address: str | None) -> Sequence[NodeCheck]:
    from dataclasses import replace

    from nas_proxy.cluster import RaySettings
    from nas_proxy.evaluate.executors import Workplace
    from nas_proxy.evaluate.on_cluster import check_cluster

    settings = RaySettings() if config is None else config.search.ray
    if address is not None:
        settings = replace(settings, address=address)
    if config is None:
        return check_cluster(Workplace(settings))
    from nas_proxy.data.sources import load_splits

    return check_cluster(Workplace(settings, config.data, load_splits(config.data)))


def _table(checks: Sequence[NodeCheck]) -> Table:
    table = Table("node", "CPUs", "GPUs", "memory", "free disk", "answers in", "versions", "images")
    for check in checks:
        has, report = check.node.resources, check.report
        row = [check.node.name, f"{has.get('CPU', 0):g}", f"{has.get('GPU', 0):g}"]
        row.append(f"{has.get('memory', 0) / 10**9:.1f} GB")
        if report is not None:
            row[2] += ", MPS" * report.mps
            row.append(f"{report.free_bytes / 10**9:.1f} GB")
            row.append(f"{1000 * check.ping_seconds:.1f} ms")
            row.append(", ".join(f"{name} {number}" for name, number in report.versions.items()))
            row.append(report.source_hash or "none asked for")
        table.add_row(*row)
    return table


@cluster_command.command(name="slurm")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--gpus", type=click.IntRange(min=0), default=0, help="GPUs of each node.")
@click.option("--cpus", type=click.IntRange(min=1), default=8, show_default=True, help="Of each.")
@click.option("--time", "time_limit", default="24:00:00", show_default=True, help="As of sbatch.")
def slurm_command(
    config: Path,
    overrides: tuple[str, ...],
    nodes: int,
    gpus: int,
    cpus: int,
    time_limit: str,
) -> None:
    """Print a job script for Slurm that runs the study CONFIG on a Ray cluster of its nodes.

    Such as `nas-proxy cluster slurm study.yaml --nodes 4 --gpus 4 > job.sbatch`. Before the time
    limit the job is queued again, and goes on where it was.
    """
    loaded = load_checked(config, (*overrides, "search.executor=ray"))
    from nas_proxy.cluster.slurm import slurm_script

    notice = _slots_words(loaded, nodes, {"GPU": gpus, "CPU": cpus})
    if notice:
        click.echo(f"nas-proxy: {notice}", err=True)
    script = slurm_script(
        str(config),
        overrides,
        study_name=loaded.study_name,
        num_nodes=nodes,
        gpus_per_node=gpus,
        cpus_per_node=cpus,
        time_limit=time_limit,
    )
    click.echo(script, nl=False)


def _slots_words(config: StudyConfig, nodes: int, each: dict[str, int]) -> str:
    """What is to be said of slots and room; refuses slots for which no node has room.

    Raises:
        ConfigError: If a slot asks for more than a node will have.
    """
    from nas_proxy.cluster.interface import Node, num_fitting, resource_fault
    from nas_proxy.errors import ConfigError

    wanted = {n: amount for n, amount in config.search.ray.resources.items() if n in each}
    machines = [Node("", f"node {n}", "of Slurm", each) for n in range(1, nodes + 1)]
    fault = resource_fault(wanted, machines)
    if fault:
        raise ConfigError(fault)
    room, asked = num_fitting(wanted, machines), config.search.num_workers
    if room == asked:
        return ""
    return (
        f"search.num_workers is {asked}, and the nodes have room for {room} slots of "
        f"search.ray; set it to {room} to use them all"
    )
