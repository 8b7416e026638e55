"""Files that a job names, sent to a node once by their content.

What a driver packs holds paths. Where one names a file, a hash of its content takes its place, and
the slot that unpacks it gets the path of its node's own copy. A path to a folder stays as it is:
folders, such as those with images, have to be on every node.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_proxy.data.folder import cache_folder
from nas_proxy.errors import ConfigError
from nas_proxy.reproducibility import content_hash

_LARGEST = 2 * 10**9  # bytes

StandIn = tuple[str, str]
"""Hash of a file with its companions, and its name among them."""


class FileSender:
    """Replaces paths to files, and hands their contents over once.

    Args:
        put: See `Cluster.put`.
        companions: Further files that are looked for beside a file, in its folder or below it.
    """

    def __init__(
        self, put: Callable[[object], Any], companions: Callable[[Path], Sequence[Path]]
    ) -> None:
        self._put = put
        self._companions = companions
        self._known: dict[tuple[tuple[str, int, int], ...], str] = {}
        self.objects: dict[str, Any] = {}
        """Where slots fetch what is sent, by its hash."""

    def stand_in(self, path: Path) -> StandIn | None:
        """What is packed in place of a path; None for one that is no file.

        Raises:
            ConfigError: If the file is too large to be sent.
        """
        if not path.is_file():
            return None
        files = {path.name: path}
        files |= {str(each.relative_to(path.parent)): each for each in self._companions(path)}
        state = tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files.values())
        if sum(size for _, size, _ in state) > _LARGEST:
            raise ConfigError(
                f"{path} is too large to be sent to the nodes of a cluster (more than "
                f"{_LARGEST / 10**9:.0f} GB); put it into a folder of every node"
            )
        if state not in self._known:
            contents = {name: file.read_bytes() for name, file in files.items()}
            self._known[state] = self.give(contents)
        return self._known[state], path.name

    def give(self, contents: Mapping[str, bytes]) -> str:
        """Hand over files by their relative names; the hash under which slots find them."""
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        digest = content_hash(hashes, length=32)
        if digest not in self.objects:
            self.objects[digest] = self._put(dict(contents))
        return digest


class NodeFiles:
    """A node's own copies, which all its slots share; written under their final name in one go.

    Args:
        fetch: From what `FileSender.objects` holds to the contents.
        folder: Where they lie; None: in this machine's cache.
    """

    def __init__(self, fetch: Callable[[Any], Any], folder: Path | None = None) -> None:
        self._fetch = fetch
        self._folder = cache_folder("sent") if folder is None else folder
        self._lock = threading.Lock()

    def path_of(self, stand_in: StandIn, objects: Mapping[str, Any]) -> Path:
        """The copy's path, after it was fetched if it is not there.

        Raises:
            OSError: If the disk of the node is full.
        """
        digest, name = stand_in
        return self.folder_of(digest, objects) / name

    def folder_of(self, digest: str, objects: Mapping[str, Any]) -> Path:
        """The folder with all files of one hash; errors as of `path_of`."""
        final = self._folder / digest
        with self._lock:
            if not final.is_dir():
                self._write(final, self._fetch(objects[digest]))
        return final

    def _write(self, final: Path, contents: Mapping[str, bytes]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="unfinished_", dir=self._folder))
        try:
            for name, content in contents.items():
                file = made / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            made.rename(final)
        except OSError:
            shutil.rmtree(made, ignore_errors=True)
            if not final.is_dir():  # else another slot of the node was faster
                raise
