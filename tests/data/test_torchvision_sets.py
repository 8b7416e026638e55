"""Torchvision's data sets, from small copies in their own layouts: parts, labels, pixels."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from nas_proxy.data._torchvision_table import DESCRIBED_SETS
from nas_proxy.data.sources import DATASETS, DataSettings, load_splits
from nas_proxy.errors import DataError
from tests.data.helpers_sources import parts_of, per_class

pytestmark = pytest.mark.usefixtures("own_folders")


def photograph(path, number, size=(9, 7)):
    """A picture of one colour, by which it is known again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number, 255 - number, 7)).save(path, quality=100)


def numbers(part):
    """Which pictures a part holds."""
    return sorted(part.images[:, 0, 2, 2].tolist())


def near(found, expected):
    return np.abs(np.array(found) - np.array(sorted(expected))).max() <= 3  # JPEG loses a little


def flowers(root, monkeypatch, num_classes=2, seed=0):
    """Ten images of each class in a mixed order: 2 to train, 3 to validate, 5 to test."""
    base = root / "flowers-102"
    labels = np.array([1 + index % num_classes for index in range(10 * num_classes)])
    for index in range(len(labels)):
        photograph(base / f"jpg/image_{index + 1:05d}.jpg", 10 * index + seed)
    ids = np.arange(1, len(labels) + 1)
    parts = {"trnid": ids[:4], "valid": ids[4:10], "tstid": ids[10:]}
    savemat(base / "setid.mat", parts)
    savemat(base / "imagelabels.mat", {"labels": labels})
    monkeypatch.setattr(datasets.Flowers102, "_check_integrity", lambda self: True)
    return labels, parts


def of_flowers(root, **changes):
    """The first two of the 102 kinds."""
    fixed = {"name": "flowers102", "root": str(root), "image_size": 6, "classes": (0, 1)}
    return DataSettings(**{**fixed, **changes})


def test_flowers_come_with_their_official_parts(tmp_path, monkeypatch):
    labels, parts = flowers(tmp_path, monkeypatch)
    told = of_flowers(tmp_path)
    splits = load_splits(told)
    assert splits.spec.image_shape == (3, 6, 6)
    expected = [10 * (parts[name] - 1) for name in ("trnid", "valid", "tstid")]
    for part, found in zip(parts_of(splits), expected, strict=True):
        assert near(numbers(part), found)
        where = (part.images[:, 0, 2, 2].float() / 10).round().long()
        assert torch.equal(part.labels, torch.from_numpy(labels)[where] - 1)
    assert "Nilsback" in splits.spec.licence
    # Neither the seed nor the fraction has a say where the authors divided.
    again = load_splits(DataSettings(**{**vars(told), "seed": 5, "val_fraction": 0.5}))
    assert again.spec.source_hash == splits.spec.source_hash


def test_a_limit_is_for_the_training_images_alone(tmp_path, monkeypatch):
    flowers(tmp_path, monkeypatch)
    splits = load_splits(of_flowers(tmp_path, images_per_class=1))
    assert [per_class(part) for part in parts_of(splits)] == [[1, 1], [3, 3], [5, 5]]


def test_decoded_images_are_kept_until_a_file_changes(tmp_path, monkeypatch):
    flowers(tmp_path, monkeypatch)
    told = of_flowers(tmp_path)
    first = load_splits(told)
    with monkeypatch.context() as patched:
        patched.setattr(
            datasets.Flowers102, "__getitem__", lambda *_: pytest.fail("it was decoded again")
        )
        assert torch.equal(load_splits(told).test.images, first.test.images)
    flowers(tmp_path, monkeypatch, seed=5)
    assert not torch.equal(load_splits(told).test.images, first.test.images)


def test_svhn_is_read_at_its_own_size(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *_: True)
    rng = np.random.default_rng(0)
    kept = {}
    for part, count in (("train", 40), ("test", 20)):
        pixels = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = np.array([1 + index % 10 for index in range(count)])  # 10 stands for 0
        savemat(tmp_path / f"{part}_32x32.mat", {"X": pixels, "y": labels[:, None]})
        kept[part] = pixels.transpose(3, 2, 0, 1), labels % 10
    splits = load_splits(DataSettings(name="svhn", root=str(tmp_path), val_fraction=0.25))
    assert torch.equal(splits.test.images, torch.from_numpy(kept["test"][0]))
    assert splits.test.labels.tolist() == kept["test"][1].tolist()
    assert per_class(splits.search_train) == [3] * 10
    assert per_class(splits.search_val) == [1] * 10


