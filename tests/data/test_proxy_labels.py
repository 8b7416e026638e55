"""Labels of a proxy data set: one for each training image, and each of them a label."""

import math

import pytest
import torch

from nas_proxy.data.proxy_dataset import Labelling, ProxyDataset, TeacherRecord
from nas_proxy.errors import ProxyFileError
from nas_proxy.reproducibility import make_generator
from tests.data.helpers_proxy import SPEC, make_proxy, soft, soft_proxy

HALF = [0.5, 0.5]


def refused(proxy, tmp_path):
    """What is said; nothing may have been written."""
    path = tmp_path / "proxy.safetensors"
    with pytest.raises(ProxyFileError) as by_save:
        proxy.save(path)
    assert not path.exists()
    with pytest.raises(ProxyFileError) as directly:
        proxy.check_labels()
    assert str(by_save.value) == str(directly.value)
    return str(directly.value)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ([0.6, 0.3], "sums to 0.9"),
        ([0.6, 0.402], "sums to 1.002"),
        ([1.25, -0.25], "sums to 1;"),
        ([math.nan, 0.5], "sums to nan"),
        ([math.inf, 0.0], "sums to inf"),
        ([0.0, 0.0], "sums to 0;"),
    ],
)
@pytest.mark.parametrize("place", [0, 3])
def test_a_soft_label_that_is_none_is_named(tmp_path, label, said, place):
    rows = [list(HALF) for _ in range(4)]
    rows[place] = label
    message = refused(make_proxy(labels=soft(rows)), tmp_path)
    assert f"1 of the 4 labels of the proxy data set are wrong: label {place} {said}" in message
    assert "the 2 values of each must be at least 0 and sum to 1" in message


def test_all_wrong_labels_are_counted_and_the_first_is_shown(tmp_path):
    rows = [HALF, [0.1, 0.1], HALF, [3.0, 4.0]]
    assert "2 of the 4 labels" in refused(make_proxy(labels=soft(rows)), tmp_path)
    assert "label 1 sums to 0.2" in refused(make_proxy(labels=soft(rows)), tmp_path)


@pytest.mark.parametrize("label", [-1, 2, 99])
def test_a_class_that_does_not_exist_is_named(tmp_path, label):
    message = refused(make_proxy(labels=torch.tensor([0, 1, label, 1])), tmp_path)
    assert f"label 2 is {label}; they must be whole numbers from 0 to 1" in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": torch.tensor([0, 1, 0])}, "shape (3,), but 4 training images of 2 classes"),
        ({"labels": soft([HALF] * 5)}, "shape (5, 2), but 4 training images of 2 classes"),
        ({"labels": torch.full((4, 3), 1 / 3)}, "shape (4, 3), but 4 training images of 2 classes"),
        ({"decode_factor": 2}, "shape (4,), but 16 training images of 2 classes need (16,)"),
        ({"decode_factor": 3, "labels": soft([HALF] * 4)}, "but 36 training images"),
        ({"labels": torch.zeros(4, 1, 2)}, "need (4,)"),
    ],
)
def test_there_is_a_label_for_each_training_image(tmp_path, changes, said):
    assert said in refused(make_proxy(**changes), tmp_path)


def test_rounding_to_half_precision_is_forgiven(tmp_path):
    drawn = torch.rand(4, 100, generator=make_generator(0))
    many = drawn.softmax(dim=1).half().float()
    assert float((many.sum(dim=1) - 1).abs().max()) > 0
    spec = make_proxy().spec
    names = tuple(f"class {index}" for index in range(100))
    spec = type(spec)(**{**vars(spec), "class_names": names})
    make_proxy(labels=many, spec=spec).save(tmp_path / "proxy")


def test_a_set_of_smaller_images_has_a_label_and_an_image_for_each_tile(tmp_path):
    labels = torch.tensor([0, 0, 1, 1]).repeat_interleave(4)
    proxy = make_proxy(decode_factor=2, labels=labels)
    proxy.save(tmp_path / "proxy")
    loaded = ProxyDataset.load(tmp_path / "proxy")
    assert loaded.training_images().shape == (16, 3, 4, 5)
    assert len(loaded) == 4
    assert torch.equal(loaded.classes, loaded.labels)
    assert torch.equal(loaded.images, proxy.images)
    plain = make_proxy()
    assert torch.equal(plain.training_images(), plain.images)


def test_labels_that_a_file_holds_are_checked_when_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "proxy"
    with monkeypatch.context() as patch:
        patch.setattr(ProxyDataset, "check_labels", lambda self: None)
        make_proxy(labels=soft([HALF, HALF, [2, 2], HALF])).save(path)
    with pytest.raises(ProxyFileError, match="label 2 sums to 4"):
        ProxyDataset.load(path)


# What it cost and who had a part in it


def test_the_cost_is_the_sum_of_what_it_was_spent_on():
    costs = {"distilling": 3.0, "teaching a": 40.0, "teaching b": 0.5, "labelling": 0.25}
    assert make_proxy(costs=costs).cost_seconds == 43.75
    assert make_proxy(costs={}).cost_seconds == 0


def test_teachers_are_those_of_images_and_labels_without_repeats():
    one, two = TeacherRecord("a1", "ConvNet"), TeacherRecord("b2", "ResNet-18")
    assert make_proxy(networks=()).teachers == ()
    assert make_proxy(networks=(one,)).teachers == (one,)
    both = make_proxy(networks=(one,), labelling=Labelling(kind="soft", teachers=(two, one)))
    assert both.teachers == (one, two)


def test_a_set_on_another_device_is_the_same_but_for_the_place():
    moved = soft_proxy().to(torch.device("meta"))
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert moved.labelling == soft_proxy().labelling


# Whether networks that are trained on it can be asked about other images


@pytest.mark.parametrize("changed", ["name", "source_hash", "mean", "std", "licence"])
def test_another_split_of_the_same_kind_fits(changed):
    other = {"mean": (0.1,) * 3, "std": (0.3,) * 3}.get(changed, "other")
    make_proxy().check_fits(type(SPEC)(**{**vars(SPEC), changed: other}))


@pytest.mark.parametrize(
    ("changed", "value", "said"),
    [
        ("class_names", ("cat",), "whose classes is cat, dög, but the study uses made_up with cat"),
        ("image_shape", (3, 4, 4), "whose image shape is 3, 4, 5, but"),
    ],
)
def test_other_classes_or_sizes_do_not_fit(changed, value, said):
    with pytest.raises(ProxyFileError, match=said):
        make_proxy().check_fits(type(SPEC)(**{**vars(SPEC), changed: value}))
