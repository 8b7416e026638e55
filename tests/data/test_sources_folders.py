"""Data sets that are folders of images: what each gives, and what a user reads otherwise."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas_proxy.data import sources
from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.errors import DataError
from tests.data.helpers_sources import contents, make_folder, parts_of, per_class, save

pytestmark = pytest.mark.usefixtures("own_folders")

# Imagenette

WNIDS = ("n01440764", "n03888257")


@pytest.fixture
def imagenette(tmp_path, monkeypatch):
    """A root with two of Imagenette's classes, ten images each, and settings that name it."""
    make_folder(tmp_path / "imagenette2-160", "train", WNIDS, ending="JPEG")
    make_folder(tmp_path / "imagenette2-160", "val", WNIDS, 4, first_seed=1000, ending="JPEG")
    monkeypatch.setattr(sources, "IMAGENETTE_COUNTS", (20, 8))
    return DataSettings(name="imagenette", root=str(tmp_path), image_size=6)


@pytest.mark.parametrize("download", [False, True])
def test_imagenette_has_its_words_for_classes_and_its_val_as_test(imagenette, download):
    splits = load_splits(replace(imagenette, download=download))
    assert splits.spec.class_names == ("tench", "parachute")
    assert [per_class(part) for part in parts_of(splits)] == [[8, 8], [2, 2], [4, 4]]
    chosen = load_splits(replace(imagenette, classes=("parachute", "tench")))
    assert chosen.spec.class_names == ("parachute", "tench")


def test_missing_imagenette_says_where_it_looked(tmp_path):
    settings = DataSettings(name="imagenette", root=str(tmp_path), image_size=8)
    with pytest.raises(DataError, match=rf"Imagenette was not found in {tmp_path} .*100 MB"):
        load_splits(settings)


@pytest.mark.parametrize("removed", ["val/n01440764/00.JPEG", "val", "train", "train/n03888257"])
def test_imagenette_unpacked_in_part_is_called_incomplete(imagenette, removed):
    path = Path(imagenette.root) / "imagenette2-160" / removed
    path.rename(Path(imagenette.root) / "gone")
    with pytest.raises(DataError, match="imagenette2-160 is incomplete .*delete that folder"):
        load_splits(imagenette)


# Image folders


def test_the_name_of_a_folder_is_no_data_set_and_told_how_to_be_read(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}' is a folder .*name: image_folder and root: "):
        load_splits(DataSettings(name=str(tmp_path)))


@pytest.fixture
def pets(tmp_path):
    """Settings that name a folder with train/ and val/."""
    make_folder(tmp_path, "train")
    make_folder(tmp_path, "val", count=4, first_seed=1000)
    return DataSettings(name="image_folder", root=str(tmp_path), image_size=6)


def test_val_of_a_folder_is_the_test(pets):
    splits = load_splits(pets)
    assert [per_class(part) for part in parts_of(splits)] == [[8, 8], [2, 2], [4, 4]]
    listed = sources.list_folder(Path(pets.root))
    indices = torch.nonzero(listed.is_test).flatten()
    (expected,) = sources.read_images(listed, [indices], image_size=6)
    assert torch.equal(splits.test.images, expected)


def test_files_that_are_no_images_by_their_names_are_said(pets):
    said = []
    load_splits(pets, say=said.append)
    assert said == []
    left_out = next((Path(pets.root) / "train").glob("*/*.png")).with_suffix(".heic")
    left_out.write_bytes(b"a telephone made this")
    load_splits(pets, say=said.append)
    assert said[0].startswith(f"data: 1 of the files in {pets.root} are left out")
    assert said[0].endswith(str(left_out.relative_to(pets.root)))
    assert load_splits(pets).left_out == said[0].removeprefix("data: ")


def test_a_folder_without_val_gives_a_fifth_to_the_test(tmp_path):
    make_folder(tmp_path)
    settings = DataSettings(name="image_folder", root=str(tmp_path), image_size=6)
    splits = load_splits(settings)
    assert [per_class(part) for part in parts_of(splits)] == [[6, 6], [2, 2], [2, 2]]
    assert max(contents(*parts_of(splits)).values()) == 1
    assert torch.equal(load_splits(replace(settings, seed=5)).test.images, splits.test.images)


def test_another_seed_does_not_decode_again(pets):
    notes = []

    def note(done, total, note=""):
        notes.append(note)

    one = load_splits(pets)
    other = load_splits(replace(pets, seed=7), progress=note)
    assert set(notes) == {"reading", "copying"}
    assert contents(*parts_of(one)) == contents(*parts_of(other))
    assert torch.equal(one.test.images, other.test.images)
    assert contents(one.search_val) != contents(other.search_val)


@pytest.mark.parametrize(
    ("change", "source_hash"),
    [
        ({}, "3d48ba958e1958ed"),
        ({"seed": 7}, "44551fecfba62ceb"),
        ({"classes": ("dog", "cat"), "images_per_class": 5}, "6538084acce7406d"),
    ],
)
def test_the_hash_is_that_of_earlier_versions(pets, change, source_hash):
    # Proxy data sets that exist carry it.
    assert load_splits(replace(pets, **change)).spec.source_hash == source_hash


def test_what_is_not_chosen_is_not_decoded(pets):
    bad = Path(pets.root) / "train" / "bird"
    bad.mkdir()
    (bad / "0.png").write_bytes(b"no image")
    make_folder(Path(pets.root), "val", ("bird",))
    assert load_splits(replace(pets, classes=("dog", "cat"))).spec.num_classes == 2
    with pytest.raises(DataError, match=r"class 'bird' .* 1 training image"):
        load_splits(pets)
    save(bad / "1.png", 0)
    with pytest.raises(DataError, match=r"train/bird/0.png \(it is empty or not an image\)"):
        load_splits(pets)


def test_progress_is_told(pets):
    notes = set()
    load_splits(pets, progress=lambda done, total, note="": notes.add(note))
    assert notes == {"reading", "decoding"}


@pytest.mark.parametrize("name", ["image_folder", "imagenette"])
def test_folders_need_an_image_size(tmp_path, name):
    with pytest.raises(DataError, match=rf"data.name={name} needs data.image_size, such as 64"):
        load_splits(DataSettings(name=name, root=str(tmp_path), download=True))


def test_a_folder_that_is_missing_or_not_named_says_so(tmp_path):
    settings = DataSettings(name="image_folder", root=str(tmp_path / "pets"), image_size=6)
    with pytest.raises(DataError, match=rf"no image folder {tmp_path}/pets \(from data.root\)"):
        load_splits(settings)
    with pytest.raises(DataError, match=r"no image folder .*\(from the default; set data.root"):
        load_splits(replace(settings, root=None))


@pytest.mark.exhaustive
def test_the_real_imagenet10_folder(shared_folder):
    settings = DataSettings(
        name="image_folder", root=str(shared_folder / "data" / "imagenet10-64"), image_size=32
    )
    fresh, kept = load_splits(settings), load_splits(settings)
    assert [per_class(part) for part in parts_of(fresh)] == [[400] * 10, [100] * 10, [50] * 10]
    assert fresh.spec == kept.spec
    for a, b in zip(parts_of(fresh), parts_of(kept), strict=True):
        assert torch.equal(a.images, b.images)