def test_eurosat_has_no_parts_so_a_fifth_is_held_out(tmp_path):
    for label, name in enumerate(("Forest", "River")):
        for index in range(10):
            photograph(
                tmp_path / f"eurosat/2750/{name}/{index}.jpg", 20 * index + label, size=(64, 64)
            )
    splits = load_splits(DataSettings(name="eurosat", root=str(tmp_path)))
    assert splits.spec.class_names == ("Forest", "River")
    assert splits.spec.image_shape == (3, 64, 64)
    assert [per_class(part) for part in parts_of(splits)] == [[6, 6], [2, 2], [2, 2]]


def test_traffic_signs(tmp_path):
    base = tmp_path / "gtsrb/GTSRB"
    for index in range(8):
        path = base / f"Training/{index % 2:05d}/{index}.ppm"
        photograph(path, 10 * index)
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for index in range(4):
        photograph(base / f"Final_Test/Images/{index}.ppm", 100 + 10 * index)
        rows.append(f"{index}.ppm;9;7;0;0;1;1;{index % 2}")
    (tmp_path / "gtsrb/GT-final_test.csv").write_text("\n".join(rows))
    splits = load_splits(DataSettings(name="gtsrb", root=str(tmp_path), image_size=5))
    assert splits.spec.class_names == ("0", "1")
    assert numbers(splits.test) == [100, 110, 120, 130]
    assert splits.test.labels.tolist() == [0, 1, 0, 1]
    assert sorted(numbers(splits.search_train) + numbers(splits.search_val)) == list(
        range(0, 80, 10)
    )


def test_fashion_mnist_is_grey(tmp_path):
    raw = tmp_path / "FashionMNIST/raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        head = (0x803).to_bytes(4, "big") + b"".join(
            value.to_bytes(4, "big") for value in pixels.shape
        )
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        head = (0x801).to_bytes(4, "big") + count.to_bytes(4, "big")
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    splits = load_splits(DataSettings(name="fashionmnist", root=str(tmp_path)))
    assert splits.spec.image_shape == (1, 28, 28)
    assert "Trouser" in splits.spec.class_names
    assert torch.equal(splits.test.images[:, 0], torch.from_numpy(pixels))


def test_every_set_is_one_of_torchvisions_and_says_its_licence():
    classes = {name.lower() for name in datasets.__all__}
    assert set(DESCRIBED_SETS) <= classes
    assert len(DESCRIBED_SETS) >= 20
    assert all(DATASETS[name].licence and DATASETS[name].summary for name in DESCRIBED_SETS)


@pytest.mark.parametrize("name", sorted(DESCRIBED_SETS))
def test_a_set_that_is_not_there_is_said_in_one_sentence(name, tmp_path):
    with pytest.raises(DataError) as caught:
        load_splits(DataSettings(name=name, root=str(tmp_path), image_size=8))
    message = str(caught.value)
    assert "\n" not in message
    assert f"was not found in {tmp_path} (from data.root)" in message
    assert "data.download=true" in message


@pytest.mark.parametrize("name", ["fer2013", "stanfordcars"])
def test_what_torchvision_cannot_download_is_said(name, tmp_path):
    with pytest.raises(DataError, match="torchvision cannot download"):
        load_splits(DataSettings(name=name, root=str(tmp_path), image_size=8, download=True))


def test_a_size_is_asked_for_where_there_is_none(tmp_path):
    with pytest.raises(DataError, match=r"data.name=flowers102 needs data.image_size"):
        load_splits(DataSettings(name="flowers102", root=str(tmp_path)))


def test_a_damaged_image_is_named(tmp_path, monkeypatch):
    flowers(tmp_path, monkeypatch)
    (tmp_path / "flowers-102/jpg/image_00002.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="image 1 of part 1 of Flowers102 cannot be read"):
        load_splits(of_flowers(tmp_path))
