"""The file of a proxy data set: read back exactly, or refused with a sentence."""

import errno
import json
import os
import struct
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import save_file

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_card import FORMAT, ProxyCard
from nas_proxy.data.proxy_dataset import Labelling, ProxyDataset, TeacherRecord
from nas_proxy.errors import ProxyFileError
from nas_proxy.reproducibility import make_generator
from nas_proxy.types import DatasetSpec
from tests.data.helpers_proxy import make_proxy, parse, soft


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "proxy.safetensors"
    make_proxy().save(path)
    return path


# The file


finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


weights = st.floats(2**-20, 1, width=32)
records = st.lists(
    st.builds(
        TeacherRecord,
        st.text(max_size=4),
        st.text(max_size=4),
        st.text(max_size=4),
        st.integers(0, 9),
    ),
    max_size=2,
).map(tuple)


def any_bits(*shape):
    """Float32 of all kinds: infinite, subnormal, minus zero."""
    return arrays.arrays(np.float32, shape, elements=st.floats(width=32, allow_nan=False))


@st.composite
def proxy_datasets(draw):
    num_classes = draw(st.integers(1, 3))
    channels, height, width = draw(st.tuples(*[st.integers(1, 3)] * 3))
    per_class = draw(st.integers(1, 2))
    num = num_classes * per_class
    factor = draw(st.integers(1, 2))
    labels = torch.arange(num_classes).repeat_interleave(per_class * factor**2)
    kind = draw(st.sampled_from(["hard", "soft", "learned"]))
    if kind != "hard":
        drawn = draw(arrays.arrays(np.float32, (len(labels), num_classes), elements=weights))
        labels = torch.from_numpy(drawn / drawn.sum(axis=1, keepdims=True))
    return ProxyDataset(
        images=torch.from_numpy(draw(any_bits(num, channels, height, width))),
        labels=labels,
        spec=DatasetSpec(
            name=draw(st.text(max_size=5)),
            class_names=tuple(draw(st.text(max_size=5)) for _ in range(num_classes)),
            image_shape=(channels, height, width),
            mean=tuple(draw(finite) for _ in range(channels)),
            std=tuple(draw(finite) for _ in range(channels)),
            licence=draw(st.text(max_size=5)),
            source_hash=draw(st.text(max_size=5)),
        ),
        method=draw(st.text(max_size=5)),
        parameters=draw(st.dictionaries(st.text(max_size=3), json_values, max_size=3)),
        images_per_class=per_class,
        seed=draw(st.integers(0, 2**63 - 1)),
        augmentation=Augmentation(crop=draw(st.floats(0, 1)), dsa=draw(st.just("scale"))),
        labelling=Labelling(
            kind=kind,
            temperature=draw(st.floats(0.1, 20)),
            per=draw(st.sampled_from(["image", "view"])),
            teachers=draw(records),
        ),
        networks=draw(records),
        decode_factor=factor,
        zca=draw(st.none() | st.floats(0, 1)),
        costs=draw(st.dictionaries(st.text(max_size=3), st.floats(0, 1e9), max_size=2)),
        peak_memory_mib=draw(st.floats(0, 1e6)),
        versions=draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)),
    )


@given(proxy_datasets())
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_a_set_is_read_back_as_it_was_saved(tmp_path_factory, proxy):
    path = tmp_path_factory.mktemp("saved") / "proxy.safetensors"
    proxy.save(path)
    loaded = ProxyDataset.load(path)
    assert loaded == proxy
    assert loaded.id == proxy.id
    assert loaded.images.numpy().tobytes() == proxy.images.numpy().tobytes()
    assert loaded.labels.dtype == proxy.labels.dtype
    assert loaded.spec == proxy.spec
    assert loaded.augmentation == proxy.augmentation
    assert loaded.learning_rate_rule == proxy.learning_rate_rule
    assert loaded.labelling == proxy.labelling
    assert loaded.networks == proxy.networks
    assert loaded.costs == proxy.costs
    assert loaded.zca == proxy.zca


