"""CIFAR: reading it, fetching it, and what a user reads when it cannot be had."""

import hashlib
import os
import pickle
import socket
import tarfile
import threading
from collections import Counter
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torchvision

from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.errors import DataError
from tests.data.helpers_sources import contents, parts_of, per_class

pytestmark = pytest.mark.usefixtures("own_folders")

# In files of the authors' format

CIFARS = [("cifar10", torchvision.datasets.CIFAR10), ("cifar100", torchvision.datasets.CIFAR100)]
NAMES = {"cifar10": ("airplane", "cat", "truck"), "cifar100": ("apple", "rose", "whale")}


def write_cifar(root, name, data_class, monkeypatch):
    """Twelve random images of each class per file, and torchvision told their checksums.

    Returns:
        The folder, and what was written to each of its files.
    """
    folder = root / data_class.base_folder
    folder.mkdir(parents=True)
    key = "labels" if name == "cifar10" else "fine_labels"
    checksums, written = {}, {}

    def write(file, content):
        written[file] = content
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
        checksums[file] = hashlib.md5((folder / file).read_bytes()).hexdigest()

    for number, (file, _) in enumerate([*data_class.train_list, *data_class.test_list]):
        pixels = np.random.default_rng(number).integers(0, 256, (36, 3072), dtype=np.uint8)
        write(file, {"data": pixels, key: [0, 1, 2] * 12, "batch_label": file})
    write(data_class.meta["filename"], {data_class.meta["key"]: list(NAMES[name])})
    for attribute in ("train_list", "test_list"):
        files = [[file, checksums[file]] for file, _ in getattr(data_class, attribute)]
        monkeypatch.setattr(data_class, attribute, files)
    meta = {**data_class.meta, "md5": checksums[data_class.meta["filename"]]}
    monkeypatch.setattr(data_class, "meta", meta)
    return folder, written


@pytest.mark.parametrize(("name", "data_class"), CIFARS)
def test_cifar_is_read_whole_and_keeps_the_authors_test(tmp_path, monkeypatch, name, data_class):
    _, contents_of = write_cifar(tmp_path, name, data_class, monkeypatch)
    splits = load_splits(DataSettings(name=name, root=str(tmp_path)))
    assert splits.spec.class_names == NAMES[name]
    assert splits.spec.image_shape == (3, 32, 32)

    def written(files):
        rows = Counter()
        for file, _ in files:
            content = contents_of[file]
            labels = content.get("labels") or content["fine_labels"]
            pairs = zip(content["data"], labels, strict=True)
            rows.update((row.tobytes(), label) for row, label in pairs)
        return rows

    assert contents(splits.test) == written(data_class.test_list)
    assert contents(splits.search_train, splits.search_val) == written(data_class.train_list)
    per_file = 12 * len(data_class.train_list)
    assert per_class(splits.search_val) == [round(per_file * 0.2)] * 3


def test_cifar_is_found_where_the_variable_says(tmp_path, monkeypatch):
    write_cifar(tmp_path, *CIFARS[0], monkeypatch)
    monkeypatch.setenv("NAS_PROXY_DATA", str(tmp_path))
    splits = load_splits(DataSettings(name="cifar10", classes=("truck", 0), image_size=8))
    assert splits.spec.class_names == ("truck", "airplane")
    assert splits.spec.image_shape == (3, 8, 8)
    assert [per_class(part) for part in parts_of(splits)] == [[48, 48], [12, 12], [12, 12]]


def test_missing_cifar_says_where_it_looked_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        load_splits(DataSettings(name="cifar10", root="nowhere"))
    assert str(caught.value) == (
        f"CIFAR10 was not found in {tmp_path}/nowhere (from data.root): put cifar-10-batches-py "
        "there, or pass data.download=true to fetch 170 MB from the authors' site"
    )
    monkeypatch.setenv("NAS_PROXY_DATA", "/no/data")
    with pytest.raises(DataError, match=r"in /no/data \(from NAS_PROXY_DATA\)"):
        load_splits(DataSettings(name="cifar100"))
    monkeypatch.delenv("NAS_PROXY_DATA")
    cache = os.environ["XDG_CACHE_HOME"]
    with pytest.raises(DataError, match=rf"in {cache}/nas_proxy \(from the default; set data.root"):
        load_splits(DataSettings(name="cifar100"))


def test_cifar_without_one_file_names_it(tmp_path, monkeypatch):
    folder, _ = write_cifar(tmp_path, *CIFARS[0], monkeypatch)
    (folder / "data_batch_3").unlink()
    expected = r"cifar-10-batches-py cannot be used: data_batch_3 is missing; delete"
    with pytest.raises(DataError, match=expected):
        load_splits(DataSettings(name="cifar10", root=str(tmp_path)))


