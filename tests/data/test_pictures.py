"""The pictures: every image where it belongs, at a size that can be seen."""

import errno
import os

import numpy as np
import pytest
import torch
from PIL import Image

from nas_proxy.data.pictures import write_image_grid
from nas_proxy.reproducibility import make_generator

GAP = 2  # white pixels between images and around them


def random_images(num, *shape):
    return torch.randint(0, 256, (num, *shape), generator=make_generator(0)).to(torch.uint8)


def draw(tmp_path, images, images_per_class):
    path = tmp_path / "some" / "folder" / "images.png"
    write_image_grid(path, images, images_per_class)
    assert list(path.parent.iterdir()) == [path]
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.mode == "RGB"
        return np.asarray(picture)


@pytest.mark.parametrize(
    ("num_classes", "per_class", "shape", "enlarged", "rows", "columns"),
    [
        (3, 4, (3, 8, 8), 6, 3, 4),
        (3, 4, (1, 8, 8), 6, 3, 4),
        (2, 13, (3, 8, 8), 6, 2, 10),  # the first ten of a class
        (4, 1, (3, 32, 32), 2, 4, 1),
        (23, 2, (1, 8, 8), 6, 20, 2),  # the first twenty classes
        (2, 2, (3, 64, 64), 1, 2, 2),
        (2, 3, (3, 10, 7), 7, 2, 3),
    ],
)
def test_each_image_stands_in_the_row_of_its_class(
    tmp_path, num_classes, per_class, shape, enlarged, rows, columns
):
    images = random_images(num_classes * per_class, *shape)
    picture = draw(tmp_path, images, per_class)
    height, width = shape[1] * enlarged, shape[2] * enlarged
    expected = np.full(
        (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, dtype=np.uint8
    )
    for row in range(rows):
        for column in range(columns):
            image = images[row * per_class + column].numpy().transpose(1, 2, 0)
            top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
            expected[top : top + height, left : left + width] = np.repeat(
                np.repeat(image, enlarged, axis=0), enlarged, axis=1
            )
    np.testing.assert_array_equal(picture, expected)


def test_a_single_image_fills_the_picture(tmp_path):
    image = random_images(1, 1, 16, 16)
    picture = draw(tmp_path, image, 1)
    enlarged = image[0, 0].numpy().repeat(3, axis=0).repeat(3, axis=1)
    np.testing.assert_array_equal(picture, np.stack([enlarged] * 3, axis=-1))


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("old", [b"the picture of an earlier run", None])
def test_a_full_disk_leaves_nothing_new_behind(tmp_path, monkeypatch, step, old):
    path = tmp_path / "images.png"
    if old is not None:
        path.write_bytes(old)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        write_image_grid(path, random_images(4, 3, 8, 8), 2)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == (
        {} if old is None else {"images.png": old}
    )


def test_names_stand_before_the_rows_of_their_classes(tmp_path):
    """They move the images to the right and change none of them."""
    images = random_images(6, 3, 8, 8)
    plain, path = draw(tmp_path, images, 2), tmp_path / "named" / "images.png"
    write_image_grid(path, images, 2, ("cat", "", "a class with a very long name 犬"))
    with Image.open(path) as opened:
        named = np.asarray(opened)
    margin = named.shape[1] - plain.shape[1]
    assert 20 < margin < 220
    np.testing.assert_array_equal(named[:, margin:], plain)
    written = [(row < 128).any() for row in np.split(named[GAP:, :margin], 3)]  # one name is empty
    assert written == [True, False, True]