@pytest.mark.parametrize(
    "labels", [torch.tensor([0, 9, 0, 9, 1, 9, 1, 9])[::2], soft([[0.3] * 4, [0.7] * 4]).T]
)
def test_tensors_may_lie_in_memory_in_any_order(tmp_path, labels):
    images = torch.randn(3, 4, 5, 4, generator=make_generator(0)).permute(3, 0, 1, 2)
    proxy = make_proxy(images=images, labels=labels)
    proxy.save(tmp_path / "proxy")
    assert ProxyDataset.load(tmp_path / "proxy") == proxy
    assert proxy.id == make_proxy(images=images.contiguous(), labels=labels.contiguous()).id


def test_the_file_is_a_header_and_two_plain_arrays_and_nothing_else(file):
    proxy = make_proxy()
    header, content = parse(file.read_bytes())
    assert set(header) == {"__metadata__", "images", "labels"}
    for name, kind, expected in (
        ("images", "F32", proxy.images.numpy()),
        ("labels", "I64", proxy.labels.numpy()),
    ):
        assert header[name]["dtype"] == kind
        first, last = header[name]["data_offsets"]
        stored = np.frombuffer(content[first:last], dtype=expected.dtype)
        np.testing.assert_array_equal(stored.reshape(header[name]["shape"]), expected)
    assert len(content) == proxy.images.numpy().nbytes + proxy.labels.numpy().nbytes
    described = json.loads(header["__metadata__"]["nas_proxy"])
    assert described["id"] == proxy.id
    assert described["spec"]["licence"] == "none"


# Faults of the file


def refusal(path):
    with pytest.raises(ProxyFileError) as caught:
        ProxyDataset.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_that_is_cut_off_anywhere_is_refused(file):
    whole = file.read_bytes()
    header_end = 8 + struct.unpack("<Q", whole[:8])[0]
    middle = (header_end + len(whole)) // 2
    for length in (0, 1, 7, 8, 9, header_end // 2, header_end - 1, header_end, middle):
        file.write_bytes(whole[:length])
        assert "truncated or damaged" in refusal(file)
    file.write_bytes(whole[:-1])
    assert "truncated or damaged" in refusal(file)
    file.write_bytes(whole + b"\0")
    assert "truncated or damaged" in refusal(file)


@pytest.fixture(scope="module")
def saved_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "proxy.safetensors"
    make_proxy().save(path)
    return path.read_bytes()


@given(data=st.data(), flip=st.integers(1, 255))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_altered_byte_changes_what_is_trained_on(tmp_path, saved_bytes, data, flip):
    file = tmp_path / "altered.safetensors"
    content = bytearray(saved_bytes)
    content[data.draw(st.integers(0, len(content) - 1))] ^= flip
    file.write_bytes(content)
    with suppress(ProxyFileError):
        loaded = ProxyDataset.load(file)
        # What it cost and where it was made is not part of the id.
        original = make_proxy()
        unverified = ("costs", "peak_memory_mib", "hardware", "versions")
        assert replace(loaded, **{name: getattr(original, name) for name in unverified}) == original


@pytest.mark.parametrize("place", [-1, -33, -200])
def test_altered_pixels_and_labels_are_noticed(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert "was altered after it was written" in refusal(file)


def test_files_from_before_an_augmentation_was_known_keep_their_id(file):
    header, _ = parse(file.read_bytes())
    kept = json.loads(header["__metadata__"]["nas_proxy"])["augmentation"]
    assert set(kept) == {"resized_crop", "crop", "flip", "cutout", "dsa", "mixup", "cutmix"}
    asked = Augmentation(crop=0.125, flip=True, dsa="color_crop", rotation=10.0)
    other = make_proxy(augmentation=asked)
    assert other.id != make_proxy().id
    other.save(file)
    assert ProxyDataset.load(file).augmentation == asked


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere.safetensors")
    assert "does not exist" in refusal(tmp_path)


def test_files_of_other_programs_are_refused(tmp_path):
    path = tmp_path / "foreign"
    tensors = {"images": torch.zeros(2, 3, 4, 4), "labels": torch.zeros(2)}
    save_file(tensors, path)
    assert f"not a proxy data set of this program ({FORMAT})" in refusal(path)
    save_file(tensors, path, {"format": "pt"})
    assert "not a proxy data set" in refusal(path)
    torch.save(tensors, path)
    assert "truncated or damaged" in refusal(path)
    path.write_text("images: none\n")
    assert "truncated or damaged" in refusal(path)


def with_header(path, change):
    """The file of `make_proxy` with another description; `change` gets and returns it."""
    proxy = make_proxy()
    proxy.save(path)
    header, _ = parse(path.read_bytes())
    text = change(json.loads(header["__metadata__"]["nas_proxy"]))
    tensors = {"images": proxy.images, "labels": proxy.labels}
    save_file(tensors, path, {"nas_proxy": text if isinstance(text, str) else json.dumps(text)})


def without(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda header: header | {"format": "nas_proxy.proxy_dataset/1"}, "not a proxy data set"),
        (lambda header: header | {"format": "nas_proxy.proxy_dataset/3"}, "not a proxy data set"),
        (lambda header: without(header, "format"), "not a proxy data set"),
        (lambda header: without(header, "id"), "cannot be read"),
        (lambda header: without(header, "spec"), "cannot be read"),
        (lambda header: without(header, "seed"), "cannot be read"),
        (lambda header: header | {"sizes": 3}, "cannot be read"),
        (lambda header: header | {"spec": "made_up"}, "cannot be read"),
        (lambda header: header | {"spec": without(header["spec"], "mean")}, "cannot be read"),
        (lambda header: header | {"augmentation": {"dsa": "colour"}}, "cannot be read"),
        (lambda header: header | {"costs": {"distilling": float("nan")}}, "cannot be read"),
        (lambda header: header | {"labelling": {"kind": "hard"}}, "cannot be read"),
        (lambda header: header | {"labelling": "hard"}, "cannot be read"),
        (lambda header: header | {"networks": None}, "cannot be read"),
        (lambda header: header | {"networks": [{"id": "a1"}]}, "cannot be read"),
        (lambda header: header | {"decode_factor": 2}, "was altered"),
        (lambda header: header | {"networks": []}, "was altered"),
        (lambda header: header | {"zca": 0.1}, "was altered"),
        (lambda header: "{", "cannot be read"),
        (lambda header: "[]", "cannot be read"),
        (lambda header: "3", "cannot be read"),
        (lambda header: "null", "cannot be read"),
        (lambda header: header | {"seed": 3}, "was altered"),
        (lambda header: header | {"id": "0" * 16}, "was altered"),
        (lambda header: header | {"spec": header["spec"] | {"std": [1, 1, 1]}}, "was altered"),
    ],
)
def test_a_header_that_cannot_be_is_refused(tmp_path, change, said):
    path = tmp_path / "proxy.safetensors"
    with_header(path, change)
    assert said in refusal(path)


