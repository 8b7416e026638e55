"""Image folders: what is kept of what was decoded."""

import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas_proxy.data import _decoded as decoded_module
from nas_proxy.data import folder as folder_module
from nas_proxy.data.folder import cache_folder, decode, list_folder, read_images
from nas_proxy.errors import DataError
from tests.data.helpers_folder import make_folder, read_all

pytestmark = pytest.mark.usefixtures("own_cache")


def cache_files():
    return sorted(cache_folder().glob("*")) if cache_folder().exists() else []


def unfinished_files():
    return sorted(cache_folder().glob(".*"))


@pytest.fixture
def decodings(monkeypatch):
    """The number of files in each call of `decode`."""
    calls = []
    original = decode

    def counted(root, files, image_size, *, progress):
        calls.append(len(files))
        return original(root, files, image_size, progress=progress)

    monkeypatch.setattr(folder_module, "decode", counted)
    return calls


def test_a_second_load_reads_the_same_images_without_decoding(tmp_path, decodings):
    make_folder(tmp_path)
    fresh, kept = read_all(tmp_path), read_all(tmp_path)
    assert decodings == [6]
    assert kept.dtype == torch.uint8
    assert torch.equal(fresh, kept)
    assert np.array_equal(kept, list(decode(tmp_path, list_folder(tmp_path).files, 4)))
    assert len(cache_files()) == 1


def test_the_parts_are_in_their_own_order_and_share_no_storage(tmp_path):
    make_folder(tmp_path)
    listing = list_folder(tmp_path)
    parts = [torch.tensor([4, 0, 3]), torch.tensor([5]), torch.tensor([2, 1])]
    read = read_images(listing, parts, image_size=6)
    for part, images in zip(parts, read, strict=True):
        pixels = [np.asarray(Image.open(tmp_path / listing.files[index])) for index in part]
        assert np.array_equal(images.permute(0, 2, 3, 1), pixels)
        assert images.is_contiguous()
        # One part that is sent to another process must not take the others with it.
        assert images.untyped_storage().nbytes() == images.numel()


def test_the_images_are_mapped_from_the_file(tmp_path):
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not tell what is mapped")
    make_folder(tmp_path)
    for images in (read_all(tmp_path), read_all(tmp_path)):  # just written, and found
        (file,) = cache_files()
        ranges = [line.split()[0] for line in maps.read_text().splitlines() if str(file) in line]
        bounds = [[int(bound, 16) for bound in text.split("-")] for text in ranges]
        assert any(start <= images.data_ptr() < end for start, end in bounds)


def test_what_is_written_into_the_images_never_reaches_the_file(tmp_path, decodings, caplog):
    make_folder(tmp_path)
    images = read_all(tmp_path)
    good = images.clone()
    images.zero_()
    assert int(images.max()) == 0
    assert torch.equal(read_all(tmp_path), good)
    assert decodings == [6]
    assert not caplog.records


def test_a_file_larger_than_the_memory_can_be_mapped(tmp_path):
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    size = int((2 * memory / 3) ** 0.5)
    with (tmp_path / "sparse").open("wb+") as file:
        file.truncate(32 + 8 + 3 * size**2)
        rows, images = decoded_module._map(file, (1, 3, size, size))
    tensor = torch.from_numpy(images)
    tensor[0, 2, -1, -1] = 7
    assert tensor[0, 2, -1, -2:].tolist() == [0, 7]
    assert rows.tolist() == [0]


def shuffled(root, seed):
    listing = list_folder(root)
    order = torch.randperm(len(listing.files), generator=torch.Generator().manual_seed(seed))
    return read_images(listing, [order], image_size=4)[0], order


def test_another_order_is_copied_and_not_decoded(tmp_path, decodings):
    make_folder(tmp_path, count=20)
    expected = np.stack(list(decode(tmp_path, list_folder(tmp_path).files, 4)))
    for seed in range(3):  # each but the first from a file that is itself in some order
        images, order = shuffled(tmp_path, seed)
        assert np.array_equal(images, expected[order])
        assert len(cache_files()) == seed + 1
        assert np.array_equal(shuffled(tmp_path, seed)[0], expected[order])
    assert decodings == [40]


def test_another_order_is_not_copied_from_a_damaged_file(tmp_path, decodings, caplog):
    make_folder(tmp_path)
    expected = np.stack(list(decode(tmp_path, list_folder(tmp_path).files, 4)))
    read_all(tmp_path)
    (file,) = cache_files()
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    images, order = shuffled(tmp_path, 1)
    assert np.array_equal(images, expected[order])
    assert decodings == [6, 6]
    assert f"{file} are damaged" in caplog.text


def test_the_place_of_the_folder_does_not_matter(tmp_path, decodings):
    read_all(make_folder(tmp_path / "here"))
    read_all(make_folder(tmp_path / "there"))
    assert decodings == [6]


