"""What a node is sent: code and files that it has not."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from nas_proxy.cluster.files import FileSender, NodeFiles
from nas_proxy.cluster.plugins import SentPlugins
from nas_proxy.core.packing import pack, unpack
from nas_proxy.errors import ConfigError
from nas_proxy.registry import SEARCH_SPACES

PLUGIN = """
from dataclasses import dataclass

from nas_proxy.interfaces import SearchSpace
from nas_proxy.types import Architecture
{imports}

@dataclass(frozen=True, kw_only=True)
class Mine(SearchSpace):
    depth: int = 1

    def build(self, architecture, spec):
        return {value}

    def suggest(self, trial):
        raise NotImplementedError

    sample = mutate = encode = suggest
"""

ON_NODE = """
import sys
from pathlib import Path
from nas_proxy.core.packing import unpack
plugins, packed, folder = sys.argv[1:]
unpack(Path(plugins).read_bytes()).load(Path(folder))
space = unpack(Path(packed).read_bytes())
print(space.name, space.build(None, None), space.fingerprint(), sep="\\n")
"""


def on_node(space, tmp_path):
    """Name, value and fingerprint of a space in a process that finds none of its files."""
    (tmp_path / "plugins").write_bytes(pack(SentPlugins.here()))
    (tmp_path / "space").write_bytes(pack(space))
    words = [str(tmp_path / name) for name in ("plugins", "space", "there")]
    outcome = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ON_NODE), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout.splitlines()


@pytest.mark.exhaustive
def test_a_plugin_is_found_under_the_drivers_name_where_its_file_is_not(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    (home / "constants_of_mine.py").write_text("VALUE = 42\n")
    file = home / "mine.py"
    file.write_text(
        PLUGIN.format(imports="import constants_of_mine", value="constants_of_mine.VALUE")
    )
    monkeypatch.syspath_prepend(str(home))
    space = SEARCH_SPACES.get(f"{file}:Mine")(depth=3)
    expected = [f"{file}:Mine", "42", space.fingerprint()]
    plugins = SentPlugins.here()
    monkeypatch.setattr(SentPlugins, "here", lambda: plugins)
    file.rename(home / "elsewhere.py")
    (home / "constants_of_mine.py").unlink()
    assert on_node(space, tmp_path) == expected


def sender(companions=lambda path: ()):
    handed = []

    def put(contents):
        handed.append(contents)
        return contents

    return FileSender(put, companions), handed


def test_a_file_goes_once_and_its_folder_mates_with_it(tmp_path):
    file = tmp_path / "set.safetensors"
    file.write_bytes(b"images")
    mate = tmp_path / "teachers" / "t.safetensors"
    mate.parent.mkdir()
    mate.write_bytes(b"weights")
    files, handed = sender(lambda path: (mate,))
    packed = [pack({"train_on": file, "folder": tmp_path}, stand_in=files.stand_in) for _ in "ab"]
    assert len(handed) == 1
    fetched = []
    there = NodeFiles(lambda given: fetched.append(given) or given, tmp_path / "node")
    for each in packed:
        found = unpack(each, lambda path: there.path_of(path, files.objects))
        assert found["train_on"] != file
        assert found["train_on"].read_bytes() == b"images"
        assert (found["train_on"].parent / "teachers" / "t.safetensors").read_bytes() == b"weights"
        assert found["folder"] == tmp_path
    assert len(fetched) == 1


def test_a_file_that_was_changed_goes_again(tmp_path):
    file = tmp_path / "set.safetensors"
    file.write_bytes(b"images")
    files, handed = sender()
    first = files.stand_in(file)
    file.write_bytes(b"others!")
    assert files.stand_in(file) != first
    file.write_bytes(b"images")
    assert files.stand_in(file) == first
    assert len(handed) == 2


def test_a_file_that_is_too_large_is_refused(tmp_path):
    file = tmp_path / "huge"
    with file.open("wb") as opened:
        opened.truncate(3 * 10**9)
    with pytest.raises(ConfigError, match="huge is too large to be sent .*folder of every node"):
        sender()[0].stand_in(file)


def test_what_a_full_disk_leaves_is_not_taken_for_a_copy(tmp_path, monkeypatch):
    there = NodeFiles(lambda given: given, tmp_path / "node")
    objects = {"digest": {"a": b"x", "b": b"y"}}
    write = Path.write_bytes

    def full(self, content):
        if self.name == "b":
            raise OSError(28, "No space left on device")
        return write(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            there.path_of(("digest", "a"), objects)
    assert list((tmp_path / "node").iterdir()) == []
    assert there.path_of(("digest", "b"), objects).read_bytes() == b"y"
