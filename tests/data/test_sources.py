"""The data sets: what all have in common, and what a user reads when one cannot be had."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from sklearn.datasets import load_digits

from nas_proxy.data._torchvision_table import DESCRIBED_SETS
from nas_proxy.data.sources import DATASETS, DataSettings, load_splits
from nas_proxy.data.transforms import normalise
from nas_proxy.errors import DataError
from nas_proxy.reproducibility import content_hash
from tests.data.helpers_sources import contents, make_folder, parts_of, per_class

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("own_folders")


# What every data set's parts have in common, on digits


def test_the_three_parts_are_all_of_digits_and_share_no_image():
    splits = load_splits(DataSettings())
    data = load_digits()
    grey = (data["images"] * 255 / 16).round().astype(np.uint8)
    everything = Counter(
        (image.tobytes(), int(label)) for image, label in zip(grey, data["target"], strict=True)
    )
    assert contents(*parts_of(splits)) == everything
    for part in parts_of(splits):
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert part.images.shape == (len(part), 1, 8, 8)
        assert part.spec is splits.spec
    assert splits.spec.image_shape == (1, 8, 8)
    assert splits.spec.class_names == tuple("0123456789")
    assert int(splits.search_train.images.max()) == 255


def test_every_class_gives_a_fifth_to_the_test_and_the_fraction_to_search_val():
    splits = load_splits(DataSettings(val_fraction=0.25))
    totals = np.bincount(load_digits()["target"])
    for total, train, val, test in zip(totals, *map(per_class, parts_of(splits)), strict=True):
        assert test == round(total * 0.2)
        assert val == round((total - test) * 0.25)
        assert train == total - test - val


def test_mean_deviation_and_hash_are_those_of_search_train():
    splits = load_splits(DataSettings())
    pixels = splits.search_train.images.double() / 255
    assert splits.spec.mean == pytest.approx([pixels.mean().item()], rel=1e-12)
    assert splits.spec.std == pytest.approx([pixels.std(correction=0).item()], rel=1e-12)
    assert splits.spec.source_hash == content_hash(
        splits.search_train.images, splits.search_train.labels
    )


def test_loading_twice_gives_the_same_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    one, other = load_splits(DataSettings()), load_splits(DataSettings())
    assert torch.equal(torch.get_rng_state(), state)
    assert one.spec == other.spec
    for a, b in zip(parts_of(one), parts_of(other), strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"classes": (0, 1)}, {"images_per_class": 9}, {"image_size": 16}]
)
def test_the_hash_follows_every_choice(change):
    base = DataSettings()
    assert (
        load_splits(replace(base, **change)).spec.source_hash != load_splits(base).spec.source_hash
    )


def test_the_seed_divides_otherwise_but_never_moves_an_image_into_or_out_of_test():
    one, other = load_splits(DataSettings(seed=1)), load_splits(DataSettings(seed=2))
    assert torch.equal(one.test.images, other.test.images)
    assert contents(one.search_val) != contents(other.search_val)
    assert contents(one.search_train, one.search_val) == contents(
        other.search_train, other.search_val
    )


def test_the_limit_is_of_training_images_alone_and_nested():
    splits = load_splits(DataSettings(images_per_class=10))
    assert per_class(splits.search_train) == [8] * 10
    assert per_class(splits.search_val) == [2] * 10
    assert torch.equal(splits.test.images, load_splits(DataSettings()).test.images)
    fewer = load_splits(DataSettings(images_per_class=5))
    assert contents(fewer.search_train, fewer.search_val) <= contents(
        splits.search_train, splits.search_val
    )


def test_another_size_resizes_every_part():
    splits = load_splits(DataSettings(image_size=12))
    assert splits.spec.image_shape == (1, 12, 12)
    assert [tuple(part.images.shape[1:]) for part in parts_of(splits)] == [(1, 12, 12)] * 3


def test_the_deviation_is_never_zero(tmp_path):
    for name in ("cat", "dog"):
        for index in range(10):
            path = tmp_path / name / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (4, 4), (7, 7, 7 + 2 * index)).save(path)
    settings = DataSettings(name="image_folder", root=str(tmp_path), image_size=4)
    splits = load_splits(settings)
    assert splits.spec.std[:2] == (1 / 255, 1 / 255)
    assert splits.spec.std[2] > 1 / 255
    assert torch.isfinite(normalise(splits.search_train.images, splits.spec)).all()


# Choosing classes


@pytest.mark.parametrize("classes", [(3, 1), ("3", "1"), ("3", 1)])
def test_chosen_classes_are_renumbered_in_the_given_order(classes):
    everything = load_splits(DataSettings())
    chosen = load_splits(DataSettings(classes=classes))
    assert chosen.spec.class_names == ("3", "1")
    threes = everything.test.images[everything.test.labels == 3]
    assert torch.equal(chosen.test.images[chosen.test.labels == 0], threes)
    ones = everything.test.images[everything.test.labels == 1]
    assert torch.equal(chosen.test.images[chosen.test.labels == 1], ones)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("1", "seven"), r"digits has no class 'seven'; known: 0, 1, 2"),
        ((1, 11), r"digits has no class 11; did you mean '1'\?"),
        ((1, -1), r"digits has no class -1"),
        ((3, "3"), r"names the class '3' of digits twice"),
        ((3,), r"has 1 class\(es\); at least two"),
        ((), r"has 0 class\(es\); at least two"),
    ],
)
def test_classes_that_cannot_be_chosen_are_refused(classes, message):
    with pytest.raises(DataError, match=message):
        load_splits(DataSettings(classes=classes))


def test_a_number_is_the_class_of_that_name_in_a_folder_of_numbers(tmp_path):
    make_folder(tmp_path, classes=("1", "2", "10"))  # in the order of names: 1, 10, 2
    settings = DataSettings(name="image_folder", root=str(tmp_path), image_size=6)
    assert load_splits(replace(settings, classes=(2, 10))).spec.class_names == ("2", "10")
    with pytest.raises(DataError, match="image_folder has no class 0; did you mean '10'\\?$"):
        load_splits(replace(settings, classes=(0, 1)))


# Too few images


def test_a_class_with_fewer_images_than_the_limit_is_named_with_both_numbers():
    with pytest.raises(DataError, match=r"class '8' of digits has 139 train.*asks for 140"):
        load_splits(DataSettings(images_per_class=140))


def test_a_limit_that_leaves_nothing_to_validate_with_is_refused():
    with pytest.raises(DataError, match=r"class '0' of digits has 1 training image.*two"):
        load_splits(DataSettings(images_per_class=1))


def test_a_class_too_small_to_hold_out_a_test_is_named_unless_left_out(tmp_path):
    make_folder(tmp_path)
    make_folder(tmp_path, classes=("rare", "rarer"), count=2)
    settings = DataSettings(name="image_folder", root=str(tmp_path), image_size=6)
    with pytest.raises(DataError, match=r"class 'rare' has 2 image.*three are needed"):
        load_splits(settings)
    assert load_splits(replace(settings, classes=("dog", "cat"))).spec.num_classes == 2


def test_a_class_with_a_single_training_image_is_named(tmp_path):
    make_folder(tmp_path, "train", count=1)
    make_folder(tmp_path, "val", count=1)
    settings = DataSettings(name="image_folder", root=str(tmp_path), image_size=6)
    with pytest.raises(DataError, match=r"class 'cat' of image_folder has 1 training image"):
        load_splits(settings)


# The table and the settings


def test_every_data_set_has_a_summary_and_a_licence():
    own = {"digits", "cifar10", "cifar100", "imagenette", "image_folder", "arrays"}
    assert set(DATASETS) == own | set(DESCRIBED_SETS)
    for source in DATASETS.values():
        assert source.summary
        assert "\n" not in source.summary
        assert source.licence


def test_an_unknown_data_set_names_the_nearest():
    with pytest.raises(DataError, match="no data set 'cifar-10'; did you mean 'cifar10'"):
        load_splits(DataSettings(name="cifar-10"))


def test_the_settings_read_what_yaml_gives():
    read = TypeAdapter(DataSettings).validate_python
    assert read({"classes": [3, "cat"], "val_fraction": 0.5}).classes == (3, "cat")
    assert read({"classes": ["3", 4]}).classes == ("3", 4)
    assert read({}) == DataSettings()


@pytest.mark.parametrize(
    "wrong",
    [
        {"val_fraction": 0},
        {"val_fraction": 1},
        {"images_per_class": 0},
        {"image_size": 0},
        {"image_size": True},
        {"classes": [False, "cat"]},  # what YAML makes of `no`
        {"classes": [-1, 2]},
        {"seed": -1},
        {"image_sizes": 3},
    ],
)
def test_the_settings_refuse_what_is_out_of_bounds(wrong):
    with pytest.raises(ValidationError):
        TypeAdapter(DataSettings).validate_python(wrong)


def test_digits_say_that_they_come_with_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"'digits' comes with scikit-learn: install that first"):
        load_splits(DataSettings())
