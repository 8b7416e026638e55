"""The folder that a registered version consists of, with sums that show damage.

`SHA256SUMS` lists every other file, so that `sha256sum -c SHA256SUMS` checks the folder anywhere;
the hash of that list stands for the whole content.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

SUMS = "SHA256SUMS"


def stage_folder(folder: Path, files: Mapping[str, Path | bytes]) -> str:
    """Put files together in a new folder.

    Args:
        folder: Must not hold anything yet.
        files: From the name in the folder, with slashes, to a file to copy or the content itself.

    Returns:
        The content hash.

    Raises:
        OSError: If a file is missing or the disk is full.
    """
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_bytes(content)
    lines = [f"{_digest(folder / name)}  {name}\n" for name in sorted(files)]
    (folder / SUMS).write_text("".join(lines))
    return _digest(folder / SUMS)


def find_damage(folder: Path, content_hash: str) -> str:
    """What is wrong with a folder that should have this content, in words; empty if nothing is."""
    sums = folder / SUMS
    if not sums.is_file() or _digest(sums) != content_hash:
        return f"{SUMS} is {'altered' if sums.is_file() else 'missing'}"
    for line in sums.read_text().splitlines():
        expected, name = line.split("  ", 1)
        path = folder / name
        if not path.is_file() or _digest(path) != expected:
            return f"{name} is {'altered' if path.is_file() else 'missing'}"
    return ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
