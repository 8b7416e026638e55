"""Rank-aware selection: what it prefers, what it may look at, and what it refuses."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.transforms import normalise, resize
from nas_proxy.distill.rank_aware import _training as rank_aware_training
from nas_proxy.distill.rank_aware._images import Composition, divide
from nas_proxy.distill.rank_aware._training import Entry, SetTraining, StreamTraining
from nas_proxy.distill.rank_aware.distiller import RankAware, RankAwareWork
from nas_proxy.errors import ConfigError, DataError, StudyError
from nas_proxy.interfaces import CalibrationSample, DistillContext
from nas_proxy.processes import pack, unpack
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.testing import tiny_dataset
from nas_proxy.testing._calibration import TinySpace, tiny_calibration_sample
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import measure
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Architecture
from tests.distill import helpers

TELLING = Composition(name="telling", agreement=30.0)
TINY = RankAware(
    train=TrainSettings(num_steps=2, learning_rate=0.01, precision="float32"),
    candidates_per_class=4,
    judge_images_per_class=2,
    compositions=(TELLING,),
)


class Visible(nn.Module):
    """A linear classifier that sees so many of the 192 values of an image."""

    def __init__(self, num_visible, num_classes):
        super().__init__()
        order = torch.randperm(192, generator=make_generator(3))
        self.register_buffer("seen", order[:num_visible])
        self.linear = nn.Linear(num_visible, num_classes)

    def forward(self, images):
        return self.linear(images.flatten(1)[:, self.seen])


@dataclass(frozen=True, kw_only=True)
class VisibleSpace(TinySpace):
    """The more an architecture sees, the better it can become: the genotype is its reference."""

    name = "visible"

    def build(self, architecture, spec):
        return Visible(architecture.genotype, spec.num_classes)


def visible_sample(counts):
    return CalibrationSample(
        space=VisibleSpace(),
        architectures=tuple(Architecture("visible", count) for count in counts),
        references=tuple(map(float, counts)),
    )


def half_noise(seed, images_per_class=160):
    """Images of three patterns, half of which are replaced by noise, and which ones are not."""
    tiny = tiny_dataset(images_per_class=images_per_class)
    generator = make_generator(seed)
    patterns = torch.randn(3, 3, 8, 8, generator=generator)
    noise = torch.randn(tiny.images.shape, generator=generator)
    telling = torch.rand(len(tiny), generator=generator) < 0.5
    pixels = 128 + 40 * (0.3 * telling.view(-1, 1, 1, 1) * patterns[tiny.labels] + noise)
    spec = replace(tiny.spec, mean=(0.5,) * 3, std=(0.16,) * 3)
    return replace(tiny, images=pixels.clamp(0, 255).to(torch.uint8), spec=spec), telling


def distill(distiller=TINY, *arguments, **options):
    options = {"calibration": tiny_calibration_sample(), **options}
    return helpers.distill(distiller, *arguments, **options)


# What it is for


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_it_prefers_images_that_tell_and_they_rank_architectures_never_seen(seed):
    dataset, telling = half_noise(seed)
    settings = TrainSettings(num_steps=30, batch_size=32, learning_rate=0.02, precision="float32")
    distiller = RankAware(
        train=settings,
        candidates_per_class=80,
        judge_images_per_class=30,
        compositions=(TELLING, Composition(name="hard", difficulty=4.0)),
    )
    known = visible_sample([8, 16, 24, 40, 52, 80, 96, 112, 128, 144, 176, 192])
    made = distill(distiller, 8, seed, dataset, calibration=known)
    real = normalise(dataset.images, dataset.spec).flatten(1)
    origins = torch.cdist(made.images.flatten(1), real).argmin(dim=1)
    assert made.parameters["chosen"] == "telling"
    assert float(telling[origins].float().mean()) > 0.8
    assert 0.4 < float(telling.float().mean()) < 0.6

    new = [12, 20, 32, 46, 64, 88, 104, 120, 160, 184]
    held_out, _ = half_noise(seed, images_per_class=100)  # the same patterns in other noise
    random = torch.randperm(len(dataset), generator=make_generator(9))[: len(made)]

    def rho(training_set):
        losses = []
        for count in new:
            with isolated_rng(0):
                network = Visible(count, 3)
                train(network, training_set, settings, make_generator(1))
            losses.append(measure(network, held_out, settings).loss)
        return spearmanr([-loss for loss in losses], new).statistic

    by_chosen, by_random = rho(TrainingSet.of(made)), rho(TrainingSet.of(dataset.subset(random)))
    assert by_chosen > by_random + 0.3


# What it may look at


def contents(images):
    return {image.numpy().tobytes() for image in images}


def test_no_network_is_asked_about_what_it_trained_on_and_no_part_leaves_the_data(monkeypatch):
    dataset = tiny_dataset(images_per_class=12)
    trained_on, judged_by, observed = [], [], []
    evaluator, losses_of = rank_aware_training.NetworkEvaluator, rank_aware_training.image_losses

    def spy(**options):
        training_set = options["evaluation_data"].training_set
        order = training_set.order
        trained_on.append(
            contents(training_set.images if order is None else training_set.images[order])
        )
        judged_by.append(contents(options["evaluation_data"].measured_on.images))
        return evaluator(**options)

    def watch(network, images, settings):
        observed.append(contents(images.images))
        return losses_of(network, images, settings)

    monkeypatch.setattr(rank_aware_training, "NetworkEvaluator", spy)
    monkeypatch.setattr(rank_aware_training, "image_losses", watch)
    made = distill(dataset=dataset)
    everything = contents(dataset.images)
    num_stream = len(tiny_calibration_sample().architectures)
    assert {len(images) for images in trained_on[:num_stream]} == {3 * (12 - 4 - 2)}
    assert {len(images) for images in trained_on[num_stream:]} == {3 * 2}
    assert all(
        images | held_out <= everything and not images & held_out
        for images, held_out in zip(trained_on, judged_by, strict=True)
    )
    assert all(
        len(images) == 3 * 4 and not images & stream
        for images, stream in zip(observed, trained_on, strict=False)
    )
    assert all(chosen <= observed[0] for chosen in trained_on[num_stream:])
    assert contents(made.pixels()) <= observed[0]


def test_sets_know_nothing_of_the_architectures_that_judge_them(monkeypatch):
    known_by, judged = {}, []
    sets_of, train_on = RankAwareWork._sets, RankAwareWork._train

    def remember(self, state, known):
        made = sets_of(self, state, known)
        known_by.update({id(chosen): (chosen, set(known)) for chosen in made})
        return made

    def check(self, state, wanted):
        judged.extend((a, known_by[id(chosen)][1]) for _, a, chosen in wanted)
        return train_on(self, state, wanted)

    monkeypatch.setattr(RankAwareWork, "_sets", remember)
    monkeypatch.setattr(RankAwareWork, "_train", check)
    distill()
    assert len(judged) >= 12
    for architecture, known in judged:
        assert architecture not in known
        assert len(known) == 6


def test_the_set_says_what_was_found_and_by_which_architectures():
    made, sample = distill(), tiny_calibration_sample()
    assert made.parameters["chosen"] in ("random", "telling")
    assert set(made.parameters["race"]) == {"random", "telling", "full stream"}
    assert made.parameters["race"]["random"]["num_architectures"] == 12
    assert made.parameters["num_trainings"] in (24, 36)  # the control may win at once
    assert made.parameters["calibrated_on"] == {
        "space": sample.space.fingerprint(),
        "architectures": [architecture.id for architecture in sample.architectures],
    }
    assert set(made.costs) == {"distilling"}


# How it is trained


def tiny_work(distiller=TINY, dataset=None):
    return RankAwareWork(
        distiller=distiller,
        dataset=dataset or tiny_dataset(),
        sample=tiny_calibration_sample(),
        num_per_class=2 * distiller.decode_factor**2,
        seed=3,
        context=DistillContext(),
    )


def test_trainings_give_the_same_in_another_process():
    work = tiny_work()
    architecture = work.sample.architectures[3]
    stream = StreamTraining(work.training, work._images_of(work.parts.stream), work.pool)
    race = SetTraining(work.training, work.pool)
    for function, item in (
        (stream, architecture),
        (race, Entry(architecture, torch.tensor([0, 5, 9]))),
    ):
        sent = unpack(pack(function))
        here, there = function(item), sent(unpack(pack(item)))
        assert here.signal == there.signal
        assert torch.equal(here.losses, there.losses)
    assert len(stream(architecture).losses) == 12


def test_losses_of_images_have_the_mean_that_the_training_loop_measures():
    work = tiny_work()
    training = replace(work.training, held_out=work.pool)
    outcome = training.train(
        work.sample.architectures[5], work._images_of(work.parts.stream), work.pool
    )
    assert float(outcome.losses.mean()) == pytest.approx(-outcome.signal, rel=1e-5)


def test_reduced_images_are_raced_as_they_will_be_trained_on():
    distiller = replace(
        TINY, decode_factor=2, candidates_per_class=9, train=replace(TINY.train, image_size=4)
    )
    dataset = tiny_dataset(images_per_class=14)
    made = distill(distiller, dataset=dataset)
    assert made.images.shape == (6, 3, 8, 8)
    assert made.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    stored = resize(made.training_images(), 4)
    raced = tiny_work(distiller, dataset)._images_of(torch.arange(len(dataset)), 2)
    images, _ = raced.batch(torch.arange(len(dataset)))
    distances = (stored[:, None] - images[None]).abs().amax(dim=(2, 3, 4))
    assert float(distances.amin(dim=1).max()) < 3 / 255 / min(dataset.spec.std)
    nearest = distances.argmin(dim=1)
    assert torch.equal(dataset.labels[nearest], made.labels)
    assert len(nearest.unique()) == 24


# After a kill


class Killer:
    def __init__(self, after):
        self.after = after
        self.calls = []

    def __call__(self, done, total, note=""):
        self.calls.append(done)
        assert done <= total
        if done == self.after:
            raise KeyboardInterrupt


def test_a_killed_distillation_continues_to_the_identical_set(tmp_path, monkeypatch):
    never = property(lambda self: -math.inf, lambda self, value: None)
    monkeypatch.setattr(Checkpointer, "_saved_at", never, raising=False)
    undisturbed, checkpoint = distill(seed=0), tmp_path / "checkpoint.safetensors"
    for after in (4, 20, 33):  # while observing, in the first round, in the second
        with pytest.raises(KeyboardInterrupt):
            distill(seed=0, checkpoint=checkpoint, progress=Killer(after))
    last = Killer(None)
    with pytest.raises(StudyError, match="other options, data or seed"):
        distill(seed=6, checkpoint=checkpoint)
    other = replace(tiny_calibration_sample(), references=tuple(map(float, range(12))))
    with pytest.raises(StudyError, match="other options, data or seed"):
        distill(seed=0, checkpoint=checkpoint, calibration=other)
    continued = distill(seed=0, checkpoint=checkpoint, progress=last)
    assert last.calls[:3] == [34, 35, 36]  # nothing is trained twice
    assert continued.id == undisturbed.id
    assert torch.equal(continued.images, undisturbed.images)
    assert not checkpoint.exists()


# What it refuses


def test_it_needs_calibration_architectures_that_rank():
    sample = tiny_calibration_sample()
    few = replace(
        sample, architectures=sample.architectures[:11], references=sample.references[:11]
    )
    flat = replace(sample, references=(93.2,) * 12)
    for calibration, message in (
        (None, "add a section calibrate"),
        (few, "holds 11 architectures, but rank_aware needs at least 12"),
        (flat, "all 12 references of the calibration sample are 93.2"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            distill(calibration=calibration)
        assert len(str(caught.value).splitlines()) == 1


def test_it_needs_images_to_choose_among():
    with pytest.raises(ConfigError, match="choose 4 images of each class among 4; set"):
        distill(images_per_class=4)
    with pytest.raises(ConfigError, match="choose 4 images of each class among 4; set"):
        distill(replace(TINY, decode_factor=2), images_per_class=1)
    with pytest.raises(DataError, match="class 'c0' of tiny has 8 images .* holds 2 .* among 6"):
        distill(replace(TINY, candidates_per_class=6))
    with pytest.raises(DataError, match="has 8 images .* asks for 9"):
        distill(images_per_class=9)


def test_parts_share_no_image_and_every_class_gives_its_share():
    dataset = tiny_dataset()
    parts = divide(dataset, 2, 4, seed=0)
    assert sorted(torch.cat([parts.held_out, parts.pool, parts.stream]).tolist()) == [*range(24)]
    assert dataset.labels[parts.pool].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.labels[parts.held_out].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": TrainSettings(num_epochs=1)}, "give train.num_steps instead of num_epochs"),
        ({"train": TrainSettings(num_steps=1, num_val_images=9)}, "num_val_images out"),
        ({"compositions": ()}, "at least one"),
        ({"compositions": (TELLING, TELLING)}, "a name of its own"),
        ({"compositions": (Composition(name="random"),)}, "a name of its own"),
        ({"signal": "val_los"}, "did you mean 'val_loss'"),
        ({"signal": "naswot"}, "cannot read the signal 'naswot'"),
        ({"signal": "fit_loss"}, "cannot read the signal 'fit_loss'"),
        ({"signal": "val_loss@50"}, "add 50 to distill.train.checkpoints"),
        ({"signal": "val_loss@x"}, "percentage of the steps"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        RankAware(**options)


def test_a_fidelity_that_the_space_lacks_is_named():
    reduced = replace(TINY, train=replace(TINY.train, space_fidelity={"num_cells": 1}))
    with pytest.raises(ConfigError, match="space_fidelity.num_cells is not a fidelity of the sp"):
        distill(reduced)


@pytest.mark.exhaustive
def test_trainings_that_diverge_are_named(caplog):
    wild = replace(TINY, train=replace(TINY.train, learning_rate=1e38))
    with pytest.raises(StudyError, match="only 0 of 12 .* the stream of real images.*now 1e"):
        distill(wild)
    assert "not finite" in caplog.text
