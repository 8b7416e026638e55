"""RDED: its choice made again by brute force, its tiles pixel by pixel, and what it refuses."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.functional import resized_crop

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.augment import Augmentation
from nas_proxy.data.crops import random_boxes
from nas_proxy.data.transforms import denormalise, normalise
from nas_proxy.distill import patch_selection
from nas_proxy.distill.measured import distill_and_label
from nas_proxy.distill.patch_selection import Candidates, PatchSelection, Selector, tile
from nas_proxy.errors import ConfigError, DataError, StudyError
from nas_proxy.interfaces import DistillContext
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.reproducibility import derive_seed, make_generator
from nas_proxy.teachers.training import obtain_teacher
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.teacher_settings import TeacherSettings
from tests.distill.helpers import make_task

TEACHER = TeacherSettings(
    network=NetworkSettings(name="convnet", norm="batch", width=4, depth=2),
    train=TrainSettings(num_steps=7, precision="float32"),
)


def distill(images_per_class=2, seed=0, dataset=None, context=None, **options):
    distiller = PatchSelection(**{"network": TEACHER, "num_crops": 3, **options})
    return distill_and_label(distiller, make_task(images_per_class, seed, dataset, context))


class Brightness:
    """Stands for a teacher: the brighter an image is, the surer it is of the last class."""

    device = torch.device("cpu")

    def __init__(self):
        self.seen = []

    def logits(self, images):
        self.seen.append(images)
        brightness = images.mean(dim=(1, 2, 3))
        return torch.stack([-brightness, torch.zeros_like(brightness), brightness], dim=1)


# The choice


@pytest.mark.parametrize("factor", [1, 2])
def test_the_choice_is_that_of_trying_everything(factor):
    dataset = tiny_dataset()
    teacher = obtain_teacher(TEACHER, dataset, DistillContext())
    selector = Selector(teacher, dataset.spec, num_images=2, num_crops=3, factor=factor)
    members = dataset.images[dataset.labels == 1]
    made = selector(Candidates(members, 1, seed=11))
    real = normalise(members, dataset.spec)
    generator = make_generator(derive_seed(11, "crops"))
    boxes = random_boxes(8 * 3, (8, 8), 0.08, generator, largest_aspect=1.0).view(8, 3, 4)
    side, best = 8 // factor, []
    for image, own_boxes in zip(real, boxes.tolist(), strict=True):
        scored = []
        for top, left, height, width in own_boxes:
            assert height == width
            patch = resized_crop(image, top, left, height, width, [side, side], antialias=True)
            canvas = torch.zeros(1, 3, 8, 8)
            edge = (8 - side) // 2
            canvas[0, :, edge : edge + side, edge : edge + side] = patch
            logits = teacher.logits(canvas)[0].numpy().astype(np.float64)
            realism = logits[1] - np.log(np.exp(logits).sum())
            scored.append((realism, patch))
        best.append(max(scored, key=lambda pair: pair[0]))
    best.sort(key=lambda pair: -pair[0])
    patches = [patch for _, patch in best[: 2 * factor**2]]
    for number, image in enumerate(made):
        for place in range(factor**2):
            row, column = divmod(place, factor)
            part = image[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
            expected = denormalise(patches[place * 2 + number][None], dataset.spec)[0]
            assert int((part.int() - expected.int()).abs().max()) <= 1


def test_each_image_gives_one_crop_and_the_most_realistic_come_first():
    spec = tiny_dataset(image_shape=(3, 8, 8)).spec
    # Eight images, each of one brightness: all crops of one are equal.
    levels = [40, 200, 90, 250, 10, 160, 120, 70]
    images = torch.tensor(levels, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 3, 8, 8)
    brightest = Selector(Brightness(), spec, 3, 4, 1)(Candidates(images, 2, seed=0))
    darkest = Selector(Brightness(), spec, 3, 4, 1)(Candidates(images, 0, seed=0))
    assert brightest[:, 0, 0, 0].tolist() == [250, 200, 160]
    assert darkest[:, 0, 0, 0].tolist() == [10, 40, 70]


def test_a_crop_is_of_the_part_that_scores_best():
    spec = tiny_dataset().spec
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[:, :, :4, :4] = 255  # bright in the top left quarter
    (made,) = Selector(Brightness(), spec, 1, 60, 1)(Candidates(image, 2, seed=0))
    assert float(made.float().mean()) > 200
    (dark,) = Selector(Brightness(), spec, 1, 60, 1)(Candidates(image, 0, seed=0))
    assert float(dark.float().mean()) == 0


def test_reduced_patches_are_scored_in_the_middle_of_the_mean_colour():
    spec, teacher = tiny_dataset().spec, Brightness()
    images = torch.full((4, 3, 8, 8), 255, dtype=torch.uint8)
    Selector(teacher, spec, 1, 1, 2)(Candidates(images, 2, seed=0))
    (canvas,) = teacher.seen
    assert canvas.shape == (4, 3, 8, 8)
    middle = canvas[:, :, 2:6, 2:6]
    assert bool((middle > 0).all())
    assert float(F.pad(middle, (2, 2, 2, 2)).sub(canvas).abs().max()) == 0


def test_in_how_many_parts_crops_are_scored_changes_nothing(monkeypatch):
    whole = distill(2, factor=2)
    monkeypatch.setattr(patch_selection, "num_parts", lambda *_: 5)
    assert distill(2, factor=2).id == whole.id


def test_few_images_are_in_memory_as_float(monkeypatch):
    largest = []

    def watch(images, spec):
        largest.append(len(images))
        return normalise(images, spec)

    monkeypatch.setattr(patch_selection, "normalise", watch)
    distill(1)
    assert max(largest) == 1


# The tiles


@pytest.mark.parametrize(("factor", "size"), [(1, 6), (2, 6), (2, 7), (3, 8)])
def test_patches_lie_where_they_belong(factor, size):
    num, side = 2, size // factor
    patches = torch.arange(num * factor**2).view(-1, 1, 1, 1).expand(-1, 3, side, side).float()
    made = tile(patches, factor, size)
    assert made.shape == (num, 3, size, size)
    edges = [0]
    for index in range(factor):
        edges.append(edges[-1] + side + (index < size % factor))
    assert edges[-1] == size
    for number in range(num):
        for row in range(size):
            for column in range(size):
                place = sum(edge <= row for edge in edges[1:]) * factor
                place += sum(edge <= column for edge in edges[1:])
                assert float(made[number, 0, row, column]) == place * num + number


def test_a_patch_keeps_its_pixels():
    patches = torch.rand(8, 3, 4, 4, generator=make_generator(0))
    made = tile(patches, 2, 8)
    assert torch.equal(made[1, :, :4, 4:], patches[3])
    assert torch.equal(tile(patches, 1, 4), patches)


@pytest.mark.parametrize(("size", "factor"), [(8, 1), (32, 1), (64, 1), (128, 2), (224, 2)])
def test_large_images_hold_four_patches_as_published(size, factor):
    assert PatchSelection().factor_at(size) == factor
    assert PatchSelection(factor=3).factor_at(size) == 3
    augmentation = patch_selection._augmentation(factor)
    assert augmentation == Augmentation(
        resized_crop=0.5 if factor == 2 else 0.0, flip=True, cutmix=1.0
    )


# The set


def test_the_images_are_crops_of_their_own_class():
    dataset = tiny_dataset()
    made = distill(4)
    means = made.pixels().float().mean(dim=(1, 2, 3)).view(3, 4)
    real = [dataset.images[dataset.labels == label].float().mean() for label in range(3)]
    for label in range(3):
        nearest = torch.stack([(means[label] - each).abs() for each in real]).argmin(dim=0)
        assert nearest.tolist() == [label] * 4
    assert made.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_a_class_does_not_depend_on_the_others():
    whole = tiny_dataset()
    without = whole.subset((whole.labels != 1).nonzero().flatten())
    first, second = (
        patch_selection._Source(
            dataset=dataset,
            members=[(dataset.labels == label).nonzero().flatten() for label in range(3)],
            num_candidates=5,
            seed=3,
        ).candidates(2)
        for dataset in (whole, without)
    )
    assert first.seed == second.seed
    assert first.images.shape == (5, 3, 8, 8)
    assert torch.equal(first.images, second.images)


def test_only_so_many_candidates_are_looked_at(monkeypatch):
    sizes = []
    original = Selector.losses

    def count(selector, images, boxes, label):
        sizes.append((len(images), boxes.shape[1]))
        return original(selector, images, boxes, label)

    monkeypatch.setattr(Selector, "losses", count)
    distill(2, candidates_per_class=5)
    distill(2, candidates_per_class=100)
    assert sizes == [(5, 3)] * 3 + [(8, 3)] * 3


@pytest.mark.parametrize(
    ("images_per_class", "num_classes", "batch_size"),
    [(1, 10, 10), (10, 10, 50), (50, 10, 100), (10, 100, 100), (10, 1000, 100), (50, 1000, 200)],
)
def test_the_rule_is_the_published_one(images_per_class, num_classes, batch_size):
    rule = patch_selection._learning_rate_rule(images_per_class, num_classes)
    settings = TrainSettings.of_rule(rule)
    assert (settings.batch_size, settings.num_epochs) == (batch_size, 300)
    assert (settings.optimiser, settings.learning_rate, settings.weight_decay) == (
        "adamw",
        0.001,
        0.01,
    )
    assert settings.schedule == "cosine"


def test_the_authors_settings_are_the_defaults():
    method = PatchSelection()
    assert (method.candidates_per_class, method.num_crops) == (300, 5)
    assert (method.network.network.name, method.network.network.norm) == ("resnet18", "batch")


def test_the_record_names_the_network_and_its_cost():
    made = distill()
    (record,) = made.networks
    assert record.description.startswith("ConvNet, depth 2, width 4, batch norm")
    assert len(made.costs) == 2
    assert made.learning_rate_rule.optimiser == "adamw"
    json.dumps(made.card())


@pytest.mark.exhaustive
def test_two_workers_make_the_identical_set():
    steps = []
    context = DistillContext(num_workers=2, progress=lambda *told: steps.append(told))
    made = distill(2, factor=2, context=context)
    assert made.id == distill(2, factor=2).id
    assert steps[-3:] == [(1, 3, "classes"), (2, 3, "classes"), (3, 3, "classes")]


def test_a_killed_run_goes_on_after_the_last_class(tmp_path, monkeypatch):
    undisturbed = distill()
    monkeypatch.setattr(Checkpointer, "save_if_due", Checkpointer.save)
    path, looked_at = tmp_path / "checkpoint.safetensors", []

    def stop(done, total, note=""):
        if note == "classes" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(context=DistillContext(progress=stop, checkpoint=path))
    for other in ({"seed": 1}, {"num_crops": 4}):
        with pytest.raises(StudyError, match="other options, data or seed"):
            distill(context=DistillContext(checkpoint=path), **other)
    original = Selector.__call__

    def watch(selector, candidates):
        looked_at.append(candidates.label)
        return original(selector, candidates)

    monkeypatch.setattr(Selector, "__call__", watch)
    assert distill(context=DistillContext(checkpoint=path)).id == undisturbed.id
    assert looked_at == [2]
    assert not path.exists()


# What is refused


def test_every_patch_needs_an_image_of_its_own():
    with pytest.raises(DataError, match="3 images_per_class of 2x2 patches take 12 .* has 8 "):
        distill(3, factor=2)
    with pytest.raises(ConfigError, match="candidates_per_class is 5; set it to at least 8"):
        distill(2, factor=2, candidates_per_class=5)


def test_too_few_are_refused_before_the_network_is_trained(monkeypatch):
    monkeypatch.setattr(
        patch_selection, "obtain_teachers", lambda *_: pytest.fail("it is trained all the same")
    )
    with pytest.raises(DataError, match="8 images .* asks for 9"):
        distill(9)
