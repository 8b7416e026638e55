"""Divided data sets in files: the same images as from the source, and never those of another."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from nas_proxy.data import resized, sources, transforms
from nas_proxy.data.folder import cache_folder
from nas_proxy.data.resized import resized_images
from nas_proxy.data.sources import DATASETS, DataSettings, load_splits
from nas_proxy.data.transforms import resize
from tests.data.helpers_sources import parts_of
from tests.data.test_sources_cifar import write_cifar

pytestmark = pytest.mark.usefixtures("own_cache")

DIGITS = DataSettings(name="digits", classes=(3, 5), image_size=6, images_per_class=40)


def same(first, second):
    return first.spec == second.spec and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        for a, b in zip(parts_of(first), parts_of(second), strict=True)
    )


@pytest.fixture
def finds(monkeypatch):
    """The names of the sources that were really read."""
    found = []

    def watch(name, source):
        def find(settings, progress):
            found.append(name)
            return source.find(settings, progress)

        return replace(source, find=find)

    watched = {name: watch(name, source) for name, source in DATASETS.items()}
    monkeypatch.setattr(sources, "DATASETS", watched)
    return found


def test_the_source_is_read_once_and_the_parts_stay_the_same(finds, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(sources, "keep", lambda splits, *_: splits)
        expected = load_splits(DIGITS)
    first, second = load_splits(DIGITS), load_splits(DIGITS)
    assert finds == ["digits", "digits"]
    assert same(first, expected)
    assert same(second, expected)
    assert second.spec.image_shape == (1, 6, 6)


def test_what_the_parts_share_is_looked_for_once_and_said_each_time(monkeypatch):
    looked = []
    monkeypatch.setattr(sources, "shared_images", lambda splits: looked.append(1) or ["one is"])
    for _ in range(2):
        said = []
        load_splits(DIGITS, say=said.append)
        assert said == ["data: one is"]
    assert looked == [1]


@pytest.mark.parametrize(
    "changed",
    [{"classes": (5, 3)}, {"image_size": 7}, {"images_per_class": 39}, {"seed": 1}]
    + [{"val_fraction": 0.3}],
)
def test_other_settings_are_other_files(finds, changed):
    load_splits(DIGITS)
    load_splits(replace(DIGITS, **changed))
    assert finds == ["digits", "digits"]


def test_an_edited_source_is_read_again(finds, tmp_path, monkeypatch):
    folder, _ = write_cifar(tmp_path, "cifar10", torchvision.datasets.CIFAR10, monkeypatch)
    settings = DataSettings(name="cifar10", root=str(tmp_path))
    first = load_splits(settings)
    (tmp_path / "elsewhere").mkdir()
    folder.rename(tmp_path / "elsewhere" / folder.name)
    moved = replace(settings, root=str(tmp_path / "elsewhere"))
    assert same(load_splits(moved), first)
    assert finds == ["cifar10"]
    (tmp_path / "elsewhere" / folder.name / "batches.meta").touch()
    assert same(load_splits(moved), first)
    assert finds == ["cifar10", "cifar10"]


def test_a_damaged_file_is_made_again(finds, caplog):
    expected = load_splits(DIGITS)
    for ending in ("images", "json"):
        (file,) = cache_folder().glob(f"*.{ending}")
        file.write_bytes(file.read_bytes()[:-1])
        assert same(load_splits(DIGITS), expected)
        assert f"{file.stem}.images" in caplog.text
        caplog.clear()
    assert finds == ["digits"] * 3


@pytest.mark.parametrize("content", ["{}", "[]", "7", '{"lengths": 3}'])
def test_a_description_that_says_something_else_is_made_again(finds, caplog, content):
    expected = load_splits(DIGITS)
    (file,) = cache_folder().glob("*.json")
    file.write_text(content)
    assert same(load_splits(DIGITS), expected)
    assert f"{file.stem}.images" in caplog.text
    assert finds == ["digits"] * 2


def test_where_nothing_can_be_kept_it_is_said(finds, tmp_path, monkeypatch, caplog):
    expected = load_splits(DIGITS)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "file"))
    assert same(load_splits(DIGITS), expected)
    assert "each process loads the images for itself" in caplog.text
    assert finds == ["digits", "digits"]


def test_what_is_written_into_the_images_is_not_kept():
    load_splits(DIGITS).search_train.images.fill_(0)
    assert load_splits(DIGITS).search_train.images.any()


def test_resized_images_are_kept_where_they_are_many(monkeypatch):
    train = load_splits(DIGITS).search_train
    before = set(cache_folder().iterdir())
    expected = resize(train.images, 4)
    assert torch.equal(resized_images(train, 4), expected)
    assert set(cache_folder().iterdir()) == before
    monkeypatch.setattr(resized, "_WORTH_KEEPING", 0)
    monkeypatch.setattr(transforms, "chunk_length", lambda images: 7)
    assert torch.equal(resized_images(train, 4), expected)
    (file,) = set(cache_folder().iterdir()) - before
    monkeypatch.setattr(resized, "resize", None)
    assert torch.equal(resized_images(train, 4), expected)
    file.unlink()
    with pytest.raises(TypeError):
        resized_images(train, 4)


@pytest.mark.exhaustive
def test_a_second_process_needs_no_library_of_the_source():
    load_splits(DIGITS)
    code = (
        "import sys\n"
        "from nas_proxy.data.sources import DataSettings, load_splits\n"
        f"load_splits({DIGITS!r})\n"
        "assert not {'sklearn', 'torchvision'} & set(sys.modules)\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
