"""Labels for whatever a method made: of its images, from one teacher or several."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.multi_formation import decode
from nas_proxy.data.proxy_dataset import Labelling, ProxyDataset
from nas_proxy.data.transforms import normalise, resize
from nas_proxy.data.whitening import Whitening
from nas_proxy.distill.distribution_matching import DistributionMatching
from nas_proxy.distill.herding import Herding
from nas_proxy.distill.random_subset import RandomSubset, random_control
from nas_proxy.errors import ConfigError, DivergedError
from nas_proxy.interfaces import DistillContext
from nas_proxy.teachers.label_solve import project_to_simplex
from nas_proxy.teachers.labelling import label, labeller_of
from nas_proxy.teachers.settings import LabelSettings
from nas_proxy.teachers.training import obtain_teachers
from nas_proxy.testing import tiny_dataset
from nas_proxy.testing._common import global_generators_untouched
from nas_proxy.train.training_set import TrainingSet
from tests.teachers.helpers import (
    NETWORK,
    TEACHERS,
    distilled,
    make,
    said_by,
    settings,
    short,
    soft,
)

METHODS = {
    "random subset": RandomSubset(augmentation=Augmentation(flip=True)),
    "distilled": DistributionMatching(
        num_steps=2, network_width=4, network_depth=2, augment="color_flip"
    ),
    "tiles": DistributionMatching(
        num_steps=2, network_width=4, network_depth=2, decode_factor=2, augment="color"
    ),
}


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return DistillContext(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", params=METHODS)
def made(request, context):
    return make(METHODS[request.param], context)


# What kinds of labels a set gets


def test_hard_labels_are_the_classes_and_need_no_teacher(made, context):
    assert label(made, LabelSettings(), tiny_dataset(), context) is made
    assert torch.equal(made.labels, made.classes)
    assert made.labelling == Labelling()


@pytest.mark.parametrize("per", ["image", "view"])
def test_soft_labels_are_the_mean_of_what_the_teachers_say(made, context, per):
    with global_generators_untouched("labelling"):
        labelled = label(made, soft(per=per), tiny_dataset(), context)
    teachers = obtain_teachers(TEACHERS, tiny_dataset(), context)
    views = decode(made.images, made.decode_factor)
    expected = np.mean([said_by(teacher, views, 3.0) for teacher in teachers], axis=0)
    np.testing.assert_allclose(labelled.labels, expected, rtol=1e-4, atol=1e-6)
    assert labelled.labels.dtype == torch.float32
    labelled.check_labels()
    assert labelled.labelling == Labelling(
        kind="soft",
        temperature=3.0,
        per=per,
        teachers=tuple(teacher.record() for teacher in teachers),
    )
    assert torch.equal(labelled.images, made.images)
    kept = ("spec", "method", "parameters", "seed", "networks", "decode_factor", "augmentation")
    assert all(getattr(labelled, name) == getattr(made, name) for name in kept)
    assert TrainingSet.of(labelled).temperature == 3.0
    if per == "image":
        assert labeller_of(labelled, context.cache / "none", tiny_dataset()) is None


def unit_embeddings(teachers, images):
    """Embeddings of length one, side by side; those that are zero stay so."""
    parts = []
    for teacher in teachers:
        own = resize(images, teacher.spec.image_shape[1])
        part = teacher.network.embed(own).detach().double().numpy()
        parts.append(part / np.linalg.norm(part, axis=1, keepdims=True).clip(1e-12))
    return np.hstack(parts)


def test_learned_labels_are_those_of_ridge_regression_on_all_embeddings(made, context):
    told = LabelSettings(kind="learned", teachers=TEACHERS)
    dataset = tiny_dataset()
    labelled = label(made, told, dataset, context)
    labelled.check_labels()
    assert labelled.labels.dtype == torch.float32
    assert labelled.labelling.kind == "learned"
    assert labelled.labelling.temperature == 1.0

    teachers = obtain_teachers(TEACHERS, dataset, context)
    support = unit_embeddings(teachers, decode(made.images, made.decode_factor))
    real = unit_embeddings(teachers, normalise(dataset.images, dataset.spec))
    kernel = support @ support.T
    kernel += 1e-6 * np.diag(kernel).mean() * np.eye(len(kernel))
    design = real @ support.T @ np.linalg.inv(kernel)
    target = np.eye(3)[dataset.labels] - 1 / 3
    strength = 1e-6 * np.square(design).sum(axis=0).mean()
    stacked = np.vstack([design, np.sqrt(strength) * np.eye(len(kernel))])
    wanted = np.vstack([target, np.zeros((len(kernel), 3))])
    solved = np.linalg.lstsq(stacked, wanted, rcond=None)[0] + 1 / 3
    expected = project_to_simplex(torch.from_numpy(solved))
    np.testing.assert_allclose(labelled.labels, expected, atol=2e-3)


def test_all_kinds_survive_the_file(made, context, tmp_path):
    for told in (soft(), soft(per="view"), LabelSettings(kind="learned", teachers=TEACHERS)):
        labelled = label(made, told, tiny_dataset(), context)
        labelled.save(tmp_path / "proxy")
        assert ProxyDataset.load(tmp_path / "proxy") == labelled


def test_labels_that_are_there_already_give_way_to_those_that_are_asked_for(context):
    subset = make(METHODS["random subset"], context)
    first = label(subset, soft(), tiny_dataset(), context)
    warmer = label(first, soft(temperature=20.0), tiny_dataset(), context)
    assert warmer.labels.max() < first.labels.max()
    assert warmer.labelling.temperature == 20.0
    alone = label(first, soft(teachers=TEACHERS[:1]), tiny_dataset(), context)
    assert len(alone.labelling.teachers) == 1
    again = label(warmer, soft(), tiny_dataset(), context)
    assert again.id == first.id
    learned = label(first, LabelSettings(kind="learned"), tiny_dataset(), context)
    assert learned.labelling.kind == "learned"
    assert label(learned, soft(), tiny_dataset(), context).id == first.id


def test_labels_that_a_method_has_learned_stay(context):
    subset = make(METHODS["random subset"], context)
    own = replace(subset, labels=torch.full((6, 3), 1 / 3), labelling=Labelling(kind="learned"))
    told = LabelSettings(kind="learned", teachers=TEACHERS)
    assert label(own, told, tiny_dataset(), context) is own
    assert label(own, LabelSettings(), tiny_dataset(), context) is own


def test_the_control_gets_labels_from_the_same_teachers(made, context):
    labelled = label(made, soft(per="view"), tiny_dataset(), context)
    control = random_control(labelled, soft(per="view"), tiny_dataset(), seed=3, context=context)
    assert control.labelling == labelled.labelling
    assert len(control.images) == len(labelled.images)
    assert control.augmentation == labelled.augmentation
    assert not torch.equal(control.images, labelled.images)


def test_whitened_images_are_labelled_as_those_they_were(context):
    dataset = tiny_dataset()
    subset = make(METHODS["random subset"], context)
    whitening = Whitening.fit(dataset, 0.1)
    whitened = replace(subset, images=whitening.apply(subset.images), zca=0.1)
    for told in (soft(), LabelSettings(kind="learned", teachers=TEACHERS)):
        plain = label(subset, told, dataset, context)
        torch.testing.assert_close(
            label(whitened, told, dataset, context).labels, plain.labels, atol=1e-3, rtol=1e-3
        )


# What it costs


def test_each_teacher_is_on_the_ledger_once(context):
    labelled = distilled(METHODS["random subset"], context, soft())
    teachers = obtain_teachers(TEACHERS, tiny_dataset(), context)
    seconds = {teacher.cost_name: teacher.train_seconds for teacher in teachers}
    assert set(labelled.costs) == {"distilling", "labelling", *seconds}
    assert {name: labelled.costs[name] for name in seconds} == seconds
    twice = distilled(METHODS["random subset"], context, soft(teachers=(TEACHERS[0], TEACHERS[0])))
    assert len(twice.costs) == 3
    assert len(twice.teachers) == 1


def test_a_teacher_that_the_method_used_already_costs_nothing_more(context):
    herding = Herding(network=TEACHERS[0])
    herded = distilled(herding, context)
    (teacher,) = obtain_teachers(TEACHERS[:1], tiny_dataset(), context)
    assert herded.networks == (teacher.record(),)
    assert herded.costs[teacher.cost_name] == teacher.train_seconds
    labelled = distilled(herding, context, soft(teachers=TEACHERS[:1]))
    assert set(labelled.costs) == {"distilling", teacher.cost_name, "labelling"}
    assert labelled.cost_seconds == pytest.approx(sum(labelled.costs.values()))
    assert labelled.teachers == (teacher.record(),)
    both = distilled(herding, context, soft())
    assert len(both.costs) == 4
    assert len(both.teachers) == 2


# Faults


def test_embeddings_that_are_of_no_use_end_in_a_sentence(made, context):
    dead = settings(network=replace(NETWORK, norm="none"), train=short(num_steps=1))
    (teacher,) = obtain_teachers([dead], tiny_dataset(), context)
    for parameter in teacher.network.features.parameters():
        parameter.data.fill_(-1.0)  # no unit of the network is ever active
    path = context.cache / "dead.safetensors"
    teacher.save(path)
    told = LabelSettings(kind="learned", teachers=(settings(checkpoint=str(path)),))
    zero = replace(made, images=torch.zeros_like(made.images))
    assert F.relu(teacher.embed(zero.images)).abs().max() == 0
    with pytest.raises(DivergedError, match="labels cannot be solved for"):
        label(zero, told, tiny_dataset(), context)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "soft", "teachers": ()}, "labels need at least one teacher"),
        ({"temperature": 2.0}, "per and temperature are for soft labels, but kind is 'hard'"),
        ({"kind": "learned", "per": "view"}, "for soft labels, but kind is 'learned'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        LabelSettings(**options)
