"""Teachers that label every view during training, and that lie beside a proxy data set."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.transforms import normalise, resize
from nas_proxy.data.whitening import Whitening
from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.errors import ProxyFileError
from nas_proxy.interfaces import DistillContext
from nas_proxy.reproducibility import make_generator
from nas_proxy.teachers.labelling import copy_teachers, label, labeller_of, save_teachers
from nas_proxy.teachers.training import obtain_teachers
from nas_proxy.testing import tiny_dataset
from nas_proxy.testing._common import global_generators_untouched
from nas_proxy.train.loop import train
from nas_proxy.train.training_set import TrainingSet
from tests.teachers.helpers import TEACHERS, make, said_by, short, soft


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return DistillContext(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def per_view(context, tmp_path):
    """A set whose views are labelled, with its teachers beside it, and these."""
    subset = make(RandomSubset(), context)
    labelled = label(subset, soft(per="view"), tiny_dataset(), context)
    file = tmp_path / "proxy.safetensors"
    teachers = obtain_teachers(TEACHERS, tiny_dataset(), context)
    save_teachers(teachers, file)
    labelled.save(file)
    return labelled, file, teachers


class Student(nn.Module):
    """A linear student that remembers what it was shown."""

    def __init__(self, num_features):
        super().__init__()
        self.linear = nn.Linear(num_features, 3, bias=False)
        with torch.no_grad():
            self.linear.weight.normal_(generator=make_generator(0)).mul_(0.1)
        self.shown = []

    def forward(self, images):
        self.shown.append(images.clone())
        return self.linear(images.flatten(1))


@pytest.mark.parametrize("augmentation", ["flip", "mixed"])
def test_each_view_is_labelled_as_the_teachers_label_it(per_view, augmentation):
    labelled, file, teachers = per_view
    labeller = labeller_of(labelled, file, tiny_dataset())
    data = TrainingSet.of(labelled, labeller)
    told = {
        "flip": Augmentation(flip=True, dsa="color"),
        "mixed": Augmentation(flip=True, dsa="color", cutmix=1.0),
    }[augmentation]
    student, labels = Student(192), []

    def listening(images):
        labels.append(labeller(images))
        return labels[-1]

    train(
        student,
        replace(data, labeller=listening),
        short(num_steps=4, batch_size=6, augmentation=told),
        make_generator(0),
    )
    assert len({tuple(each.flatten().tolist()) for each in labels}) == 4  # views differ
    for views, each in zip(student.shown, labels, strict=True):
        expected = np.mean([said_by(teacher, views, 3.0) for teacher in teachers], axis=0)
        np.testing.assert_allclose(each, expected, rtol=1e-4, atol=1e-6)


def test_a_student_follows_the_gradient_of_the_divergence_from_the_teachers(per_view):
    labelled, file, teachers = per_view
    data = TrainingSet.of(labelled, labeller_of(labelled, file, tiny_dataset()))
    student = Student(192)
    before = student.linear.weight.detach().double().numpy().copy()
    told = short(
        num_steps=1,
        batch_size=6,
        learning_rate=0.5,
        momentum=0.0,
        nesterov=False,
        weight_decay=0.0,
        schedule="constant",
        augmentation=Augmentation(flip=True, dsa="color"),
    )
    train(student, data, told, make_generator(0))
    moved = (student.linear.weight.detach().double().numpy() - before) / -0.5

    (views,) = student.shown
    x = views.flatten(1).double()
    q = torch.from_numpy(np.mean([said_by(teacher, views, 3.0) for teacher in teachers], axis=0))
    weights = torch.from_numpy(before).requires_grad_()
    # 9 KL(q || p) at temperature 3, written out.
    p = (x @ weights.T / 3.0).softmax(dim=1)
    divergence = 9.0 * (q * (q.log() - p.log())).sum(dim=1).mean()
    (gradient,) = torch.autograd.grad(divergence, weights)
    np.testing.assert_allclose(moved, gradient, rtol=1e-3, atol=1e-5)


def test_a_student_of_smaller_images_is_taught_from_them_enlarged(per_view):
    labelled, file, teachers = per_view
    labeller = labeller_of(labelled, file, tiny_dataset())
    views = torch.randn(3, 3, 4, 4, generator=make_generator(0))
    expected = np.mean([said_by(teacher, views, 3.0) for teacher in teachers], axis=0)
    np.testing.assert_allclose(labeller(views), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [8, 4])
def test_views_of_whitened_images_are_put_back_before_the_teachers_see_them(per_view, size):
    labelled, file, teachers = per_view
    dataset = tiny_dataset()
    whitening = Whitening.fit(dataset, 0.1)
    whitened = replace(labelled, images=whitening.apply(labelled.images), zca=0.1)
    labeller = labeller_of(whitened, file, dataset)
    views = resize(whitened.images, size)
    seen = resize(views, 8).flatten(1) @ whitening.backward + whitening.mean
    expected = [said_by(teacher, seen.view(-1, 3, 8, 8), 3.0) for teacher in teachers]
    np.testing.assert_allclose(labeller(views), np.mean(expected, axis=0), rtol=1e-3, atol=1e-4)
    if size == 8:
        torch.testing.assert_close(labeller(views), labelled.labels, atol=1e-3, rtol=1e-3)


def test_a_set_of_other_statistics_is_labelled_for_what_its_images_are(per_view):
    labelled, file, teachers = per_view
    pixels = tiny_dataset().images[:4]
    spec = replace(labelled.spec, mean=(0.1,) * 3, std=(0.9,) * 3)
    labeller = labeller_of(replace(labelled, spec=spec), file, tiny_dataset())
    expected = [said_by(t, normalise(pixels, t.source_spec), 3.0) for t in teachers]
    np.testing.assert_allclose(
        labeller(normalise(pixels, spec)), np.mean(expected, axis=0), rtol=1e-3, atol=1e-4
    )


def test_teaching_views_leaves_the_global_generators_alone(per_view):
    labelled, file, _ = per_view
    with global_generators_untouched("labelling views"):
        labeller_of(labelled, file, tiny_dataset())(labelled.images)


# Teachers beside a file


def names(file):
    return sorted(path.name for path in (file.parent / "teachers").iterdir())


def test_teachers_go_with_a_copy_of_the_file(per_view, tmp_path):
    labelled, file, teachers = per_view
    assert names(file) == sorted(f"{teacher.id}.safetensors" for teacher in teachers)
    copy = tmp_path / "elsewhere" / "proxy.safetensors"
    copy_teachers(file, copy)
    copy_teachers(file, copy)
    copy_teachers(file, file)
    assert names(copy) == names(file)
    first, second = (labeller_of(labelled, each, tiny_dataset()) for each in (file, copy))
    assert torch.equal(first(labelled.images), second(labelled.images))


def test_a_file_without_teachers_gives_none(tmp_path):
    copy_teachers(tmp_path / "proxy", tmp_path / "other" / "proxy")
    assert not list(tmp_path.iterdir())


def test_a_teacher_that_is_there_is_not_written_again(per_view):
    _, file, teachers = per_view
    before = {path: path.stat().st_mtime_ns for path in (file.parent / "teachers").iterdir()}
    save_teachers(teachers, file)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_missing_teacher_is_named_with_what_to_do(per_view):
    labelled, file, teachers = per_view
    path = file.parent / "teachers" / f"{teachers[1].id}.safetensors"
    path.unlink()
    said = rf"{path} does not exist; the file of a proxy data set .* goes with its folder teachers/"
    with pytest.raises(ProxyFileError, match=said):
        labeller_of(labelled, file, tiny_dataset())


def test_another_teacher_under_the_name_of_the_first_is_noticed(per_view):
    labelled, file, teachers = per_view
    first, second = (file.parent / "teachers" / f"{t.id}.safetensors" for t in teachers)
    second.write_bytes(first.read_bytes())
    with pytest.raises(ProxyFileError, match=rf"{second} holds another teacher, {teachers[0].id}"):
        labeller_of(labelled, file, tiny_dataset())


def test_a_damaged_teacher_is_named(per_view):
    labelled, file, teachers = per_view
    path = file.parent / "teachers" / f"{teachers[0].id}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ProxyFileError, match=rf"{path} is truncated or damaged"):
        labeller_of(labelled, file, tiny_dataset())
