"""`nas-proxy init` on folders as people have them."""

import os
from pathlib import Path

import pytest

from nas_proxy.data.sources import load_splits
from nas_proxy.study.config import load_config
from tests.data.helpers_folder import make_folder, noise, save
from tests.helpers.cli import command_line


@pytest.fixture
def nas_proxy(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs the command line in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NAS_PROXY_DATA", str(tmp_path / "nothing"))
    return command_line(capsys)


def written(nas_proxy, *words: str, name: str):
    done = nas_proxy("init", *words)
    assert done.status == 0, done.errors
    assert f"next: nas-proxy plan {name}" in done.output
    return load_config(Path(name)), done.output


def test_a_folder_gives_a_configuration_that_loads_its_images(nas_proxy, tmp_path: Path) -> None:
    make_folder(tmp_path / "my photos", count=5)
    config, said = written(nas_proxy, "my photos", name="my_photos.yaml")
    assert "10 images of 2 classes: 5 of each" in said
    assert "a fifth of each class is held out" in said
    splits = load_splits(config.data)
    assert splits.spec.class_names == ("cat", "dog")
    assert sum(map(len, (splits.search_train, splits.search_val, splits.test))) == 10
    assert (config.budget, config.space.name) == ("10min", "convnet")
    for line in Path("my_photos.yaml").read_text().splitlines():  # what is commented is valid, too
        option = line.removeprefix("# ").split("   #")[0]
        if line.startswith(("# train:", "# search:", "# validate:", "# retrain:")):
            text = Path("my_photos.yaml").read_text() + option + "\n"
            Path("other.yaml").write_text(text)
            assert load_config(Path("other.yaml")).study_name == "my_photos"


@pytest.mark.parametrize(
    ("side", "size"), [(5, 8), (8, 8), (47, 32), (48, 48), (63, 48), (64, 64), (90, 64)]
)
def test_the_size_is_one_that_fits_the_images(nas_proxy, tmp_path: Path, side, size) -> None:
    for name in ("cat", "dog"):
        for index in range(3):
            save(tmp_path / "f" / name / f"{index}.png", noise(index, side, side + 7 * index))
    config, said = written(nas_proxy, "f", name="f.yaml")
    assert config.data.image_size == size
    assert f"{side} pixels (median)" in said


def test_a_test_part_is_counted_by_itself(nas_proxy, tmp_path: Path) -> None:
    make_folder(tmp_path / "f", "train", "val", count=2)
    config, said = written(nas_proxy, "f", name="f.yaml")
    assert "4 images of 2 classes" in said
    assert "4 images of the folder's own test part" in said
    assert load_splits(config.data).test.labels.tolist() == [0, 0, 1, 1]


def test_the_present_folder_is_the_default_and_another_file_may_be_named(
    nas_proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    config, _ = written(nas_proxy, name="here.yaml")
    assert config.data.root == "."
    named = nas_proxy("init", "-o", "a b.yml")
    assert "next: nas-proxy plan 'a b.yml'" in named.output
    assert load_config(Path("a b.yml")) == config


def test_nothing_is_overwritten(nas_proxy, tmp_path: Path) -> None:
    make_folder(tmp_path / "f")
    for words in (["f"], ["f", "-o", "own.yaml"]):
        file = tmp_path / (words[-1] if len(words) > 1 else "f.yaml")
        file.write_text("mine")
        refused = nas_proxy("init", *words)
        assert refused.status == 2
        assert "is there already" in refused.errors
        assert file.read_text() == "mine"


def test_what_is_wrong_with_images_is_said(nas_proxy, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f", count=4)
    for index in range(20):
        save(folder / "dog" / f"more{index}.png", noise(index))
    whole = (folder / "dog" / "more0.png").read_bytes()
    (folder / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cat" / "text.jpg").write_text("no image")
    (folder / "cat" / "moving.gif").write_bytes(b"GIF89a")
    save(folder / "cat" / "nested" / "0.png", noise(1))
    make_folder(folder, classes=("rare",), count=2)
    config, said = written(nas_proxy, "f", name="f.yaml")
    assert "4 'cat', 24 'dog', 2 'rare'" in said
    assert "always answering 'dog' is right for 85.7 %" in said
    assert "2 files cannot be read as images" in said
    assert "cut.png" in said
    assert "text.jpg" in said
    assert "2 of the files in f are left out" in said
    assert "fewer than 3 readable images: 'rare'" in said
    assert config.data.classes == ("cat", "dog")
    comments = [line for line in Path("f.yaml").read_text().splitlines() if line.startswith("#")]
    assert any("cut.png" in line for line in comments)


@pytest.mark.parametrize("name", ["a: b # c", "two\nlines", "-", "'", "été"])
def test_strange_class_names_are_kept(nas_proxy, tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "f", classes=("plain", name), count=3)
    make_folder(folder, classes=("rare",), count=1)  # so that classes are written out
    config, _ = written(nas_proxy, "f", name="f.yaml")
    assert set(config.data.classes) == {"plain", name}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: root.mkdir(), "holds no class folder"),
        (lambda root: make_folder(root, classes=("one",)), "only the class folder 'one'"),
        (lambda root: (make_folder(root), (root / "empty").mkdir()), "holds no image"),
        (lambda root: make_folder(root, count=1), "fewer than two classes with at least 3"),
        (lambda root: os.makedirs(os.fsencode(root) + b"/caf\xe9") or make_folder(root), "UTF-8"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(nas_proxy, tmp_path: Path, make, words) -> None:
    make(tmp_path / "f")
    refused = nas_proxy("init", "f")
    assert refused.status == 2, refused.output
    assert words in refused.errors
    assert not list(tmp_path.glob("*.yaml"))


def test_data_sets_by_name(nas_proxy) -> None:
    config, said = written(nas_proxy, "digits", name="digits.yaml")
    assert "1151 + 287 + 359 images" in said
    assert config.data.image_size is None
    config, said = written(nas_proxy, "imagenette", name="imagenette.yaml")
    assert (config.data.image_size, config.data.download) == (64, True)
    assert "not on this machine" in said
    for name, words in (("cifr10", "did you mean 'cifar10'"), ("nowhere/here", "neither a folder")):
        refused = nas_proxy("init", name)
        assert refused.status == 2
        assert words in refused.errors


def test_help_says_the_layout(nas_proxy) -> None:
    shown = nas_proxy("init", "--help").output
    assert "train/<class>/*.jpg" in shown
