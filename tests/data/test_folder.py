"""Image folders: what is listed, what is decoded."""

import io
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS, ImageFolder
from torchvision.transforms import CenterCrop, Resize

from nas_proxy.data import folder as folder_module
from nas_proxy.data.folder import (
    IMAGE_ENDINGS,
    cache_folder,
    data_root,
    decode,
    images_below,
    left_out_words,
    list_folder,
)
from nas_proxy.errors import DataError
from tests.data.helpers_folder import make_folder, noise, read_all, save

pytestmark = pytest.mark.usefixtures("own_cache")


# Listing


def test_the_endings_are_torchvisions():
    assert IMAGE_ENDINGS == IMG_EXTENSIONS


@pytest.mark.parametrize("test_part", ["val", "test"])
def test_a_train_folder_and_another_are_two_parts(tmp_path, test_part):
    listing = list_folder(make_folder(tmp_path, "train", test_part, count=2))
    assert listing.class_names == ("cat", "dog")
    assert listing.files[:4] == ("train/cat/0.png", "train/cat/1.png", "train/dog/0.png",
                                 "train/dog/1.png")  # fmt: skip
    assert listing.files[4] == f"{test_part}/cat/0.png"
    assert listing.labels.tolist() == [0, 0, 1, 1] * 2
    assert listing.is_test.tolist() == [False] * 4 + [True] * 4


def test_class_folders_alone_have_no_test_part(tmp_path):
    listing = list_folder(make_folder(tmp_path, count=1))
    assert listing.files == ("cat/0.png", "dog/0.png")
    assert listing.is_test is None


def test_a_class_called_train_is_a_class(tmp_path):
    listing = list_folder(make_folder(tmp_path, classes=("car", "train")))
    assert listing.class_names == ("car", "train")


def test_a_stray_image_beside_the_class_folders_does_not_make_train_a_class(tmp_path):
    make_folder(tmp_path, "train", "val")
    save(tmp_path / "train" / "thumbnail.png", noise(0))
    assert list_folder(tmp_path).class_names == ("cat", "dog")


def test_with_val_and_test_the_test_is_test_and_val_is_mentioned(tmp_path, caplog):
    listing = list_folder(make_folder(tmp_path, "train", "val", "test"))
    assert {file.split("/")[0] for file in listing.files} == {"train", "test"}
    assert f"{tmp_path / 'val'} is not read" in caplog.text


def test_a_test_folder_without_classes_is_mentioned_and_val_is_read(tmp_path, caplog):
    make_folder(tmp_path, "train", "val")
    save(tmp_path / "test" / "0.png", noise(0))
    assert "val/cat/0.png" in list_folder(tmp_path).files
    assert f"{tmp_path / 'test'} is not read" in caplog.text


def test_the_order_is_that_of_torchvisions_image_folder(tmp_path):
    make_folder(tmp_path, classes=("b", "B", "a10", "a2"), count=12)
    theirs = ImageFolder(tmp_path)
    listing = list_folder(tmp_path)
    assert [str(tmp_path / file) for file in listing.files] == [path for path, _ in theirs.samples]
    assert listing.labels.tolist() == theirs.targets
    assert list(listing.class_names) == theirs.classes


def test_hidden_files_and_what_is_no_image_are_ignored(tmp_path):
    make_folder(tmp_path, count=1)
    (tmp_path / "cat" / "._0.png").write_bytes(b"a Mac left this")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "cat" / "folder.png").mkdir()
    (tmp_path / ".git" / "objects").mkdir(parents=True)
    (tmp_path / "README.md").write_text("no class")
    listing = list_folder(tmp_path)
    assert listing.files == ("cat/0.png", "dog/0.png")
    assert listing.left_out == ("cat/notes.txt",)


def test_files_that_are_left_out_are_counted_with_an_example(tmp_path):
    assert left_out_words(tmp_path, ()) == ""
    make_folder(tmp_path, "train", "val", count=1)
    for part in ("train", "val"):
        (tmp_path / part / "dog" / "1.heic").write_bytes(b"a telephone made this")
    (tmp_path / "train" / "dog" / ".hidden").write_text("")
    images, others = images_below(tmp_path)
    assert others == list_folder(tmp_path).left_out == ("train/dog/1.heic", "val/dog/1.heic")
    assert images == ("train/cat/0.png", "train/dog/0.png", "val/cat/0.png", "val/dog/0.png")
    words = left_out_words(tmp_path, others)
    assert words.startswith(f"2 of the files in {tmp_path} are left out")
    assert words.endswith("such as train/dog/1.heic")


