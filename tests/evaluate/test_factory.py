"""Evaluators that search and validation ask for: at which size, trained and judged on what."""

import json
from dataclasses import replace

import pytest
import torch

from nas_proxy.data.sources import DataSettings
from nas_proxy.data.transforms import normalise
from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.errors import ProxyFileError
from nas_proxy.evaluate import factory as factory_module
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory, training_fidelity
from nas_proxy.interfaces import DistillTask
from nas_proxy.reproducibility import canonical_json, make_generator
from nas_proxy.scores.num_params import NumParams
from nas_proxy.testing import tiny_dataset
from nas_proxy.types import Fidelity, Splits
from tests.evaluate.helpers_fakes import (
    ARCHITECTURE,
    FakeScore,
    FakeSpace,
    evaluator,
    settings,
    small_net,
)

# --- fidelity ---------------------------------------------------------------------------------


def test_reduced_fidelity_takes_effect_and_is_recorded():
    """Training sees the small space and images; zero-cost scores see both at full size."""
    built, score = [], FakeScore()

    def remember(space, spec):
        built.append((space.width, spec.image_shape))
        return small_net(space, spec)

    used = settings(space_fidelity={"width": 4}, image_size=6, num_epochs=2, num_steps=None)
    dataset = tiny_dataset()
    splits = Splits(dataset, dataset, dataset)
    made = make_factory(
        splits, settings=used, space=FakeSpace(make=remember), scores={"fake": score}
    )
    evaluation = made.build().evaluate(ARCHITECTURE, 5)
    assert evaluation.complete
    assert built == [(8, (3, 8, 8)), (4, (3, 6, 6))]
    ((_, images),) = score.seen
    assert images.shape[1:] == (3, 8, 8)
    assert evaluation.fidelity == Fidelity("d", 6, 8, 6, {"width": 4}, 1)
    assert json.loads(canonical_json(evaluation.to_json()))["fidelity"]["space_fidelity"] == {
        "width": 4
    }
    assert len(evaluation.train_losses) == 6


@pytest.mark.parametrize(
    ("changes", "steps", "batch_size", "size"),
    [
        ({"num_steps": 7}, 7, 8, 8),
        ({"num_steps": None, "num_epochs": 1}, 3, 8, 8),
        ({"num_steps": None, "num_epochs": 2, "batch_size": 10}, 5, 10, 8),
        ({"num_steps": None, "num_epochs": 3, "batch_size": 500}, 3, 24, 8),
        ({"image_size": 16, "num_seeds": 4}, 3, 8, 16),
    ],
)
def test_fidelity_says_what_the_training_does(changes, steps, batch_size, size):
    used = settings(**changes)
    fidelity = training_fidelity(used, tiny_dataset().spec, "d", 24)
    assert fidelity == Fidelity("d", steps, batch_size, size, {}, used.num_seeds)
    done = evaluator(train_settings=replace(used, num_seeds=1)).evaluate(ARCHITECTURE, 5)
    assert len(done.train_losses) == steps
    assert done.signals["images_seen"] == steps * batch_size


# --- the factory ------------------------------------------------------------------------------


class Untouchable:
    """Splits whose test part nobody may read."""

    def __init__(self, splits):
        self.search_train, self.search_val = splits.search_train, splits.search_val
        self.spec = splits.spec

    @property
    def test(self):
        raise AssertionError("the test split was read")


@pytest.fixture(autouse=True)
def _loader(monkeypatch):
    monkeypatch.setattr(factory_module, "load_splits", lambda data: LOADED[data.name])


LOADED = {}


def make_factory(splits, **options):
    LOADED["fake"] = splits
    used = options.get("settings", settings())
    fixed = {
        "data": DataSettings(name="fake"),
        "space": FakeSpace(),
        "scores": {},
        "settings": used,
        "train_on": "search_train",
        "device": "cpu",
        "fidelity": training_fidelity(used, splits.spec, "d", len(splits.search_train)),
    }
    return NetworkEvaluatorFactory(**{**fixed, **options})


def three_parts():
    """Parts of different sizes whose images can be told apart."""
    train, val, test = (tiny_dataset(images_per_class=n) for n in (8, 5, 4))
    val = replace(val, images=val.images.flip(3), spec=train.spec)
    return Splits(train, val, replace(test, images=255 - test.images, spec=train.spec))


def test_test_split_is_not_read_by_the_search():
    for train_on in ("search_train", None):
        made = make_factory(
            Untouchable(three_parts()), train_on=train_on, scores={"p": NumParams()}
        )
        evaluation = made.build().evaluate(ARCHITECTURE, 0)
        assert evaluation.complete
        assert not any("test" in name for name in evaluation.signals)
    with pytest.raises(AssertionError, match="the test split was read"):
        make_factory(Untouchable(three_parts()), judged_by="test").build()