def test_another_image_size_is_another_file(tmp_path, decodings):
    make_folder(tmp_path)
    assert read_all(tmp_path, image_size=4).shape == (6, 3, 4, 4)
    assert read_all(tmp_path, image_size=5).shape == (6, 3, 5, 5)
    assert len(cache_files()) == 2


def test_an_edited_image_is_decoded_even_if_its_date_and_size_stay(tmp_path, decodings):
    make_folder(tmp_path)
    before = read_all(tmp_path)
    path = tmp_path / "cat" / "0.png"
    stat = path.stat()
    other = (tmp_path / "cat" / "1.png").read_bytes()
    path.write_bytes(other)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = read_all(tmp_path)
    assert decodings == [6, 6]
    assert torch.equal(after[0], before[1])


def test_a_renamed_image_is_another_selection(tmp_path, decodings):
    make_folder(tmp_path)
    read_all(tmp_path)
    (tmp_path / "cat" / "2.png").rename(tmp_path / "cat" / "3.png")
    read_all(tmp_path)
    assert decodings == [6, 6]


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "text"])
def test_a_damaged_cache_file_is_made_again(tmp_path, decodings, caplog, damage):
    make_folder(tmp_path)
    good = read_all(tmp_path).clone()  # of its own: the mapped file is overwritten in place
    (file,) = cache_files()
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
    file.write_bytes({"truncate": content[:-7], "empty": b"", "flip": content}.get(damage, b"no"))
    assert torch.equal(read_all(tmp_path), good)
    assert decodings == [6, 6]
    assert str(file) in caplog.text
    read_all(tmp_path)
    assert decodings == [6, 6]


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch, caplog):
    make_folder(tmp_path / "images")
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, logger="nas_proxy"):
        images = read_all(tmp_path / "images")
    files = list_folder(tmp_path / "images").files
    assert np.array_equal(images, list(decode(tmp_path / "images", files, 4)))
    assert [record.name for record in caplog.records] == ["nas_proxy"]
    assert "are not kept" in caplog.text
    assert "they take 0.0 GB of memory" in caplog.text


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, monkeypatch, caplog):
    make_folder(tmp_path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    images = read_all(tmp_path)
    assert np.array_equal(images, list(decode(tmp_path, list_folder(tmp_path).files, 4)))
    assert "No space left" in caplog.text
    assert cache_files() == unfinished_files() == []


def test_a_disk_without_room_is_noticed_before_decoding(tmp_path, monkeypatch, caplog, decodings):
    make_folder(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    little = usage._replace(free=6 * 3 * 4 * 4 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: little)
    assert read_all(tmp_path).shape == (6, 3, 4, 4)
    assert decodings == [6]  # into memory alone
    assert "No space left" in caplog.text
    assert cache_files() == unfinished_files() == []


def test_images_for_which_there_is_room_nowhere_are_refused(tmp_path, decodings):
    make_folder(tmp_path)
    expected = (
        rf"6 images of 100000000x100000000 do not fit into memory, and {cache_folder()}/.*No space "
        "left.*set NAS_PROXY_CACHE to a folder with room for them, or lower data.images_per_class"
    )
    with pytest.raises(DataError, match=expected):
        read_all(tmp_path, image_size=10**8)
    assert decodings == []


def test_an_interrupted_decoding_leaves_no_part_of_a_file(tmp_path):
    make_folder(tmp_path)

    def interrupt(done, total, note=""):
        if note == "decoding":
            assert len(unfinished_files()) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_all(tmp_path, progress=interrupt)
    assert cache_files() == unfinished_files() == []


def test_a_damaged_image_leaves_no_part_of_a_file(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "dog" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="1 of 7 images"):
        read_all(tmp_path)
    assert cache_files() == unfinished_files() == []


def test_what_a_killed_process_left_is_removed_after_an_hour(tmp_path):
    make_folder(tmp_path)
    read_all(tmp_path)
    (file,) = cache_files()
    file.unlink()
    for name, minutes in (("dead", 61), ("alive", 59)):
        left = file.with_name(f".{file.name}.{name}")
        left.write_bytes(b"half")
        os.utime(left, (time.time() - 60 * minutes,) * 2)
    read_all(tmp_path)
    assert [left.suffix for left in unfinished_files()] == [".alive"]


def test_two_that_decode_at_the_same_time_do_not_disturb_each_other(tmp_path, decodings):
    make_folder(tmp_path)
    others = []

    def meanwhile(done, total, note=""):
        if note == "decoding" and not others:
            others.append(None)
            others[0] = read_all(tmp_path)

    images = read_all(tmp_path, progress=meanwhile)
    assert decodings == [6, 6]
    assert torch.equal(images, others[0])
    assert torch.equal(images, read_all(tmp_path))
    assert len(cache_files()) == 1
    assert unfinished_files() == []