def test_what_lies_where_nothing_is_read_is_counted_by_folder(tmp_path):
    make_folder(tmp_path, "train", "test", count=1)
    for index in range(3):
        save(tmp_path / "train" / "cat" / "more" / "deep" / f"{index}.png", noise(index))
    save(tmp_path / "test" / "dog" / "old" / "1.gif", noise(0))
    save(tmp_path / "train" / "beside.png", noise(0))
    (tmp_path / "train" / "README.md").write_text("no image")
    (tmp_path / "train" / "cat" / ".hidden" / "x").mkdir(parents=True)
    listing = list_folder(tmp_path)
    assert len(listing.files) == 4
    deep = [f"train/cat/more/deep/{index}.png" for index in range(3)]
    assert listing.unread == ("train/beside.png", *deep, "test/dog/old/1.gif")
    words = left_out_words(tmp_path, listing.left_out, listing.unread)
    assert words.startswith(f"5 of the files in {tmp_path} are left out: 5 lie outside")
    assert "(3 train/cat/more/deep, 1 train, 1 test/dog/old)" in words


@pytest.mark.parametrize("beside", ["valid/cat", "validation", "cat", "."])
def test_images_beside_the_parts_are_counted(tmp_path, beside):
    make_folder(tmp_path, "train", "test", count=1)
    save(tmp_path / beside / "1.png", noise(0))
    listing = list_folder(tmp_path)
    assert len(listing.files) == 4
    assert listing.unread == ((tmp_path / beside / "1.png").relative_to(tmp_path).as_posix(),)
    words = left_out_words(tmp_path, listing.left_out, listing.unread)
    assert f"(1 {beside})" in words
    assert "test/<class>/ or else val/<class>/" in words


def test_what_archives_leave_behind_is_hidden(tmp_path):
    make_folder(tmp_path, count=1)
    save(tmp_path / "__MACOSX" / "cat" / "1.png", noise(0))
    save(tmp_path / "cat" / "@eaDir" / "1.png", noise(0))
    listing = list_folder(tmp_path)
    assert listing.class_names == ("cat", "dog")
    assert (listing.left_out, listing.unread) == ((), ())
    assert images_below(tmp_path) == (("cat/0.png", "dog/0.png"), ())


def test_endings_that_are_left_out_are_counted_each(tmp_path):
    files = ("a/1.GIF", "a/2.gif", "b/x.jfif", "b/notes")
    words = left_out_words(tmp_path, files)
    assert "4 have names that do not end" in words
    assert "(2 .gif, 1 .jfif, 1 no ending; images: .jpg" in words
    both = left_out_words(tmp_path, files, ("a/more/1.png",))
    assert both.startswith("5 of the files")
    assert "1 a/more" in both


@pytest.mark.parametrize("part", ["", "train"])
def test_a_class_folder_whose_name_is_no_text_is_refused_by_it(tmp_path, part):
    make_folder(tmp_path, part, classes=("b", "c"), count=1)
    try:
        os.rename(os.fsencode(tmp_path / part / "c"), os.fsencode(tmp_path / part) + b"/caf\xe9")
    except OSError:
        pytest.skip("this file system holds no such names")
    with pytest.raises(DataError, match=r"'caf\\\\xe9' in .* is not UTF-8 text.*rename") as caught:
        list_folder(tmp_path)
    str(caught.value).encode()


def test_files_whose_names_are_no_text_are_read_and_named_in_text(tmp_path):
    make_folder(tmp_path, count=1)
    folder = os.fsencode(tmp_path / "cat")
    try:
        os.rename(folder + b"/0.png", folder + b"/caf\xe9.png")
    except OSError:
        pytest.skip("this file system holds no such names")
    assert len(read_all(tmp_path)) == 2
    with open(folder + b"/\xe9.gif", "wb"):
        pass
    left_out_words(tmp_path, list_folder(tmp_path).left_out).encode()
    with open(folder + b"/caf\xe9.png", "wb"):
        pass
    with pytest.raises(DataError, match=r"cat/caf\\xe9.png") as caught:
        read_all(tmp_path)
    str(caught.value).encode()


def test_endings_in_upper_case_count(tmp_path):
    make_folder(tmp_path, count=1)
    save(tmp_path / "cat" / "1.JPEG", noise(0))
    assert "cat/1.JPEG" in list_folder(tmp_path).files


def test_no_class_folder_is_refused(tmp_path):
    save(tmp_path / "0.png", noise(0))
    with pytest.raises(DataError, match=f"{tmp_path} holds no class folder; at least two"):
        list_folder(tmp_path)


