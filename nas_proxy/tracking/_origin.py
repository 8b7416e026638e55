"""Who logs from where, in the tags by which MLflow's pages show user, source and version."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_GIT_SECONDS = 5.0


def origin_tags(code: Sequence[Path]) -> dict[str, str]:
    """Tags of every run that this process begins; what is not known is left out.

    Args:
        code: Files of the study's own code, whose commit is noted; where there are none, that of
            the working directory.
    """
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.name": _program(),
        "mlflow.source.type": "LOCAL",
        **_version(code[0].parent if code else Path.cwd()),
    }
    return {name: text for name, text in tags.items() if text}


def _program() -> str:
    name = Path(sys.argv[0]).name
    return "nas-proxy" if name in ("", "-c", "-m", "__main__.py") else name


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # as in a container whose user has no name
        return ""


def _version(folder: Path) -> dict[str, str]:
    """Commit of the git repository that a folder is in, and whether something is not in it."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    edited = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.dirty": "true" if edited else "false",
    }


def _git(folder: Path, *words: str) -> str:
    """What git answers; empty without git, without a repository, or without an answer."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},  # we only look
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout.strip()