class Trap:
    """Pickled, it leaves a file wherever it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_batch_with_another_md5_is_called_damaged_and_never_unpickled(tmp_path, monkeypatch):
    folder, _ = write_cifar(tmp_path, *CIFARS[0], monkeypatch)
    (folder / "test_batch").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    (folder / "batches.meta").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    expected = r"test_batch is damaged \(its md5.*, batches.meta is damaged"
    with pytest.raises(DataError, match=expected):
        load_splits(DataSettings(name="cifar10", root=str(tmp_path)))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("download", [False, True])
def test_damaged_class_names_are_not_a_failed_download(tmp_path, monkeypatch, download):
    folder, _ = write_cifar(tmp_path, *CIFARS[0], monkeypatch)
    (folder / "batches.meta").write_bytes(b"")
    settings = DataSettings(name="cifar10", root=str(tmp_path), download=download)
    with pytest.raises(DataError, match=r"cannot be used: batches.meta is damaged"):
        load_splits(settings)


def test_an_unreadable_batch_is_named(tmp_path, monkeypatch):
    folder, _ = write_cifar(tmp_path, *CIFARS[0], monkeypatch)

    def refuse(path, md5=None):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torchvision.datasets.utils, "check_integrity", refuse)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", refuse)
    with pytest.raises(DataError, match=r"data_batch_1 cannot be read \(Permission denied\)"):
        load_splits(DataSettings(name="cifar10", root=str(tmp_path)))
    assert folder.is_dir()


# Downloads, from a server of our own


@pytest.fixture
def site(tmp_path_factory):
    """A folder, and the address under which it is served."""
    folder = tmp_path_factory.mktemp("site")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def cifar_site(site, tmp_path, monkeypatch):
    """CIFAR-10 as an archive on the server, and settings that ask for it."""
    folder, address = site
    data_class = torchvision.datasets.CIFAR10
    content, _ = write_cifar(tmp_path / "made", "cifar10", data_class, monkeypatch)
    archive = folder / data_class.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(content, arcname=content.name)
    monkeypatch.setattr(data_class, "url", f"{address}/{data_class.filename}")
    monkeypatch.setattr(data_class, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return DataSettings(name="cifar10", root=str(tmp_path / "data"), download=True)


def test_cifar_is_downloaded_and_found_afterwards(cifar_site):
    fetched = load_splits(cifar_site)
    found = load_splits(replace(cifar_site, download=False))
    assert fetched.spec == found.spec


def test_a_damaged_batch_is_mended_by_a_download(cifar_site):
    load_splits(cifar_site)
    batch = Path(cifar_site.root) / "cifar-10-batches-py" / "data_batch_2"
    batch.write_bytes(batch.read_bytes()[:100])
    with pytest.raises(DataError, match="data_batch_2 is damaged"):
        load_splits(replace(cifar_site, download=False))
    assert len(load_splits(cifar_site).test) == 36


def test_a_download_with_another_md5_is_refused(cifar_site, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(DataError, match=r"could not be downloaded \(the md5 of what arrived"):
        load_splits(cifar_site)
    assert not (Path(cifar_site.root) / "cifar-10-batches-py").exists()


def test_a_missing_page_is_a_failed_download(cifar_site, site):
    (site[0] / "cifar-10-python.tar.gz").unlink()
    with pytest.raises(DataError, match=r"tar.gz could not be downloaded \(HTTP Error 404"):
        load_splits(cifar_site)


@pytest.mark.parametrize("name", ["cifar10", "imagenette"])
def test_an_unreachable_site_is_a_failed_download(tmp_path, monkeypatch, name):
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/archive.tgz"
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", url)
        archives = {"160px": (url.replace("archive", "imagenette2-160"), "0" * 32)}
        monkeypatch.setattr(torchvision.datasets.Imagenette, "_ARCHIVES", archives)
        settings = DataSettings(name=name, root=str(tmp_path), image_size=8, download=True)
        with pytest.raises(DataError, match=r"could not be downloaded \(.*refused.*: try again"):
            load_splits(settings)


# Real images


@pytest.mark.exhaustive
def test_the_real_cifar10(shared_folder):
    splits = load_splits(DataSettings(name="cifar10", root=str(shared_folder / "data")))
    assert [per_class(part) for part in parts_of(splits)] == [[4000] * 10, [1000] * 10, [1000] * 10]
    # The published figures, of all 50,000 training images.
    assert splits.spec.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-3)
    assert splits.spec.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-3)
