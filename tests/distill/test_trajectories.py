"""Expert trajectories: what is in them, when they are trained, and what a bad file says."""

import gc
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.transforms import normalise
from nas_proxy.data.whitening import Whitening
from nas_proxy.distill.common.synthetic import RealImages
from nas_proxy.distill.trajectory_matching import _trajectories as module
from nas_proxy.distill.trajectory_matching._trajectories import ExpertRecipe, obtain_trajectories
from nas_proxy.errors import DivergedError, ProxyFileError, StudyError
from nas_proxy.interfaces import DistillContext
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import make_generator
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.settings import TrainSettings

NUM_IMAGES, NUM_CLASSES = 24, 3


def recipe(*, zca=None, seed=0, width=4, **train):
    options = {
        "num_epochs": 3,
        "batch_size": 256,
        "learning_rate": 0.1,
        "schedule": "constant",
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "precision": "float32",
    }
    network = NetworkSettings(name="convnet", width=width, depth=2)
    settings = TrainSettings(**{**options, **train})
    return ExpertRecipe(network=network, train=settings, zca=zca, seed=seed)


def obtain(cache=None, num_experts=2, dataset=None, progress=lambda *_: None, **options):
    dataset = dataset or tiny_dataset()
    what = recipe(**options)
    whitening = None if what.zca is None else Whitening.fit(dataset, what.zca)
    context = DistillContext(cache=cache, progress=progress)
    return obtain_trajectories(
        what, num_experts, dataset, RealImages(dataset, 256, whitening), context
    )


def network_at(vector):
    network = ConvNet((3, 8, 8), NUM_CLASSES, width=4, depth=2)
    vector_to_parameters(vector.clone(), network.parameters())
    return network


def read(path):
    return load_file(path)["parameters"].clone()  # the file itself may be harmed afterwards


def points_of(trajectories, expert=0):
    return read(trajectories.path(expert))


def seen_images(dataset, zca):
    images = normalise(dataset.images, dataset.spec)
    if zca is None:
        return images
    # Whitening once more, from its definition.
    flat = images.flatten(1).double()
    covariance = torch.cov(flat.T, correction=0)
    values, vectors = torch.linalg.eigh(covariance)
    matrix = vectors @ torch.diag((values.clamp_min(0) + zca).rsqrt()) @ vectors.T
    return ((flat - flat.mean(dim=0)) @ matrix).view_as(images).float()


# What is in them


@pytest.mark.parametrize("zca", [None, 0.1])
def test_each_point_is_one_step_of_gradient_descent_from_the_last(zca, tmp_path):
    """All images in one batch make an epoch one step, which can be taken by hand."""
    dataset = tiny_dataset()
    trajectories = obtain(tmp_path, dataset=dataset, zca=zca, learning_rate=1.0)
    images = seen_images(dataset, zca)
    for expert in range(2):
        for epoch in range(3):
            network = network_at(trajectories.parameters(expert, epoch))
            F.cross_entropy(network(images), dataset.labels).backward()
            with torch.no_grad():
                for weight in network.parameters():
                    weight -= weight.grad
            expected = parameters_to_vector(network.parameters()).detach()
            found = trajectories.parameters(expert, epoch + 1)
            moved = float((found - trajectories.parameters(expert, epoch)).norm())
            assert float((found - expected).norm()) < 0.02 * moved  # half precision's rounding


def test_a_trajectory_is_kept_in_half_precision_with_one_point_more_than_epochs(tmp_path):
    trajectories = obtain(tmp_path, num_epochs=4)
    points = points_of(trajectories)
    num_parameters = sum(p.numel() for p in network_at_size().parameters())
    assert points.dtype == torch.float16
    assert tuple(points.shape) == (5, num_parameters)
    assert trajectories.path(0).stat().st_size < 2 * points.numel() + 4096
    assert trajectories.parameters(0, 2).dtype == torch.float32
    torch.testing.assert_close(trajectories.parameters(0, 2).half(), points[2], rtol=0, atol=0)
    torch.testing.assert_close(
        trajectories.parameters(0, -1), trajectories.parameters(0, 4), rtol=0, atol=0
    )


def network_at_size():
    return ConvNet((3, 8, 8), NUM_CLASSES, width=4, depth=2)


