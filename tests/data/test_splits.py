"""Dividing and drawing: what must hold for any labels, fraction and seed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_proxy.data.splits import draw_per_class, shared_images, stratified_split
from nas_proxy.errors import DataError
from nas_proxy.reproducibility import make_generator
from nas_proxy.testing import tiny_dataset
from nas_proxy.types import DatasetSpec, ImageDataset, Splits


@st.composite
def labels_with_two_of_each(draw):
    """Labels in any order, of up to five classes with gaps between their numbers."""
    counts = draw(st.dictionaries(st.integers(0, 20), st.integers(2, 40), min_size=1, max_size=5))
    labels = [label for label, count in counts.items() for _ in range(count)]
    return torch.tensor(draw(st.permutations(labels)))


fractions = st.floats(0, 1, exclude_min=True, exclude_max=True)
seeds = st.integers(0, 2**63 - 1)


@given(labels_with_two_of_each(), fractions, seeds)
@settings(max_examples=60, deadline=None)
def test_the_parts_are_disjoint_exhaustive_and_in_order(labels, fraction, seed):
    first, second = stratified_split(labels, fraction, make_generator(seed))
    assert sorted(first.tolist() + second.tolist()) == list(range(len(labels)))
    for part in (first, second):
        assert part.dtype == torch.int64
        assert part.tolist() == sorted(part.tolist())


@given(labels_with_two_of_each(), fractions, seeds)
@settings(max_examples=60, deadline=None)
def test_every_class_gives_the_nearest_number_of_images_and_keeps_one(labels, fraction, seed):
    first, second = stratified_split(labels, fraction, make_generator(seed))
    for label in labels.unique():
        total = int((labels == label).sum())
        given_away = int((labels[second] == label).sum())
        assert 1 <= given_away <= total - 1
        assert abs(given_away - total * fraction) <= 0.5 or given_away in (1, total - 1)
        assert int((labels[first] == label).sum()) == total - given_away


@given(labels_with_two_of_each(), fractions, seeds)
@settings(max_examples=30, deadline=None)
def test_the_same_seed_gives_the_same_parts_whatever_torch_drew_before(labels, fraction, seed):
    before = stratified_split(labels, fraction, make_generator(seed))
    state = torch.get_rng_state()
    after = stratified_split(labels, fraction, make_generator(seed))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_another_seed_gives_other_parts():
    labels = torch.arange(3).repeat(50)
    _, one = stratified_split(labels, 0.5, make_generator(1))
    _, other = stratified_split(labels, 0.5, make_generator(2))
    assert not torch.equal(one, other)


def test_a_class_of_one_image_is_refused():
    with pytest.raises(DataError, match=r"class 7 has 1 image.*two are needed"):
        stratified_split(torch.tensor([0, 0, 7]), 0.5, make_generator(0))


def dataset(counts):
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=make_generator(0))]
    names = tuple(f"class_{label}" for label in range(len(counts)))
    spec = DatasetSpec("made_up", names, (1, 1, 1), (0.5,), (0.5,), "none", "0")
    return ImageDataset(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels, spec)


@given(st.lists(st.integers(3, 12), min_size=1, max_size=4), st.integers(1, 3), seeds)
@settings(max_examples=30, deadline=None)
def test_drawing_takes_different_images_of_each_class_class_by_class(counts, wanted, seed):
    data = dataset(counts)
    indices = draw_per_class(data, wanted, make_generator(seed))
    assert len(set(indices.tolist())) == len(indices)
    assert data.labels[indices].tolist() == [x for x in range(len(counts)) for _ in range(wanted)]
    assert torch.equal(indices, draw_per_class(data, wanted, make_generator(seed)))


def test_drawing_more_than_a_class_has_names_it_and_both_numbers():
    with pytest.raises(DataError, match=r"'class_1' of made_up has 2 images.*asks for 3"):
        draw_per_class(dataset([5, 2]), 3, make_generator(0))


# The same image in two parts is found, whatever it is called.


def with_more(part, images):
    """A part of a data set and images of another one, as of the first class."""
    labels = torch.cat([part.labels, part.labels.new_zeros(len(images))])
    return ImageDataset(torch.cat([part.images, images]), labels, part.spec)


def test_images_that_several_parts_hold_are_counted():
    whole = tiny_dataset()
    train, val, test = map(whole.subset, torch.arange(len(whole)).tensor_split(3))
    assert shared_images(Splits(train, val, test)) == []
    val, test = with_more(val, train.images[:2]), with_more(test, val.images[:3])
    of_val, of_test = shared_images(Splits(train, val, test))
    assert "2 of the 10 validation images of tiny are among its training images" in of_val
    assert "3 of the 11 test images of tiny are among its training or validation" in of_test