def test_a_rewritten_but_equal_header_is_accepted(tmp_path):
    with_header(tmp_path / "proxy", lambda header: json.dumps(header, indent=3))
    assert ProxyDataset.load(tmp_path / "proxy") == make_proxy()


def test_a_file_without_labels_is_refused(file):
    header, _ = parse(file.read_bytes())
    save_file({"images": make_proxy().images}, file, header["__metadata__"])
    assert "cannot be read ('labels')" in refusal(file)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_other(file, monkeypatch, step):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        make_proxy(seed=7).save(file)
    monkeypatch.undo()
    assert ProxyDataset.load(file) == make_proxy()
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("zca", [None, 0.1])
def test_the_card_is_read_without_torchs_arrays(tmp_path, zca):
    proxy_dataset = replace(make_proxy(), zca=zca, costs={"distil": 1.5, "label": 0.25})
    path = tmp_path / "proxy.safetensors"
    proxy_dataset.save(path)
    card = ProxyCard.read(path)
    assert card.entries == ProxyDataset.load(path).card()
    assert list(card.entries) == list(proxy_dataset.card())
    assert card.images_per_class == proxy_dataset.images_per_class
    difference = torch.from_numpy(card.pixels).int() - proxy_dataset.pixels().int()
    # A deviation over all pixels is summed in another order.
    assert int(difference.abs().max()) <= (zca is not None)
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(ProxyFileError, match="was altered after it was written"):
        ProxyCard.read(path)
