"""A trained network: its file, its id, ensembles, and what it answers in parts."""

import copy
import hashlib
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nas_proxy.data.splits import image_hashes
from nas_proxy.data.transforms import normalise, resize
from nas_proxy.errors import DataError, ProxyFileError
from nas_proxy.processes import pack, unpack
from nas_proxy.reproducibility import make_generator
from nas_proxy.teachers.teacher import Ensemble, in_batches, over_dataset
from nas_proxy.teachers.training import read_teacher
from nas_proxy.testing import tiny_dataset
from nas_proxy.testing._common import global_generators_untouched
from tests.teachers.helpers import CELL, of_images, settings, short, teach

KINDS = {
    "network": {},
    "batch norm": {"network": replace(settings().network, norm="batch")},
    "architecture": {"architecture": CELL, "train": short(space_fidelity={"num_cells": 1})},
    "smaller": {"train": short(image_size=6)},
}


@pytest.fixture(scope="module", params=KINDS)
def teacher(request):
    return teach(**KINDS[request.param])


@pytest.fixture(scope="module")
def plain():
    return teach()


@pytest.fixture
def images():
    return torch.randn(5, 3, 8, 8, generator=make_generator(1))


@pytest.fixture
def file(tmp_path, plain):
    plain.save(tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.safetensors"


# The file


def test_a_teacher_is_read_back_with_its_answers_and_its_id(tmp_path, teacher, images):
    path = tmp_path / "folder" / "teacher.safetensors"
    teacher.save(path)
    with global_generators_untouched("reading a teacher"):
        loaded = read_teacher(path)
    assert loaded.id == teacher.id
    assert torch.equal(loaded.logits(images), teacher.logits(images))
    assert torch.equal(loaded.embed(images), teacher.embed(images))
    assert torch.equal(loaded.seen, teacher.seen)
    for name in ("spec", "source_spec", "recipe", "description", "licence", "train_seconds"):
        assert json.dumps(vars(loaded)[name], default=vars, sort_keys=True) == json.dumps(
            vars(teacher)[name], default=vars, sort_keys=True
        )
    assert loaded.record() == teacher.record()
    assert not loaded.network.training
    assert not any(weight.requires_grad for weight in loaded.network.parameters())


def test_the_id_does_not_depend_on_where_the_weights_lie(tmp_path, plain):
    moved = replace(plain, network=copy.deepcopy(plain.network))
    moved.network.to(memory_format=torch.channels_last)
    assert moved.id == plain.id
    assert unpack(pack(plain)).id == plain.id
    assert replace(plain, train_seconds=99.0, given_spec=tiny_dataset().spec).id == plain.id


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {"seen": t.seen[1:]},
        lambda t: {"licence": "none"},
        lambda t: {"knows_imagenet": True},
        lambda t: {"recipe": {**t.recipe, "seed": 1}},
        lambda t: {"spec": replace(t.spec, class_names=("a", "b", "c"))},
        lambda t: {"source_spec": replace(t.source_spec, mean=(0.0, 0.0, 0.0))},
    ],
)
def test_the_id_depends_on_all_else(plain, change):
    assert replace(plain, **change(plain)).id != plain.id


def test_the_id_depends_on_every_weight(plain):
    ids = {plain.id}
    for name in plain.network.state_dict():
        network = copy.deepcopy(plain.network)
        tensor = network.state_dict()[name].view(-1)
        tensor[-1] = torch.nextafter(tensor[-1], torch.tensor(9.0))
        ids.add(replace(plain, network=network).id)
    assert len(ids) == len(plain.network.state_dict()) + 1


