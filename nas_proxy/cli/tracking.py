"""`nas-proxy track`: a study that ran offline, in an MLflow store."""

from __future__ import annotations

from pathlib import Path

import click

from nas_proxy.errors import UserError, masked


@click.command(name="track")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--to", "uri", required=True, metavar="URI", help="MLflow's address of the store.")
@click.option("--experiment", help="There; by default the one that the study names.")
def track_command(study: Path, uri: str, experiment: str | None) -> None:
    """Upload what the study in the folder STUDY has logged, whole and once.

    It may have been tracked in its results folder, on a server that was away, or not at all. Called
    again, it sends what is new.
    """
    from nas_proxy.study.config_file import read_mapping
    from nas_proxy.tracking import TrackingSettings, track_study

    config = study / "config.yaml"
    if not config.is_file():
        raise UserError(f"{study} is not the folder of a study: it holds no config.yaml")
    named = read_mapping(config).get("tracking") or {}
    default = named.get("experiment", TrackingSettings().experiment)
    settings = TrackingSettings(uri=uri, experiment=experiment or default)
    num_new = track_study(study, settings)
    what = f"{num_new} entries are new" if num_new else "everything was there already"
    place = f"{masked(uri)}, experiment {settings.experiment}"
    click.echo(f"tracked: {study.resolve().name} is in {place}: {what}")
