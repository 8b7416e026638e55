"""The proxy data set: what its id depends on, and a file that is read back exactly or refused."""

import errno
import json
import os
import struct
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import save_file

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import FORMAT, LearningRateRule, ProxyDataset
from nas_proxy.data.transforms import denormalise, normalise
from nas_proxy.errors import NasProxyError, ProxyFileError
from nas_proxy.reproducibility import make_generator
from nas_proxy.types import DatasetSpec

SPEC = DatasetSpec(
    name="made_up",
    class_names=("cat", "dög"),
    image_shape=(3, 4, 5),
    mean=(0.5, 0.25, 0.1),
    std=(0.2, 0.3, 0.1),
    licence="none",
    source_hash="0123456789abcdef",
)


def make_proxy(**changes):
    generator = make_generator(0)
    proxy = ProxyDataset(
        images=torch.randn(4, 3, 4, 5, generator=generator),
        labels=torch.tensor([0, 0, 1, 1]),
        spec=SPEC,
        method="some_method",
        parameters={"num_steps": 3, "augment": "color", "rate": 0.1, "sizes": (1, 2)},
        images_per_class=2,
        seed=2**62 + 1,
        augmentation=Augmentation(crop=0.125, flip=True, dsa="color_crop"),
        learning_rate_rule=LearningRateRule(learning_rate=0.02),
        cost_seconds=1.5,
        hardware="a processor",
        versions={"torch": "2.9"},
    )
    return replace(proxy, **changes)


def soft(rows):
    return torch.tensor(rows, dtype=torch.float32)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "proxy.safetensors"
    make_proxy().save(path)
    return path


