"""Labels of torchvision's data sets that are missing, contradict one another, or have no order."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from nas_proxy.data.sources import DataSettings, load_splits
from nas_proxy.errors import DataError
from tests.data.helpers_sources import parts_of, per_class

pytestmark = pytest.mark.usefixtures("own_folders")


def picture(path, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 6), (number, 0, 0)).save(path, quality=100)


def refusal(name, root, **changes):
    """The one sentence that a data set is refused with."""
    with pytest.raises(DataError) as caught:
        load_splits(DataSettings(name=name, root=str(root), image_size=6, **changes))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def dishes(root, part, classes):
    listed = {name: [f"{name}/{part}{index}" for index in range(3)] for name in classes}
    for path in sum(listed.values(), []):
        picture(root / f"food-101/images/{path}.jpg")
    (root / "food-101/meta").mkdir(exist_ok=True)
    (root / f"food-101/meta/{part}.json").write_text(json.dumps(listed))


def test_parts_with_other_classes_are_refused(tmp_path):
    # Torchvision would give the only dish of the test part the label of another.
    dishes(tmp_path, "train", ("apple_pie", "waffles"))
    dishes(tmp_path, "test", ("waffles",))
    message = refusal("food101", tmp_path)
    assert "only one of its parts train and test has the class 'apple_pie'" in message
    assert "put a whole copy of food-101 there" in message


def test_a_list_that_is_none_is_refused(tmp_path):
    dishes(tmp_path, "train", ("apple_pie", "waffles"))
    (tmp_path / "food-101/meta/test.json").write_text("[1]")
    assert "Food101 (test) in" in refusal("food101", tmp_path)


def test_labels_beyond_the_classes_are_refused(tmp_path):
    notes = tmp_path / "oxford-iiit-pet/annotations"
    notes.mkdir(parents=True)
    (tmp_path / "oxford-iiit-pet/images").mkdir()
    for part in ("trainval", "test"):  # the second of 37 breeds is not in this copy
        (notes / f"{part}.txt").write_text("Abyssinian_1 1 1 1\nBengal_1 3 1 1\n")
    message = refusal("oxfordiiitpet", tmp_path)
    assert "its part train has labels from 0 to 2, but 2 classes" in message


def faces(root, name, columns, rows):
    path = root / "fer2013" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([columns, *rows]))


def test_a_test_part_without_labels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.fer2013.check_integrity", lambda p, md5: True)
    pixels = " ".join(["7"] * 48 * 48)
    faces(tmp_path, "train.csv", "emotion,pixels", [f"{index % 2},{pixels}" for index in range(8)])
    faces(tmp_path, "test.csv", "pixels", [pixels])
    assert "its part test has images without labels" in refusal("fer2013", tmp_path)


def digits(root, part, num_images, num_labels, name="MNIST", num_classes=1):
    raw = root / name / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(size.to_bytes(4, "big") for size in (0x803, num_images, 28, 28))
    (raw / f"{part}-images-idx3-ubyte").write_bytes(sizes + bytes(num_images * 28 * 28))
    sizes = b"".join(size.to_bytes(4, "big") for size in (0x801, num_labels))
    labels = bytes(index % num_classes for index in range(num_labels))
    (raw / f"{part}-labels-idx1-ubyte").write_bytes(sizes + labels)


def test_fewer_labels_than_images_are_refused(tmp_path):
    digits(tmp_path, "train", 20, 12)
    digits(tmp_path, "t10k", 10, 10)
    assert "its part train has 20 images and 12 labels" in refusal("mnist", tmp_path)


def test_damaged_bytes_are_said_in_one_sentence(tmp_path):
    digits(tmp_path, "train", 20, 20)
    digits(tmp_path, "t10k", 10, 10)
    (tmp_path / "MNIST/raw/train-images-idx3-ubyte").write_bytes(b"\0\0\x20\3" * 9)
    assert "MNIST (train) in" in refusal("mnist", tmp_path)


def test_tissue_is_read_with_its_labels(tmp_path, monkeypatch):
    def contents(path, mode="r"):
        """What h5py would read: twelve patches of one colour each, every other with a tumour."""
        images = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((96, 96, 3), np.uint8)
        return nullcontext({"x": images, "y": np.arange(12).reshape(-1, 1, 1, 1) % 2})

    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=contents))
    monkeypatch.setattr("torchvision.datasets.PCAM._check_exists", lambda self: True)
    splits = load_splits(DataSettings(name="pcam", root=str(tmp_path)))
    assert [per_class(part) for part in parts_of(splits)] == [[6, 6]] * 3
    assert torch.equal(splits.test.images[:, 0, 0, 0] % 2, splits.test.labels)


def test_letters_are_those_of_the_balanced_division(tmp_path):
    for part, count in (("train", 94), ("test", 47)):
        digits(tmp_path, f"emnist-balanced-{part}", count, count, "EMNIST", num_classes=47)
    splits = load_splits(DataSettings(name="emnist", root=str(tmp_path)))
    assert splits.spec.num_classes == 47
    assert splits.spec.class_names[10] == "A"
    assert [per_class(part) for part in parts_of(splits)] == [[1] * 47] * 3


def test_black_and_white_digits_have_no_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.SEMEION._check_integrity", lambda self: True)
    rows = [
        " ".join(map(str, [*np.full(256, index % 2), *np.eye(10, dtype=int)[index % 10]]))
        for index in range(50)
    ]
    (tmp_path / "semeion.data").write_text("\n".join(rows))
    splits = load_splits(DataSettings(name="semeion", root=str(tmp_path)))
    assert splits.spec.image_shape == (1, 16, 16)
    assert [per_class(part) for part in parts_of(splits)] == [[3] * 10, [1] * 10, [1] * 10]


def test_signs_keep_their_numbers_where_a_folder_is_missing(tmp_path):
    base = tmp_path / "gtsrb/GTSRB"
    for label in (0, 2):
        for index in range(3):
            picture(base / f"Training/{label:05d}/{index}.ppm")
    picture(base / "Final_Test/Images/0.ppm")
    table = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n0.ppm;6;6;0;0;1;1;2"
    (tmp_path / "gtsrb/GT-final_test.csv").write_text(table)
    splits = load_splits(
        DataSettings(name="gtsrb", root=str(tmp_path), image_size=6, classes=(0, 2))
    )
    assert [per_class(part) for part in parts_of(splits)] == [[2, 2], [1, 1], [0, 1]]
    assert "class '1' of gtsrb has 0 training image(s)" in refusal("gtsrb", tmp_path)


def test_what_is_held_out_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    for label, name in enumerate(("a/abbey", "b/bar")):
        for index in range(6):
            picture(tmp_path / f"SUN397/{name}/sun_{index}.jpg", 100 * label + 10 * index)
    (tmp_path / "SUN397/ClassName.txt").write_text("/a/abbey\n/b/bar\n")
    told = DataSettings(name="sun397", root=str(tmp_path), image_size=6)
    first = load_splits(told)
    listed = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: list(listed(self, pattern))[::-1])
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "another"))
    again = load_splits(told)
    assert torch.equal(again.test.images, first.test.images)
    assert again.spec.source_hash == first.spec.source_hash