def refusal(path):
    with pytest.raises(ProxyFileError) as caught:
        read_teacher(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_truncated_file_is_refused(file):
    whole = file.read_bytes()
    header_end = 8 + struct.unpack("<Q", whole[:8])[0]
    for length in (0, 7, 100, header_end - 1, header_end, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert "truncated or damaged" in refusal(file)
        assert "delete it to train anew" in refusal(file)


def test_an_altered_weight_or_hash_is_noticed(file):
    whole = file.read_bytes()
    header_end = 8 + struct.unpack("<Q", whole[:8])[0]
    for place in range(header_end, len(whole), (len(whole) - header_end) // 20):
        altered = bytearray(whole)
        altered[place] ^= 1
        file.write_bytes(altered)
        assert "was altered" in refusal(file)


def rewrite(path, change):
    """The file with another header."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["nas_proxy"])
    save_file(load_file(path), path, {"nas_proxy": json.dumps(change(header))})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: {**h, "format": "nas_proxy.proxy_dataset/2"}, "is not a teacher"),
        (lambda h: [], "truncated or damaged"),
        (lambda h: 3, "truncated or damaged"),
        (lambda h: {k: v for k, v in h.items() if k != "recipe"}, "truncated or damaged"),
        (lambda h: {**h, "recipe": "ConvNet"}, "truncated or damaged"),
        (lambda h: {**h, "recipe": {**h["recipe"], "network": {"name": "mlp"}}}, "damaged"),
        (lambda h: {**h, "spec": "tiny"}, "truncated or damaged"),
        (lambda h: {**h, "kind": "good"}, "truncated or damaged"),
        (lambda h: {**h, "licence": "free"}, "was altered"),
        (lambda h: {**h, "source_spec": {**h["source_spec"], "std": [1, 1, 1]}}, "was altered"),
        (lambda h: {**h, "knows_imagenet": True}, "was altered"),
    ],
)
def test_a_header_of_another_kind_is_refused(file, change, said):
    rewrite(file, change)
    assert said in refusal(file)


def test_files_of_other_programs_and_missing_ones_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    assert "does not exist" in refusal(path)
    save_file({"weight": torch.zeros(2)}, path)
    assert "is not a teacher of this program" in refusal(path)
    path.write_text("name: teacher\n")
    assert "truncated or damaged" in refusal(path)
    torch.save({"weight": torch.zeros(2)}, path)
    assert "truncated or damaged" in refusal(path)


def test_weights_that_two_layers_share_can_be_saved(tmp_path, plain, images):
    network = copy.deepcopy(plain.network)
    network.features[4].bias = network.features[0].bias
    shared = replace(plain, network=network)
    shared.save(tmp_path / "teacher")
    loaded = read_teacher(tmp_path / "teacher")
    assert loaded.id == shared.id
    assert torch.equal(loaded.logits(images), shared.logits(images))


# What it is asked


def test_images_of_any_size_are_resized_to_what_it_was_trained_on(images):
    small = teach(train=short(image_size=6))
    assert small.spec.image_shape == (3, 6, 6)
    assert small.source_spec.image_shape == (3, 8, 8)
    expected = small.network(resize(images, 6))
    torch.testing.assert_close(small.logits(images), expected)
    for size in (4, 6, 12):
        enlarged = resize(images, size)
        torch.testing.assert_close(small.logits(enlarged), small.network(resize(enlarged, 6)))


def test_logits_are_linear_in_the_embedding(teacher, images):
    layer = teacher.network.classifier
    assert teacher.embed(images).shape == (5, layer.in_features)
    torch.testing.assert_close(layer(teacher.embed(images)), teacher.logits(images))


def test_gradients_reach_the_images_and_no_weight(teacher, images):
    images.requires_grad_()
    teacher.logits(images).square().sum().backward()
    assert float(images.grad.abs().sum()) > 0
    assert all(weight.grad is None for weight in teacher.network.parameters())


def test_images_that_are_normalised_otherwise_are_put_right(plain):
    pixels = tiny_dataset().images
    other = replace(plain.source_spec, mean=(0.9, 0.1, 0.3), std=(0.5, 0.4, 0.1), source_hash="")
    expected = plain.logits(normalise(pixels, plain.source_spec))
    adapted = plain.for_images_of(other)
    torch.testing.assert_close(
        adapted.logits(normalise(pixels, other)), expected, atol=1e-4, rtol=1e-4
    )
    assert not torch.allclose(plain.logits(normalise(pixels, other)), expected, atol=0.01)
    assert adapted.id == plain.id
    same = plain.for_images_of(replace(other, mean=plain.spec.mean, std=plain.spec.std))
    assert torch.equal(same.logits(normalise(pixels, plain.spec)), expected)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"class_names": ("cat", "dog", "cow")},
            r"trained on tiny, whose classes is c0, c1, c2, but other here has cat, dog, cow;",
        ),
        ({"class_names": ("c0", "c1")}, r"whose classes is c0, c1, c2, but other here has c0, c1;"),
        ({"class_names": ("c1", "c0", "c2")}, r"but other here has c1, c0, c2;"),
        (
            {"image_shape": (3, 16, 16)},
            r"whose image shape is 3, 8, 8, but other here has 3, 16, 16;",
        ),
        ({"image_shape": (1, 8, 8)}, r"but other here has 1, 8, 8;"),
    ],
)
def test_other_classes_and_sizes_are_refused_in_a_sentence(plain, changes, said):
    spec = replace(plain.source_spec, name="other", **changes)
    for check in (plain.check_fits, plain.for_images_of):
        with pytest.raises(DataError, match=said):
            check(spec)


# Several together


def probabilities(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.25])
def test_an_ensemble_is_the_mean_of_the_tempered_probabilities(images, temperature):
    teachers = [teach(seed=seed) for seed in range(3)]
    said = [
        probabilities(t.logits(images).detach().double().numpy() / temperature) for t in teachers
    ]
    labels = Ensemble(teachers, temperature)(images)
    np.testing.assert_allclose(labels, np.mean(said, axis=0), rtol=1e-5, atol=1e-6)
    assert labels.dtype == torch.float32
    assert not labels.requires_grad
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(5))
    alone = Ensemble(teachers[:1], temperature)(images)
    np.testing.assert_allclose(alone, said[0], rtol=1e-5, atol=1e-6)


def test_an_ensemble_may_change_the_images_first(plain, images):
    labels = Ensemble([plain], before=lambda batch: batch.flip(-1))(images)
    torch.testing.assert_close(labels, Ensemble([plain])(images.flip(-1)))


# Batch by batch


@pytest.mark.parametrize("batch_size", [1, 5, 7, 24, 500, None])
def test_parts_give_what_one_go_gives(plain, batch_size):
    dataset = tiny_dataset()
    whole = plain.embed(normalise(dataset.images, dataset.spec))
    torch.testing.assert_close(over_dataset(plain.embed, dataset, batch_size), whole)
    normalised = normalise(dataset.images, dataset.spec)
    torch.testing.assert_close(in_batches(plain.embed, normalised, batch_size), whole)


def test_parts_need_no_gradient_and_are_small():
    dataset = tiny_dataset(images_per_class=400)
    sizes = []

    def mean(images):
        assert not torch.is_grad_enabled()
        assert images.dtype == torch.float32
        sizes.append(len(images))
        return images.mean(dim=(1, 2, 3))

    means = over_dataset(mean, dataset)
    assert sizes == [400, 400, 400]
    torch.testing.assert_close(means, normalise(dataset.images, dataset.spec).mean(dim=(1, 2, 3)))
    sizes.clear()
    in_batches(mean, torch.zeros(100, 3, 128, 128))
    assert max(sizes) <= 64


# The content of images


def test_hashes_are_those_of_the_bytes_of_each_image():
    images = tiny_dataset().images
    digests = [
        hashlib.blake2b(bytes(image.flatten().tolist()), digest_size=8).digest() for image in images
    ]
    expected = [struct.unpack(">q", digest)[0] for digest in digests]
    assert image_hashes(images).tolist() == expected
    assert image_hashes(images).dtype == torch.int64


def test_equal_images_have_equal_hashes_wherever_they_lie():
    images = tiny_dataset().images
    order = torch.randperm(len(images), generator=make_generator(0))
    assert torch.equal(image_hashes(images[order]), image_hashes(images)[order])
    strided = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(image_hashes(strided), image_hashes(images))
    one_off = images.clone()
    one_off[:, 2, 7, 7] ^= 1
    assert not torch.isin(image_hashes(one_off), image_hashes(images)).any()


def test_a_teacher_remembers_what_it_has_seen_sorted():
    whole = tiny_dataset()
    part = of_images(whole, whole.images[:10], whole.labels[:10])
    assert teach(part).seen.tolist() == sorted(image_hashes(whole.images[:10]).tolist())
