"""A results folder that was moved: MLflow notes absolute addresses of the files beside it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from nas_proxy.tracking._mlflow_border import artifact_root

# Where MLflow's database keeps addresses of files; it has no interface that changes them.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def follow_move(results: Path) -> None:
    """Let the store in the results folder find its files where they lie now.

    Addresses outside `mlartifacts` are somebody else's and stay.

    Raises:
        sqlite3.Error: If the store cannot be read or written.
    """
    here, name = artifact_root(results), artifact_root(results).rpartition("/")[2]
    with closing(sqlite3.connect(results / "mlflow.db", timeout=60)) as database, database:
        tables = {table for (table,) in database.execute("SELECT name FROM sqlite_master")}
        if "experiments" not in tables:
            return
        noted = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (there,) in noted:
            if there and there != here and there.rpartition("/")[2] == name:
                for table, column in _ADDRESSES:
                    if table in tables:
                        _replace(database, table, column, there, here)


def _replace(database: sqlite3.Connection, table: str, column: str, there: str, here: str) -> None:
    database.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
        (here, len(there) + 1, there, len(there) + 1, f"{there}/"),
    )