def test_a_single_class_folder_is_refused_and_named(tmp_path):
    with pytest.raises(DataError, match="only the class folder 'cat'"):
        list_folder(make_folder(tmp_path, classes=("cat",)))


def test_an_empty_class_folder_is_refused_and_named(tmp_path):
    make_folder(tmp_path, "train")
    (tmp_path / "train" / "bird").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path}/train/bird holds no image; put images"):
        list_folder(tmp_path)


def test_images_one_folder_too_deep_are_pointed_out(tmp_path):
    make_folder(tmp_path, "cats/images", "dogs/images")
    with pytest.raises(DataError, match="no image directly in it, only folders such as 'images'"):
        list_folder(tmp_path)


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "validation"), ("TRAIN", "VAL")])
def test_parts_by_another_name_are_told_theirs(tmp_path, names):
    for name in names:
        make_folder(tmp_path, name)
    with pytest.raises(DataError, match="called train, test or val, and train is needed: rename"):
        list_folder(tmp_path)


def test_what_a_class_folder_without_images_holds_is_said(tmp_path):
    make_folder(tmp_path)
    for index in range(3):
        (tmp_path / "cat" / f"{index}.png").rename(tmp_path / "cat" / f"{index}.GIF")
    with pytest.raises(
        DataError, match=r"cat holds no image, but 3 \.gif; put images .* converted"
    ):
        list_folder(tmp_path)


def test_differing_classes_of_the_parts_are_named(tmp_path):
    make_folder(tmp_path, "train", classes=("cat", "dog"))
    make_folder(tmp_path, "val", classes=("cat", "wolf"))
    with pytest.raises(DataError, match="'dog' only in train/; 'wolf' only in val/"):
        list_folder(tmp_path)


def test_a_folder_that_is_none_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}/nothing cannot be read.*No such file"):
        list_folder(tmp_path / "nothing")


# Decoding


def decode_one(path, image_size):
    (image,) = decode(path.parent, [path.name], image_size)
    return image.transpose(1, 2, 0)


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 40), (33, 32), (7, 300), (64, 64)])
@pytest.mark.parametrize("image_size", [16, 32, 50])
def test_decoding_agrees_with_torchvisions_resize_and_crop(tmp_path, width, height, image_size):
    pixels = noise(0, height, width)
    save(tmp_path / "0.png", pixels)
    theirs = np.asarray(CenterCrop(image_size)(Resize(image_size)(Image.fromarray(pixels))))
    ours = decode_one(tmp_path / "0.png", image_size)
    assert np.abs(ours.astype(int) - theirs).max() <= 1  # rounding of the crop's corners


def test_a_square_of_the_right_size_is_left_alone(tmp_path):
    save(tmp_path / "0.png", noise(0, 32, 32))
    assert np.array_equal(decode_one(tmp_path / "0.png", 32), noise(0, 32, 32))


def test_a_square_is_resized_exactly_as_pillow_does(tmp_path):
    save(tmp_path / "0.png", noise(0, 64, 64))
    theirs = Image.fromarray(noise(0, 64, 64)).resize((20, 20), Image.Resampling.BILINEAR)
    assert np.array_equal(decode_one(tmp_path / "0.png", 20), np.asarray(theirs))


def test_the_cameras_orientation_is_applied(tmp_path):
    pixels = noise(0, 8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees clockwise
    save(tmp_path / "0.png", pixels, exif=exif)
    assert np.array_equal(decode_one(tmp_path / "0.png", 8), np.rot90(pixels, k=-1))


GREYS = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_greys_keep_their_shades(tmp_path, ending):
    path = tmp_path / f"0.{ending}"
    save(path, GREYS.astype(np.uint16) * 257)
    assert np.array_equal(decode_one(path, 8), np.stack([GREYS] * 3, axis=2))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_other_colour_modes_become_rgb(tmp_path, mode):
    image = Image.fromarray(noise(0, 8, 8)).convert(mode)
    image.save(tmp_path / "0.tif")
    expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode_one(tmp_path / "0.tif", 8), expected)