def parse(data):
    """The format by hand: the header's length, the header, the bytes of the tensors."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


# The file


finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def any_bits(*shape):
    """Float32 of all kinds: infinite, subnormal, minus zero."""
    return arrays.arrays(np.float32, shape, elements=st.floats(width=32, allow_nan=False))


@st.composite
def proxy_datasets(draw):
    num_classes = draw(st.integers(1, 3))
    channels, height, width = draw(st.tuples(*[st.integers(1, 3)] * 3))
    per_class = draw(st.integers(1, 2))
    num = num_classes * per_class
    hard = torch.arange(num_classes).repeat_interleave(per_class)
    return ProxyDataset(
        images=torch.from_numpy(draw(any_bits(num, channels, height, width))),
        labels=torch.from_numpy(draw(any_bits(num, num_classes))) if draw(st.booleans()) else hard,
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
        cost_seconds=draw(st.floats(0, 1e9)),
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
        unverified = {"cost_seconds": 1.5, "hardware": "a processor", "versions": {"torch": "2.9"}}
        assert replace(loaded, **unverified) == make_proxy()


@pytest.mark.parametrize("place", [-1, -33, -200])
def test_altered_pixels_and_labels_are_noticed(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert "was altered after it was written" in refusal(file)


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
        (lambda header: header | {"format": "nas_proxy.proxy_dataset/2"}, "not a proxy data set"),
        (lambda header: without(header, "format"), "not a proxy data set"),
        (lambda header: without(header, "id"), "cannot be read"),
        (lambda header: without(header, "spec"), "cannot be read"),
        (lambda header: without(header, "seed"), "cannot be read"),
        (lambda header: header | {"sizes": 3}, "cannot be read"),
        (lambda header: header | {"spec": "made_up"}, "cannot be read"),
        (lambda header: header | {"spec": without(header["spec"], "mean")}, "cannot be read"),
        (lambda header: header | {"augmentation": {"dsa": "colour"}}, "cannot be read"),
        (lambda header: header | {"cost_seconds": float("nan")}, "cannot be read"),
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


# The id


@pytest.mark.parametrize(
    "change",
    [
        {"cost_seconds": 99.0},
        {"hardware": "another processor"},
        {"versions": {"torch": "1.0", "numpy": "1.0"}},
    ],
)
def test_the_id_ignores_what_it_cost_and_where_it_was_made(change):
    assert make_proxy(**change).id == make_proxy().id
    assert make_proxy(**change) != make_proxy()


def test_the_id_is_the_same_on_every_machine_and_for_every_version():
    # Written down once. Where it changes, `load` takes every file that exists for an altered one.
    proxy = make_proxy(images=torch.arange(240.0).view(4, 3, 4, 5))
    assert proxy.id == "bb1e586d0d9e478b"


@pytest.mark.parametrize(
    "change",
    [
        {"labels": torch.tensor([0, 0, 1, 0])},
        {"labels": torch.tensor([0, 0, 1, 1], dtype=torch.int32)},
        {"labels": soft([[1, 0], [1, 0], [0, 1], [0, 1]])},
        {"spec": replace(SPEC, mean=(0.5, 0.25, 0.2))},
        {"spec": replace(SPEC, source_hash="f")},
        {"spec": replace(SPEC, class_names=("dög", "cat"))},
        {"method": "other"},
        {"parameters": {"num_steps": 4}},
        {"images_per_class": 4},
        {"seed": 2**62},
        {"augmentation": Augmentation(crop=0.125, flip=True, dsa="crop_color")},
        {"augmentation": Augmentation(crop=0.125, dsa="color_crop")},
        {"learning_rate_rule": LearningRateRule()},
        {"batchnorm_policy": "batch"},
        {"zca": True},
    ],
    ids=lambda change: ",".join(change),
)
def test_the_id_depends_on_all_that_shapes_training(change):
    assert make_proxy(**change).id != make_proxy().id
    assert make_proxy(**change) != make_proxy()


def test_the_id_depends_on_every_pixel():
    ids = {make_proxy().id}
    pixels = make_proxy().images
    places = range(0, pixels.numel(), 17)
    for place in places:
        images = pixels.clone()
        images.view(-1)[place] = torch.nextafter(images.view(-1)[place], torch.tensor(9.0))
        ids.add(make_proxy(images=images).id)
    assert len(ids) == len(places) + 1
    assert make_proxy(images=pixels.view(4, 3, 5, 4)).id not in ids


# The study's data


def test_a_set_fits_the_data_that_it_was_made_from():
    make_proxy().check_source(SPEC)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            replace(SPEC, class_names=("cat", "cow")),
            r"whose classes is cat, dög, but the study uses other with cat, cow",
        ),
        (
            replace(SPEC, image_shape=(3, 8, 8)),
            r"whose image shape is 3, 4, 5, but the study uses other with 3, 8, 8",
        ),
        (
            replace(SPEC, source_hash="fedc"),
            r"whose search-training split is 0123456789abcdef, but the study uses other with fedc",
        ),
    ],
)
def test_a_set_of_other_data_is_refused_and_the_difference_is_named(asked, said):
    proxy = make_proxy()
    with pytest.raises(ProxyFileError, match=rf"{proxy.id} was made from made_up, {said}; "):
        proxy.check_source(replace(asked, name="other"))


# What a person sees


@given(
    st.lists(
        st.tuples(st.floats(0, 1, width=32), st.floats(2**-10, 0.5, width=32)),
        min_size=1,
        max_size=3,
    )
)
@example([(0.0, 2**-10), (1.0, 2**-10)])
def test_pixels_undoes_normalising_for_every_value(statistics):
    channels = len(statistics)
    every_value = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    every_value = every_value.expand(1, channels, 16, 16)
    mean, std = zip(*statistics, strict=True)
    spec = replace(SPEC, image_shape=(channels, 16, 16), mean=mean, std=std)
    normalised = normalise(every_value, spec)
    expected = (np.arange(256) / 255 - mean[-1]) / std[-1]
    np.testing.assert_allclose(normalised[0, -1].flatten(), expected, rtol=1e-5, atol=1e-4)
    proxy = make_proxy(images=normalised, labels=torch.tensor([0]), spec=spec)
    assert torch.equal(proxy.pixels(), every_value)


def test_pixels_clips_what_no_screen_can_show():
    beyond = torch.tensor([-1e6, -1.0, 2.0, 1e6]).view(1, 1, 2, 2)
    spec = replace(SPEC, image_shape=(1, 2, 2), mean=(0.0,), std=(1.0,))
    assert denormalise(beyond, spec).flatten().tolist() == [0, 0, 255, 255]


def test_the_card_tells_all_but_the_pixels_in_json():
    card = json.loads(json.dumps(make_proxy().card()))
    assert card["id"] == make_proxy().id
    for fact in ("4 ", "(3, 4, 5)", "hard labels"):
        assert fact in card["images"]
    assert card["source licence"] == "none"
    assert card["source source_hash"] == SPEC.source_hash
    assert card["cost_seconds"] == 1.5
    assert card["hardware"] == "a processor"
    assert card["augmentation"]["dsa"] == "color_crop"
    soft_card = make_proxy(labels=soft([[1, 0], [1, 0], [0, 1], [0, 1]])).card()
    assert "soft labels" in soft_card["images"]


def test_hard_labels_of_soft_ones_are_the_most_probable_classes():
    labels = soft([[0.6, 0.4], [0.1, 0.9], [0.0, 1.0], [0.51, 0.49]])
    assert make_proxy(labels=labels).hard_labels.tolist() == [0, 1, 1, 0]
    assert make_proxy().hard_labels.tolist() == [0, 0, 1, 1]


def test_a_refusal_is_the_users_to_mend():
    assert issubclass(ProxyFileError, NasProxyError)
    with pytest.raises(TypeError):
        hash(make_proxy())
