"""A teacher that has seen what judges its students is found out, counted and refused."""

from dataclasses import replace

import pytest
import torch

from nas_proxy.distill.herding import Herding
from nas_proxy.errors import StudyError
from nas_proxy.interfaces import DistillContext
from nas_proxy.teachers.labelling import label
from nas_proxy.teachers.leakage import check_leakage, count_leaked_images, with_leaked_images
from nas_proxy.testing import tiny_dataset
from nas_proxy.types import Splits
from tests.teachers.helpers import make, of_images, settings, soft, splits, teach

OWN = splits(seed=0)
OTHERS = [splits(seed=seed) for seed in (1, 2)]


def brute_force(trained_on, judged):
    """Judging images that are equal to one of `trained_on` and to none of their own training."""
    judges = [*judged.search_val.images, *judged.test.images]
    return sum(
        any(torch.equal(judge, seen) for seen in trained_on)
        and not any(torch.equal(judge, own) for own in judged.search_train.images)
        for judge in judges
    )


@pytest.fixture(scope="module")
def own():
    return teach(OWN.search_train)


@pytest.mark.parametrize("other", OTHERS)
def test_a_teacher_of_another_split_is_refused_with_the_count(other):
    teacher = teach(other.search_train)
    expected = brute_force(other.search_train.images, OWN)
    assert 0 < expected < len(OWN.search_val)
    assert count_leaked_images(teacher, OWN) == expected
    said = (
        f"the teacher {teacher.description} was trained on {expected} of the 18 images that judge "
        "its students, so their figures would mean nothing; train one on this study's own split, "
        "or set distill.labels.allow_leakage=true"
    )
    with pytest.raises(StudyError) as caught:
        check_leakage([teacher], OWN, allow=False)
    assert said in str(caught.value)


def test_test_images_count_as_well(own):
    seen = torch.cat([OWN.search_train.images, OWN.test.images[:4]])
    labels = torch.cat([OWN.search_train.labels, OWN.test.labels[:4]])
    teacher = teach(of_images(OWN.search_train, seen, labels))
    assert count_leaked_images(teacher, OWN) == brute_force(seen, OWN) == 4


def test_an_own_teacher_is_fine_at_every_size(own):
    assert count_leaked_images(own, OWN) == 0
    small = teach(OWN.search_train, train=replace(settings().train, image_size=6))
    assert check_leakage([own, small], OWN, allow=False) == {own.id: 0, small.id: 0}


def test_a_teacher_of_a_part_of_the_own_images_is_fine():
    whole = OWN.search_train
    part = of_images(whole, whole.images[:7], whole.labels[:7])
    assert count_leaked_images(teach(part), OWN) == 0


def test_what_the_own_training_images_hold_too_does_not_count():
    doubled = torch.cat([OWN.search_train.images, OWN.search_val.images[:2], OWN.test.images[:1]])
    labels = torch.cat([OWN.search_train.labels, OWN.search_val.labels[:2], OWN.test.labels[:1]])
    judged = Splits(of_images(OWN.search_train, doubled, labels), OWN.search_val, OWN.test)
    seen = torch.cat([OWN.search_val.images[:5], OWN.test.images[:2]])
    seen_labels = torch.cat([OWN.search_val.labels[:5], OWN.test.labels[:2]])
    teacher = teach(of_images(OWN.search_train, seen, seen_labels))
    assert count_leaked_images(teacher, OWN) == 7
    assert count_leaked_images(teacher, judged) == brute_force(seen, judged) == 4


def test_one_that_leaks_among_several_is_named(own):
    leaking = teach(OTHERS[0].search_train, seed=4)
    with pytest.raises(StudyError, match=leaking.description):
        check_leakage([own, leaking], OWN, allow=False)
    found = check_leakage([own, leaking], OWN, allow=True)
    expected = brute_force(OTHERS[0].search_train.images, OWN)
    assert found == {own.id: 0, leaking.id: expected}


def test_no_teacher_leaks_nothing():
    assert check_leakage([], OWN, allow=False) == {}


# Published weights


def named(judged, name="other", class_names=("c0", "c1", "c2")):
    """The same splits under other names."""
    return Splits(
        *(
            replace(part, spec=replace(part.spec, name=name, class_names=class_names))
            for part in (judged.search_train, judged.search_val, judged.test)
        )
    )


WORDNET = ("n01440764", "n02102040", "n02979186")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({}, 0),
        ({"class_names": WORDNET}, len(OWN.search_val)),
        ({"class_names": (*WORDNET[:2], "n0297918")}, 0),
        ({"class_names": (*WORDNET[:2], "n029791866")}, 0),
        ({"class_names": (*WORDNET[:2], "parachute")}, 0),
        # Its test images too are mostly training images of ImageNet.
        ({"name": "imagenette"}, len(OWN.search_val) + len(OWN.test)),
        ({"name": "imagewoof"}, 0),
    ],
    ids=str,
)
def test_weights_of_imagenet_have_seen_imagenet_s_training_images(own, names, expected):
    judged = named(OWN, **names)
    published = replace(own, knows_imagenet=True)
    assert count_leaked_images(published, judged) == expected
    assert count_leaked_images(own, judged) == 0
    if expected:
        with pytest.raises(StudyError, match=f"trained on {expected} of the 18 images"):
            check_leakage([published], judged, allow=False)


def test_the_larger_count_is_reported_where_both_apply():
    judged = named(OWN, class_names=WORDNET)
    leaking = replace(teach(OTHERS[0].search_train), knows_imagenet=True)
    assert count_leaked_images(leaking, judged) == len(OWN.search_val)
    assert count_leaked_images(leaking, OWN) == brute_force(OTHERS[0].search_train.images, OWN)


# On record


def test_what_was_allowed_is_on_the_record_of_the_set(tmp_path):
    context = DistillContext(cache=tmp_path)
    herded = make(Herding(network=settings()), context)
    labelled = label(herded, soft(), tiny_dataset(), context)
    first, second = (record.id for record in labelled.labelling.teachers)
    marked = with_leaked_images(labelled, {first: 5, second: 0})
    assert [record.num_leaked_images for record in marked.labelling.teachers] == [5, 0]
    assert [record.num_leaked_images for record in marked.networks] == [5]
    assert len(marked.teachers) == 2
    assert marked.id != labelled.id


def test_a_set_from_elsewhere_keeps_what_its_record_says(tmp_path):
    context = DistillContext(cache=tmp_path)
    labelled = label(make(Herding(network=settings()), context), soft(), tiny_dataset(), context)
    first, second = (record.id for record in labelled.labelling.teachers)
    marked = with_leaked_images(labelled, {first: 5})
    assert with_leaked_images(marked, {}) == marked
    again = with_leaked_images(marked, {second: 2})
    assert [record.num_leaked_images for record in again.labelling.teachers] == [5, 2]
    assert [record.num_leaked_images for record in again.networks] == [5]