def test_points_are_at_the_ends_of_epochs_whatever_the_batch(tmp_path, monkeypatch):
    """24 images in batches of 10: epochs end at steps 3, 5 and 8."""
    seen = {}
    flatten = module.flatten_parameters

    def spy(network):
        seen.setdefault("points", []).append(seen.get("step", 0))
        return flatten(network)

    def counting_train(network, training_set, settings, generator, observer):
        def count(step, indices, logits):
            seen["step"] = step
            observer(step, indices, logits)

        return train(network, training_set, settings, generator, count)

    train = module.train
    monkeypatch.setattr(module, "train", counting_train)
    trajectories = module.Trajectories(
        recipe(batch_size=10), tiny_dataset(), RealImages(tiny_dataset(), 256),
        DistillContext(cache=tmp_path),
    )  # fmt: skip
    trajectories._check_space(0)
    monkeypatch.setattr(module, "flatten_parameters", spy)
    monkeypatch.setattr(trajectories, "_check_space", lambda _: None)
    trajectories.obtain(1)
    assert seen["points"] == [0, 3, 5, 8]


def test_experts_differ_and_a_shorter_training_is_the_beginning_of_a_longer_one(tmp_path):
    options = {"batch_size": 7, "augmentation": Augmentation(dsa="crop_scale_rotate")}
    short = obtain(tmp_path, num_epochs=2, **options)
    long = obtain(tmp_path, num_epochs=4, **options)
    assert short.id != long.id
    torch.testing.assert_close(points_of(short), points_of(long)[:3], rtol=0, atol=0)
    first, second = (points_of(short, expert) for expert in (0, 1))
    assert not torch.equal(first[0], second[0])
    still = obtain(tmp_path, num_epochs=2, batch_size=7)
    assert not torch.equal(points_of(still)[2], points_of(short)[2])  # augmentation counts


# When they are trained


def no_training(*args, **options):
    raise AssertionError("an expert was trained again")


def test_experts_are_trained_once_and_more_are_added_to_them(tmp_path, monkeypatch):
    two = obtain(tmp_path, num_experts=2)
    contents = [two.path(expert).read_bytes() for expert in range(2)]
    three = obtain(tmp_path, num_experts=3)
    assert three.id == two.id
    assert [three.path(expert).read_bytes() for expert in range(2)] == contents
    monkeypatch.setattr(module, "train", no_training)
    again = obtain(tmp_path, num_experts=3)
    assert len(again) == 3
    headers = []
    for expert in range(3):
        with safe_open(str(again.path(expert)), framework="pt") as file:
            headers.append(json.loads(file.metadata()["nas_proxy"]))
    assert again.train_seconds == sum(header["train_seconds"] for header in headers) > 0
    assert [header["expert"] for header in headers] == [0, 1, 2]


def test_a_killed_training_loses_the_expert_at_work_and_no_other(tmp_path):
    undisturbed = obtain(tmp_path / "undisturbed", num_experts=3)
    told = []

    def kill(done, total, note=""):
        told.append((done, total, note))
        if note == "expert 2 of 3" and done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        obtain(tmp_path / "killed", num_experts=3, progress=kill)
    assert told[:4] == [
        (0, 9, "expert 1 of 3"),
        (1, 9, "expert 1 of 3"),
        (2, 9, "expert 1 of 3"),
        (3, 9, "expert 2 of 3"),
    ]
    files = sorted((tmp_path / "killed").rglob("*"))
    assert [path.name for path in files if path.is_file()] == ["expert_0000.safetensors"]
    told.clear()
    continued = obtain(tmp_path / "killed", 3, progress=lambda *words: told.append(words))
    assert told[0] == (3, 9, "expert 2 of 3")
    for expert in range(3):
        torch.testing.assert_close(
            points_of(continued, expert), points_of(undisturbed, expert), rtol=0, atol=0
        )


def test_the_id_is_that_of_everything_that_shapes_them():
    spec = tiny_dataset().spec
    other_images = replace(spec, source_hash="another")
    ids = [
        recipe().id(spec),
        recipe().id(other_images),
        recipe().id(spec.with_image_size(16)),
        recipe(zca=0.1).id(spec),
        recipe(seed=1).id(spec),
        recipe(width=8).id(spec),
        recipe(num_epochs=4).id(spec),
        recipe(learning_rate=0.2).id(spec),
        recipe(batch_size=8).id(spec),
        recipe(augmentation=Augmentation(dsa="crop")).id(spec),
    ]
    assert len(set(ids)) == len(ids)
    assert recipe().id(spec) == ids[0]


def test_without_a_cache_they_live_as_long_as_they_are_used():
    trajectories = obtain(None)
    path = trajectories.path(0)
    assert path.is_file()
    del trajectories
    gc.collect()
    assert not path.parent.exists()


# What the experts know


def confusing_dataset():
    """One image of three has the label of another class, so that no expert is right about all."""
    dataset = tiny_dataset()
    labels = dataset.labels.clone()
    for label in range(NUM_CLASSES):
        labels[torch.nonzero(dataset.labels == label).flatten()[:3]] = (label + 1) % NUM_CLASSES
    return replace(dataset, labels=labels)


