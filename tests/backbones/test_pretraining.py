"""Weights that are made here: what they are learned from, kept with, and refused for."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from nas_proxy.backbones import pretraining as making
from nas_proxy.backbones.pretrain_settings import PretrainSettings
from nas_proxy.backbones.pretraining import make_weights, pretrain
from nas_proxy.backbones.weights import record_of, seen_images
from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.splits import image_hashes
from nas_proxy.errors import ConfigError, DataError, StudyError
from nas_proxy.search_spaces.torchvision_backbones import TorchvisionBackbonesSpace
from nas_proxy.testing import tiny_dataset
from nas_proxy.testing._common import global_generators_untouched
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Splits

NAME = "squeezenet1_1"
TRAIN = TrainSettings(
    num_steps=3,
    batch_size=8,
    learning_rate=0.01,
    precision="float32",
    augmentation=Augmentation(crop=0.25, colour_jitter=0.5),
)


def settings(**changes):
    return PretrainSettings(**{"train": TRAIN, "projection_size": 8, **changes})


def splits(image_shape=(3, 8, 8)):
    whole = tiny_dataset(image_shape=image_shape)
    parts = torch.arange(len(whole)).tensor_split(3)
    return Splits(*(whole.subset(part) for part in parts))


def make(folder, **changes):
    force = changes.pop("force", False)
    told = settings(folder=str(folder), **changes)
    return make_weights(NAME, splits(), told, seed=0, device=torch.device("cpu"), force=force)


def body(path):
    with safe_open(str(path), framework="pt") as file:
        return file.get_tensor("features.0.weight")


@pytest.mark.parametrize("method", ["simclr", "supervised"])
def test_the_space_accepts_what_is_made_with_its_source_and_licence(tmp_path, method):
    with global_generators_untouched("pre-training"):
        path = make(tmp_path, method=method)
    assert path == tmp_path / f"{NAME}.safetensors"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # no checkpoint is left
    record = record_of(NAME, str(path))
    assert "8 images of tiny" in record.source
    assert record.licence == tiny_dataset().spec.licence
    assert torch.equal(seen_images(str(path)), image_hashes(splits().search_train.images))
    space = TorchvisionBackbonesSpace(backbones=(NAME,), weights={NAME: str(path)})
    from nas_proxy.reproducibility import make_generator

    network = space.build(space.sample(make_generator(0)), tiny_dataset().spec)
    assert torch.equal(network.network.features[0].weight, body(path))


def test_labels_are_not_looked_at():
    images = tiny_dataset()
    other = replace(images, labels=(images.labels + 1) % 3)
    first, second = (pretrain(NAME, each, settings(), seed=0)[0] for each in (images, other))
    third, _ = pretrain(NAME, images, settings(), seed=1)
    weights = [each.network.features[0].weight for each in (first, second, third)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_what_is_there_is_not_made_again_and_what_is_other_is_not_lost(tmp_path, monkeypatch):
    path = make(tmp_path)
    content = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(
            "nas_proxy.backbones.pretraining.pretrain", lambda *_, **__: pytest.fail("again")
        )
        assert make(tmp_path) == path
        with pytest.raises(StudyError, match="pass --force to replace it"):
            make(tmp_path, temperature=0.1)
    assert path.read_bytes() == content
    make(tmp_path, temperature=0.1, force=True)
    assert path.read_bytes() != content


@pytest.mark.parametrize("method", ["simclr", "supervised"])
def test_killed_and_continued_it_makes_the_same_file(tmp_path, monkeypatch, method):
    monkeypatch.setattr(Checkpointer, "is_due", True)
    monkeypatch.setattr(making, "_SHOWN_EVERY", 1)
    whole = make(tmp_path / "whole", method=method).read_bytes()
    told, seen = settings(folder=str(tmp_path / "killed"), method=method), []

    def run(killed_at):
        def progress(step, total, note=""):
            seen.append(step)
            if step == killed_at:
                raise KeyboardInterrupt

        device = torch.device("cpu")
        return make_weights(NAME, splits(), told, seed=0, device=device, progress=progress)

    with pytest.raises(KeyboardInterrupt):
        run(killed_at=2)
    assert not list(tmp_path.glob(f"killed/{NAME}.safetensors"))
    assert run(killed_at=None).read_bytes() == whole
    assert seen[:2] == [1, 2]
    assert 1 not in seen[2:]  # continued, not begun anew
    assert [file.name for file in (tmp_path / "killed").iterdir()] == [f"{NAME}.safetensors"]


@pytest.mark.exhaustive
def test_force_discards_an_unfinished_pre_training_too(tmp_path, monkeypatch):
    def die(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpointer, "is_due", True)
    with monkeypatch.context() as patched:
        patched.setattr("nas_proxy.train.loop._Loop.result", die)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path)
    with pytest.raises(StudyError, match="or set pretrain.folder to another folder"):
        make(tmp_path, temperature=0.1)
    path = make(tmp_path, temperature=0.1, force=True)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_loss_that_is_not_finite_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpointer, "is_due", True)
    with pytest.raises(StudyError, match=f"{NAME}: .* not finite .*; lower pretrain.train.learn"):
        make(tmp_path, train=replace(TRAIN, learning_rate=1e30))
    assert not list(tmp_path.iterdir())


def test_one_image_teaches_nothing(tmp_path):
    write(tmp_path / "photos", tiny_dataset().images[:1])
    with pytest.raises(DataError, match="the folder photos has one; give it more"):
        make(tmp_path / "weights", images=str(tmp_path / "photos"))


def test_only_search_training_images_are_learned_from(tmp_path):
    told = settings(folder=str(tmp_path / "a"))
    given = splits()
    blind = replace(
        given,
        search_val=replace(given.search_val, images=given.search_val.images * 0),
        test=replace(given.test, images=given.test.images * 0),
    )
    first = make_weights(NAME, given, told, seed=0, device=torch.device("cpu"))
    other = replace(told, folder=str(tmp_path / "b"))
    second = make_weights(NAME, blind, other, seed=0, device=torch.device("cpu"))
    assert first.read_bytes() == second.read_bytes()


def write(folder, images):
    for index, image in enumerate(images):
        file = folder / f"deep/{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)


def test_a_folder_of_unlabelled_images(tmp_path, caplog):
    images = tiny_dataset(num_classes=2, image_shape=(3, 16, 16)).images
    write(tmp_path / "photos", images)
    for hidden in ("deep/._0.png", ".trash/1.png"):  # as some systems leave them
        (tmp_path / "photos" / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / hidden).write_bytes(b"no picture")
    (tmp_path / "photos" / "more.heic").write_bytes(b"a telephone made this")
    path = make(tmp_path / "weights", images=str(tmp_path / "photos"))
    (left_out,) = caplog.messages
    assert left_out.startswith("pretrain.images: 1 of the files in ")
    with safe_open(str(path), framework="pt") as file:
        said = json.loads(file.metadata()["nas_proxy"])
    assert said["source"] == f"SimCLR on {len(images)} images of the folder photos"
    assert "does not know" in said["licence"]


def test_images_that_judge_are_refused(tmp_path):
    write(tmp_path / "photos", splits().test.images[:2])
    with pytest.raises(DataError, match=r"2 of the images in .* judge .*deep/0.png; remove them"):
        make(tmp_path / "weights", images=str(tmp_path / "photos"))
    with pytest.raises(DataError, match="holds no image"):
        make(tmp_path / "weights", images=str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": replace(TRAIN, augmentation=None)}, "changes nothing"),
        ({"train": replace(TRAIN, augmentation=Augmentation(mixup=1.0))}, "no labels to mix"),
        ({"method": "supervised", "images": "photos"}, "leave images out, or use simclr"),
        ({"train": replace(TRAIN, num_steps=None, num_epochs="architecture")}, "a number"),
        ({"train": replace(TRAIN, batch_size=1)}, "batch_size is 1"),
        ({"train": replace(TRAIN, num_seeds=3)}, "num_seeds is not read"),
        ({"train": replace(TRAIN, image_size=64)}, "image_size is not read"),
        ({"backbones": ()}, "backbones is empty"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        settings(**changes)
