"""Images in memory become the same three parts in every process, or one sentence."""

import numpy as np
import pytest
import torch

import nas_proxy as nas
from nas_proxy.api.steps import load
from nas_proxy.data.sources import DataSettings, load_splits
from tests.helpers.display import Quiet

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(30) % 3


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "images",
    [
        PIXELS,
        PIXELS.transpose(0, 3, 1, 2),
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2),
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255,
        PIXELS.astype(np.int64),
        PIXELS.astype(np.float32) / np.float32(255),
    ],
    ids=["last", "first", "tensor", "fractions", "whole", "single"],
)
def test_every_form_is_the_same_images(images):
    made = nas.arrays(images, LABELS)
    assert made.arrays.id == nas.arrays(PIXELS, LABELS).arrays.id
    assert not made.arrays.notice
    assert torch.equal(
        torch.from_numpy(made.arrays.images), torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    )


def test_labels_are_numbers_or_names():
    names = np.array(["cat", "dog", "eel"])[LABELS]
    by_name = nas.arrays(PIXELS, names)
    by_number = nas.arrays(PIXELS, LABELS, class_names=["cat", "dog", "eel"])
    assert by_name.arrays.id == by_number.arrays.id
    assert nas.arrays(PIXELS, LABELS + 8).arrays.class_names == ("8", "9", "10")
    assert nas.arrays(PIXELS, LABELS, class_names="abcd").arrays.class_names == tuple("abcd")


def test_the_file_gives_every_process_the_same_parts(tmp_path):
    made = nas.arrays(PIXELS, LABELS, test=(PIXELS[:6], LABELS[:6]), image_size=4, seed=3)
    settings = made.save(tmp_path)
    assert settings.root == str(made.arrays.path(tmp_path))
    stamp = made.arrays.path(tmp_path).stat().st_mtime_ns
    made.save(tmp_path)
    assert made.arrays.path(tmp_path).stat().st_mtime_ns == stamp
    splits = load_splits(settings)
    assert splits.spec.image_shape == (3, 4, 4)
    assert {n: len(p) for n, p in splits.parts.items()} == {
        "search_train": 24,
        "search_val": 6,
        "test": 6,
    }
    assert load(made, Quiet()).spec == splits.spec


def test_what_is_rounded_is_said(tmp_path):
    settings = nas.arrays(RNG.random((30, 8, 8)), LABELS).save(tmp_path)
    said = []
    load_splits(settings, say=said.append)
    assert said[0] == ("data: brightness was rounded to 256 levels, which is what images have here")


@pytest.mark.parametrize(
    ("images", "labels", "options", "sentence"),
    [
        (PIXELS[0, 0], LABELS, {}, r"must be \(n, h, w\).*got \(8, 3\)"),
        (PIXELS[:, :, :, :2], LABELS, {}, "one or three channels"),
        (PIXELS[:, :3, :3], LABELS, {}, "say channels='first'"),
        (PIXELS, LABELS, {"channels": "middle"}, "channels must be first or last"),
        (PIXELS * 2.0, LABELS, {}, "must be from 0 to 1"),
        (PIXELS / np.nan, LABELS, {}, "must be from 0 to 1"),
        (PIXELS.astype(int) - 1, LABELS, {}, "must be from 0 to 255"),
        (PIXELS.astype(str), LABELS, {}, "must be numbers"),
        ([PIXELS[0], PIXELS[1][:4]], LABELS[:2], {}, "images are no single array .*one size"),
        (PIXELS, [[0], [1, 2]], {}, "labels are no single array"),
        (PIXELS, LABELS[:5], {}, r"labels must be \(30,\)"),
        (PIXELS, LABELS / 2, {}, "labels must be whole numbers or names"),
        (PIXELS, LABELS, {"class_names": ["a", "b"]}, "the label 2 is not from 0 to 1"),
        (PIXELS, LABELS, {"class_names": ["a", "a", "b"]}, "a name twice"),
        (PIXELS, LABELS, {"test": (PIXELS[:, :4], LABELS)}, "the test images are"),
        (PIXELS, LABELS, {"val_fraction": 2.0}, "val_fraction"),
    ],
)
def test_what_is_no_image_is_refused(images, labels, options, sentence):
    with pytest.raises(nas.UserError, match=sentence):
        nas.arrays(images, labels, **options)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no file"),
        (b"no archive", "cannot be read"),
        ({"labels": LABELS}, "no array called 'images'"),
        ({"images": PIXELS, "labels": LABELS, "is_test": LABELS}, "one truth value for each"),
    ],
)
def test_a_file_that_holds_no_images_is_refused(tmp_path, content, sentence):
    file = tmp_path / "mine.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        np.savez(file, **content)
    with pytest.raises(nas.DataError, match=sentence):
        load_splits(DataSettings(name="arrays", root=str(file)))


def test_a_folder_and_a_name_that_are_not_there_are_told_at_once(tmp_path):
    with pytest.raises(nas.DataError, match="there is no folder"):
        nas.image_folder(tmp_path / "none", image_size=16)
    with pytest.raises(nas.DataError, match="no data set 'cifar'; did you mean"):
        nas.dataset("cifar")