def test_known_images_are_those_that_the_first_expert_is_right_about(tmp_path):
    dataset = confusing_dataset()
    trajectories = obtain(tmp_path, dataset=dataset, num_epochs=10)
    images = normalise(dataset.images, dataset.spec)
    right = network_at(trajectories.parameters(0, -1))(images).argmax(dim=1) == dataset.labels
    num_right = [int((right & (dataset.labels == label)).sum()) for label in range(3)]
    assert 0 < min(num_right) < 8  # otherwise the test says nothing
    wanted = max(num_right)
    chosen = trajectories.known_images(wanted, make_generator(0)).view(3, wanted)
    for label in range(3):
        assert dataset.labels[chosen[label]].tolist() == [label] * wanted
        assert right[chosen[label]].tolist() == sorted(right[chosen[label]].tolist(), reverse=True)
        assert int(right[chosen[label]].sum()) == num_right[label]
        assert len(set(chosen[label].tolist())) == wanted
    other = trajectories.known_images(wanted, make_generator(1)).view(3, wanted)
    assert not torch.equal(chosen, other)
    assert trajectories.known_images(20, make_generator(0)).shape == (60,)  # of eight each


def test_labels_are_the_mean_of_what_experts_say_that_are_right(tmp_path):
    dataset = confusing_dataset()
    trajectories = obtain(tmp_path, num_experts=3, dataset=dataset, num_epochs=10)
    images = normalise(dataset.images, dataset.spec)
    with torch.no_grad():
        said = [network_at(trajectories.parameters(e, -1))(images) for e in range(3)]
    logits, known = trajectories.labels(images, dataset.labels)
    for index, label in enumerate(dataset.labels.tolist()):
        right = [each[index] for each in said if int(each[index].argmax()) == label]
        assert bool(known[index]) == bool(right)
        expected = sum(right) / len(right) if right else torch.zeros(NUM_CLASSES)
        torch.testing.assert_close(logits[index], expected, rtol=1e-4, atol=1e-5)
    assert 0 < int(known.sum()) < NUM_IMAGES


# What goes wrong


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def alter(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def alter_header(path):
    content = path.read_bytes()
    assert content.count(b'expert\\":1') == 1
    path.write_bytes(content.replace(b'expert\\":1', b'expert\\":7'))


def replace_by_another_file(path):
    save_file({"parameters": torch.zeros(4, 3)}, path)


def replace_by_another_expert(path):
    path.write_bytes(path.with_name("expert_0000.safetensors").read_bytes())


@pytest.mark.parametrize(
    "harm",
    [
        truncate,
        empty,
        alter,
        alter_header,
        replace_by_another_file,
        replace_by_another_expert,
    ],
)
def test_a_damaged_file_is_named_and_can_be_deleted(harm, tmp_path):
    path = obtain(tmp_path).path(1)
    points = read(path)
    harm(path)
    with pytest.raises(ProxyFileError, match=r"delete it and it is trained again$") as caught:
        obtain(tmp_path)
    assert str(path) in str(caught.value)
    path.unlink()
    torch.testing.assert_close(points_of(obtain(tmp_path), 1), points, rtol=0, atol=0)


def test_an_expert_of_other_options_is_not_taken_for_the_right_one(tmp_path):
    wrong = obtain(tmp_path, learning_rate=0.2).path(0)
    right = obtain(tmp_path).path(0)
    right.write_bytes(wrong.read_bytes())
    with pytest.raises(ProxyFileError, match="altered"):
        obtain(tmp_path)


def test_a_full_disk_is_told_before_training(tmp_path, monkeypatch):
    trajectories = obtain(tmp_path, num_experts=1)
    size = points_of(trajectories).numel() * 2
    monkeypatch.setattr(module, "train", no_training)
    monkeypatch.setattr(
        module.shutil, "disk_usage", lambda _: SimpleNamespace(free=int(2.5 * size))
    )
    with pytest.raises(StudyError, match="7 expert trajectories") as caught:
        obtain(tmp_path, num_experts=8)
    assert "lower distill.num_experts by 5" in str(caught.value)
    assert not isinstance(caught.value, OSError)


def test_a_diverged_expert_is_named_and_not_kept(tmp_path):
    with pytest.raises(DivergedError, match=r"expert 1 of 2 .*expert_learning_rate \(now 1e\+30\)"):
        obtain(tmp_path, learning_rate=1e30, num_epochs=5)
    assert not [path for path in Path(tmp_path).rglob("*") if path.is_file()]