@pytest.mark.parametrize(("judged_by", "split"), [("search_val", "val"), ("test", "test")])
def test_judge_is_the_split_that_was_asked_for(judged_by, split):
    splits = three_parts()
    built = make_factory(splits, judged_by=judged_by).build()
    judge = splits.search_val if split == "val" else splits.test
    assert torch.equal(built.evaluation_data.measured_on.images, judge.images)
    assert torch.equal(built.evaluation_data.measured_on.labels, judge.labels)
    assert torch.equal(built.evaluation_data.training_set.images, splits.search_train.images)
    signals = built.evaluate(ARCHITECTURE, 0).signals
    assert {name for name in signals if "train" not in name} == {
        f"{split}_loss", f"{split}_accuracy", f"{split}_loss_mean", "images_seen",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "per_class"), [(6, 2), (8, 2), (9, 3), (1, 1), (15, 5), (400, 5), (None, 5)]
)
def test_num_val_images_are_of_all_classes(asked, per_class):
    splits = three_parts()
    judge = (
        make_factory(splits, settings=settings(num_val_images=asked))
        .build()
        .evaluation_data.measured_on
    )
    assert torch.bincount(judge.labels).tolist() == [per_class] * 3
    known = {image.numpy().tobytes(): int(label) for image, label in zip(
        splits.search_val.images, splits.search_val.labels, strict=True)}  # fmt: skip
    drawn = {image.numpy().tobytes(): int(label) for image, label in zip(
        judge.images, judge.labels, strict=True)}  # fmt: skip
    assert len(drawn) == 3 * per_class
    assert drawn.items() <= known.items()


def test_an_unbalanced_split_stays_in_proportion_and_keeps_every_class():
    splits = three_parts()
    labels = splits.search_val.labels
    keep = torch.cat(
        [torch.nonzero(labels == 0).flatten()[:1], torch.nonzero(labels > 0).flatten()]
    )
    scarce = replace(splits, search_val=splits.search_val.subset(keep))
    judge, everything = (
        make_factory(scarce, settings=settings(num_val_images=asked))
        .build()
        .evaluation_data.measured_on
        for asked in (5, 15)
    )
    assert torch.bincount(judge.labels).tolist() == [1, 2, 2]
    assert torch.bincount(everything.labels).tolist() == [1, 5, 5]


def test_validation_images_are_always_the_same_ones():
    used = settings(num_val_images=6)
    torch.manual_seed(1)
    first = make_factory(three_parts(), settings=used).build().evaluation_data.measured_on
    torch.manual_seed(2)
    second = make_factory(three_parts(), settings=used).build().evaluation_data.measured_on
    assert torch.equal(first.images, second.images)


def test_test_split_is_never_shortened():
    built = make_factory(
        three_parts(), judged_by="test", settings=settings(num_val_images=3)
    ).build()
    assert len(built.evaluation_data.measured_on) == 12


@pytest.mark.parametrize("train_on", ["search_train", "proxy"])
def test_images_arrive_at_the_size_of_the_training(tmp_path, train_on):
    splits, file = three_parts(), tmp_path / "proxy.safetensors"
    subset = RandomSubset().distill(
        DistillTask(dataset=splits.search_train, images_per_class=2, generator=make_generator(0))
    )
    subset.save(file)
    built = make_factory(
        splits,
        settings=settings(image_size=5),
        train_on=file if train_on == "proxy" else train_on,
    ).build()
    assert built.evaluation_data.training_set.images.shape == (
        6 if train_on == "proxy" else 24,
        3,
        5,
        5,
    )
    assert built.evaluation_data.measured_on.images.shape == (15, 3, 5, 5)
    assert built.evaluation_data.measured_on.images.dtype == torch.uint8
    assert built.evaluation_data.measured_on.spec.image_shape == (3, 5, 5)
    assert built.score_images[0].shape == (24, 3, 8, 8)
    assert built.spec.image_shape == (3, 8, 8)
    assert built.evaluate(ARCHITECTURE, 0).complete


def test_score_images_are_real_normalised_training_images():
    splits = three_parts()
    images = make_factory(splits).build().score_images[0]
    expected = normalise(splits.search_train.images, splits.spec)
    assert sorted(images.flatten(1).tolist()) == sorted(expected.flatten(1).tolist())


def test_proxy_of_other_images_is_refused(tmp_path):
    splits, file = three_parts(), tmp_path / "proxy.safetensors"
    subset = RandomSubset().distill(
        DistillTask(dataset=splits.search_train, images_per_class=2, generator=make_generator(0))
    )
    subset.save(file)
    foreign = replace(splits.search_train, spec=replace(splits.spec, source_hash="0" * 16))
    with pytest.raises(ProxyFileError, match="search-training split"):
        make_factory(replace(splits, search_train=foreign), train_on=file).build()
    with pytest.raises(ProxyFileError, match="does not exist"):
        make_factory(splits, train_on=tmp_path / "missing.safetensors").build()
