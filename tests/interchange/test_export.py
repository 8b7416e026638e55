"""What leaves the program, and comes back."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.multi_formation import decode
from nas_proxy.data.proxy_dataset import Labelling, LearningRateRule, ProxyDataset
from nas_proxy.errors import ProxyFileError
from nas_proxy.interchange.export import export_proxy_dataset
from nas_proxy.interchange.published import import_published
from nas_proxy.interchange.published_formats import Source
from nas_proxy.interchange.published_meaning import Assumptions
from nas_proxy.testing._common import tiny_dataset

SPEC = replace(tiny_dataset().spec, class_names=("a cat", "cat/dog", "..frog"))


def proxy_dataset(*, decode_factor=1, kind="hard", zca=None, channels=3, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    spec = replace(
        SPEC,
        image_shape=(channels, 8, 8),
        mean=SPEC.mean[:channels],
        std=SPEC.std[:channels],
    )
    images = torch.randn(6, channels, 8, 8, generator=generator) * scale
    labels = torch.arange(3).repeat_interleave(2 * decode_factor**2)
    labelling = Labelling()
    if kind != "hard":
        labels = torch.rand(len(labels), 3, generator=generator).softmax(dim=1)
        labelling = Labelling(kind=kind, temperature=3.0)
    return ProxyDataset(
        images=images,
        labels=labels,
        spec=spec,
        method="gradient_matching",
        parameters={"num_steps": 3},
        images_per_class=2,
        seed=5,
        augmentation=Augmentation(dsa="color_crop", cutmix=0.5),
        learning_rate_rule=LearningRateRule(learning_rate=0.037, num_epochs=7, batch_size=4),
        labelling=labelling,
        decode_factor=decode_factor,
        zca=zca,
        costs={"distilling": 12.5},
    )


def back(folder, spec=SPEC, form=None, **said):
    return import_published(Source(path=folder, format=form), spec, Assumptions(**said))


@pytest.mark.parametrize("decode_factor", [1, 2])
@pytest.mark.parametrize("kind", ["hard", "soft", "learned"])
@pytest.mark.parametrize("zca", [None, 1.6])
def test_tensors_come_back_as_they_were(tmp_path, decode_factor, kind, zca):
    made = proxy_dataset(decode_factor=decode_factor, kind=kind, zca=zca)
    export_proxy_dataset(made, tmp_path / "out", ["tensors"])
    found = back(tmp_path / "out")
    assert torch.equal(found.images, made.images)
    assert torch.equal(found.labels, made.labels)
    same = ("images_per_class", "augmentation", "learning_rate_rule", "labelling", "zca")
    for name in (*same, "decode_factor"):
        assert getattr(found, name) == getattr(made, name), name
    assert found.method == "imported:tensors"
    assert found.spec == replace(SPEC, source_hash="")  # anybody can write such a folder


def test_tensors_are_plain_and_one_image_goes_with_one_label(tmp_path):
    made = proxy_dataset(decode_factor=2, kind="soft")
    export_proxy_dataset(made, tmp_path / "out", ["tensors"])
    images, labels, rate = (
        torch.load(tmp_path / "out" / f"{name}.pt", weights_only=True)
        for name in ("images", "labels", "learning_rate")
    )
    assert torch.equal(images, decode(made.images, 2))
    assert torch.equal(labels, made.labels)
    assert float(rate) == pytest.approx(0.037)
    record = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert record["card"]["id"] == made.id
    assert record["card"]["costs"] == {"distilling": 12.5}
    assert record["mean"] == list(made.spec.mean)


def test_a_data_set_normalised_otherwise_gets_the_same_pixels(tmp_path):
    made = proxy_dataset()
    export_proxy_dataset(made, tmp_path / "out")
    other = replace(SPEC, mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.1))
    found, expected = back(tmp_path / "out", other).pixels(), made.pixels()
    # A pixel on the edge between two bytes may be rounded to either.
    difference = (found.int() - expected.int()).abs()
    assert int(difference.max()) <= 1
    assert float(difference.float().mean()) < 0.01


@pytest.mark.parametrize(("channels", "decode_factor"), [(3, 1), (1, 1), (3, 2)])
def test_pictures_are_those_of_the_training_images(tmp_path, channels, decode_factor):
    made = proxy_dataset(decode_factor=decode_factor, channels=channels, scale=0.3)
    export_proxy_dataset(made, tmp_path / "out", ["folder"])
    mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in (made.spec.mean, made.spec.std))
    expected = ((decode(made.images, decode_factor) * std + mean) * 255).clamp(0, 255)
    shown = ImageFolder(tmp_path / "out", transform=pil_to_tensor)
    assert shown.targets == made.labels.tolist()  # sorted by name, folders are in label order
    pictures = torch.stack([picture[:channels] for picture, _ in shown])
    edge = 0.5 + 4 * 255 * torch.finfo(torch.float32).eps  # the nearest byte, or one of two
    assert float((pictures - expected).abs().max()) <= edge
    assert shown.classes == ["0_a_cat", "1_cat_dog", "2_..frog"]
    first = Image.open(tmp_path / "out" / "0_a_cat" / "00000.png")
    assert first.mode == ("RGB" if channels == 3 else "L")


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_pictures_come_back_rounded_with_their_labels(tmp_path, kind):
    made = proxy_dataset(kind=kind)
    export_proxy_dataset(made, tmp_path / "out", ["folder"])
    found = back(tmp_path / "out")
    assert found.method == "imported:folder"
    assert torch.equal(found.pixels(), made.pixels())
    assert torch.equal(found.labels, made.labels)
    assert found.labelling == made.labelling
    assert found.learning_rate_rule == made.learning_rate_rule
    with (tmp_path / "out" / "labels.csv").open(newline="") as text:
        header, *rows = csv.reader(text)
    soft = list(SPEC.class_names) if kind == "soft" else []
    assert header == ["file", "class", *soft]
    assert rows[2][:2] == ["1_cat_dog/00000.png", "cat/dog"]


def test_both_forms_lie_in_one_folder_and_the_exact_one_is_read(tmp_path):
    made = proxy_dataset(kind="soft")
    export_proxy_dataset(made, tmp_path / "out")
    assert torch.equal(back(tmp_path / "out").images, made.images)
    rounded = back(tmp_path / "out", form="folder")
    assert not torch.equal(rounded.images, made.images)
    assert torch.equal(rounded.labels, made.labels)
    readme = (tmp_path / "out" / "README.md").read_text()
    for word in (made.id, SPEC.licence, "labels.csv", "images.pt", "metadata.json"):
        assert word in readme


def test_what_the_record_says_is_not_said_again(tmp_path):
    export_proxy_dataset(proxy_dataset(), tmp_path / "out", ["tensors"])
    with pytest.raises(ProxyFileError, match="leave --decode-factor"):
        back(tmp_path / "out", normalised=True)
    with pytest.raises(ProxyFileError, match="leave --decode-factor"):
        back(tmp_path / "out", zca=0.1)


def test_a_damaged_record_is_refused(tmp_path):
    export_proxy_dataset(proxy_dataset(), tmp_path / "out", ["tensors"])
    record = tmp_path / "out" / "metadata.json"
    content = record.read_text()
    for damaged in (content[:100], "[]", content.replace("/1", "/9"), content.replace("zca", "z")):
        record.write_text(damaged)
        with pytest.raises(ProxyFileError, match="was not written by export-proxy"):
            back(tmp_path / "out")


def test_nothing_is_overwritten_and_nothing_is_left_behind(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(ProxyFileError, match="holds something already"):
            export_proxy_dataset(proxy_dataset(), tmp_path / name)
    with pytest.raises(ProxyFileError, match="whitened.*--as tensors"):
        export_proxy_dataset(proxy_dataset(zca=1.0), tmp_path / "out")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="No space"):
            export_proxy_dataset(proxy_dataset(), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    export_proxy_dataset(proxy_dataset(), tmp_path / "empty")
    assert len(list((tmp_path / "empty").iterdir())) == 9
