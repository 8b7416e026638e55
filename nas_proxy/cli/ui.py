"""`nas-proxy ui`: a study's pages in a browser, MLflow's or Optuna's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from nas_proxy.errors import UserError

_MLFLOW_PORT, _OPTUNA_PORT = 5000, 8080


@click.command(name="ui")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results"))
@click.option("--uri", help="Another MLflow store than the one in the results folder.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help=f"{_MLFLOW_PORT} by default; with --optuna {_OPTUNA_PORT}.",
)
@click.option("--optuna", is_flag=True, help="optuna-dashboard instead; --uri is its storage.")
@click.option("--study", help="Which study, with --optuna; by default the latest.")
def ui_command(
    results: Path, uri: str | None, port: int | None, optuna: bool, study: str | None
) -> None:
    """Open MLflow's pages on 127.0.0.1 until Ctrl-C."""
    if study is not None and not optuna:
        raise UserError("--study is for --optuna; MLflow's pages show every study")
    if optuna:
        from nas_proxy.search.dashboard import launch_dashboard

        launch_dashboard(results, study, uri, port or _OPTUNA_PORT, _announce("optuna-dashboard"))
        return
    from nas_proxy.tracking import launch_ui

    launch_ui(results, uri, port or _MLFLOW_PORT, _announce("MLflow"))


def _announce(name: str) -> Callable[[str], None]:
    return lambda page: click.echo(f"{name}: {page} (Ctrl-C ends it)", err=True)