def test_a_transparent_palette_gives_no_warning(tmp_path):
    image = Image.fromarray(noise(0, 8, 8)).convert("P")
    image.save(tmp_path / "0.png", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode_one(tmp_path / "0.png", 8)
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


def jpeg(seed):
    data = io.BytesIO()
    Image.fromarray(noise(seed, 64, 64)).save(data, "JPEG")
    return data.getvalue()


def png(seed):
    data = io.BytesIO()
    Image.fromarray(noise(seed, 64, 64)).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jpg", b"", "empty or not an image"),
        ("text.jpg", b"this is no image", "empty or not an image"),
        ("half.jpg", jpeg(0)[: len(jpeg(0)) // 2], "truncated"),
        ("half.png", png(0)[: len(png(0)) // 2], "truncated"),
        ("flipped.png", png(0)[:60] + b"\0\0\0\0" + png(0)[64:], "."),
    ],
)
def test_a_damaged_image_is_named_with_what_is_wrong(tmp_path, name, content, reason):
    make_folder(tmp_path)
    (tmp_path / "dog" / name).write_bytes(content)
    expected = rf"1 of 7 images in {tmp_path} cannot be read: dog/{name} \(.*{reason}"
    with pytest.raises(DataError, match=expected):
        read_all(tmp_path)


def test_a_link_that_leads_to_itself_is_no_class(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "circle").symlink_to("circle")
    assert list_folder(tmp_path).class_names == ("cat", "dog")
    (tmp_path / "cat/circle.png").symlink_to("circle.png")
    with pytest.raises(DataError, match=r"cat/circle.png \(Too many levels of symbolic links"):
        read_all(tmp_path)


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "cat" / "lost.png").symlink_to(tmp_path / "moved away.png")
    with pytest.raises(DataError, match=r"cat/lost.png \(No such file"):
        read_all(tmp_path)


def test_floating_point_pixels_are_refused(tmp_path):
    save(tmp_path / "0.tif", np.ones((8, 8), dtype=np.float32))
    with pytest.raises(DataError, match="floating-point pixels"):
        list(decode(tmp_path, ["0.tif"], 8))


def test_many_damaged_images_are_counted_and_the_first_five_named(tmp_path):
    make_folder(tmp_path)
    for index in range(7):
        (tmp_path / "cat" / f"bad{index}.jpg").write_bytes(b"no")
    with pytest.raises(DataError, match="7 of 13 images") as caught:
        read_all(tmp_path)
    assert [f"bad{index}" in str(caught.value) for index in range(7)] == [True] * 5 + [False] * 2
    assert "and 2 more" in str(caught.value)


def test_progress_ends_at_the_total(tmp_path):
    make_folder(tmp_path, count=20)
    seen = []
    read_all(tmp_path, progress=lambda done, total, note="": seen.append((done, total, note)))
    reading = [done for done, total, note in seen if note == "reading"]
    decoding = [done for done, total, note in seen if note == "decoding"]
    assert reading == decoding == sorted(reading)
    assert reading[-1] == 40
    assert {total for _, total, _ in seen} == {40}


def test_an_interrupted_decoding_does_not_do_the_rest(tmp_path, monkeypatch):
    make_folder(tmp_path, count=400)
    opened = []
    monkeypatch.setattr(
        folder_module, "square", lambda image, size: opened.append(1) or time.sleep(0.001) or image
    )

    def interrupt(done, total, note=""):
        raise KeyboardInterrupt

    listing = list_folder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        list(decode(tmp_path, listing.files, 6, progress=interrupt))
    assert len(opened) < 700


def test_only_a_few_decoded_images_wait_to_be_taken(tmp_path, monkeypatch):
    make_folder(tmp_path, count=300)
    opened = []
    monkeypatch.setattr(folder_module, "square", lambda image, size: opened.append(1) or image)
    monkeypatch.setattr(folder_module, "_MAX_THREADS", 2)
    images = decode(tmp_path, list_folder(tmp_path).files, 6)
    for taken in range(1, 401):
        next(images)
        if taken % 100 == 0:
            time.sleep(0.05)  # the threads would run ahead
            assert len(opened) - taken <= 6 * folder_module._FILES_PER_TASK
    images.close()


# Places


def test_the_cache_is_in_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("NAS_PROXY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "nas_proxy" / "decoded"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "nas_proxy" / "decoded"


def test_the_data_are_where_the_setting_or_the_variable_or_the_cache_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_root(None)[0] == tmp_path / "nas_proxy"
    monkeypatch.setenv("NAS_PROXY_DATA", "/var/images")
    assert data_root(None) == (Path("/var/images"), "NAS_PROXY_DATA")
    monkeypatch.setenv("HOME", "/home/me")
    assert data_root("~/pets") == (Path("/home/me/pets"), "data.root")
    monkeypatch.chdir(tmp_path)
    assert data_root("pets")[0] == tmp_path / "pets"
