import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas_proxy.data.sources import DataSettings
from nas_proxy.data.transforms import normalise
from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.errors import EvaluationError, ProxyFileError
from nas_proxy.evaluate import factory as factory_module
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory, training_fidelity
from nas_proxy.evaluate.network import NetworkEvaluator
from nas_proxy.interfaces import DistillContext, SearchSpace, ZeroCostScore
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import canonical_json, derive_seed, isolated_rng, make_generator
from nas_proxy.scores.flops import Flops
from nas_proxy.scores.num_params import NumParams
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.loop import TrainingSet, train
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture, Fidelity, Splits, Status

ARCHITECTURE = Architecture("fake", 0)
TRAINED = {
    *("val_loss", "val_accuracy", "train_loss_mean", "train_loss_tail"),
    *("train_seconds", "images_seen"),
}


def small_net(space, spec):
    return ConvNet(spec.image_shape, spec.num_classes, width=space.width, depth=1, norm="batch")


@dataclass(frozen=True, kw_only=True)
class FakeSpace(SearchSpace):
    """Builds whatever it is told to."""

    make: Callable = small_net
    width: int = 8

    name = "fake"
    fidelity_options = ("width",)

    def build(self, architecture, spec):
        return self.make(self, spec)

    def suggest(self, trial):
        raise NotImplementedError

    def sample(self, generator):
        raise NotImplementedError

    def mutate(self, architecture, generator):
        raise NotImplementedError

    def encode(self, architecture):
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FakeScore(ZeroCostScore):
    """Answers what it is told to, and remembers what it saw."""

    answer: Callable = lambda network, images: 1.0
    seen: list = field(default_factory=list)

    name = "fake"

    def measure(self, network, images):
        self.seen.append((network, images))
        return self.answer(network, images)


class Raising(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.error = error

    def forward(self, images):
        raise self.error


def settings(**changes):
    fixed = {"num_steps": 3, "batch_size": 8, "learning_rate": 0.05, "precision": "float32"}
    return TrainSettings(**{**fixed, **changes})


def evaluator(make=small_net, *, train_settings=None, trained=True, scores=None, space=None):
    dataset = tiny_dataset()
    train_settings = train_settings or settings()
    return NetworkEvaluator(
        space=space or FakeSpace(make=make),
        scores=scores or {},
        score_images=normalise(dataset.images[:6], dataset.spec),
        spec=dataset.spec,
        settings=train_settings,
        fidelity=training_fidelity(train_settings, dataset.spec, "d", len(dataset)),
        training_set=TrainingSet.of(dataset) if trained else None,
        measured_on=dataset if trained else None,
    )


def without_seconds(evaluation):
    """The evaluation without what a clock said."""
    value = json.loads(canonical_json(evaluation.to_json()))
    for signals in (value["signals"], *value["seed_signals"]):
        signals.pop("train_seconds", None)
    del value["seconds"], value["signal_seconds"]
    return value


def assert_failed(evaluation, *reasons):
    assert evaluation.status is Status.FAILED
    for reason in reasons:
        assert reason in evaluation.reason
    assert "\n" not in evaluation.reason
    assert dict(evaluation.signals) == {}
    assert evaluation.seed_signals == evaluation.train_losses == ()
    assert evaluation.architecture == ARCHITECTURE
    assert evaluation.seed == 5
    assert evaluation.seconds > 0
    json.loads(canonical_json(evaluation.to_json()))


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["build", "forward", "score"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no such operation\nsecond line"), "ValueError: no such operation"),
        (KeyError("width"), "KeyError: 'width'"),
        (AssertionError(), "AssertionError: no message"),
        (EvaluationError("is not defined here"), "is not defined here"),
        (MemoryError(), "does not fit in memory: no message"),
        (torch.OutOfMemoryError("CUDA out of memory"), "does not fit in memory: CUDA out of"),
        (RecursionError("too deep"), "RecursionError: too deep"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_whatever_a_plugin_raises_is_a_failed_evaluation(place, error, reason):
    def fail(*_):
        raise error

    make = {"build": fail, "forward": lambda *_: Raising(error), "score": small_net}[place]
    scores = {"fake": FakeScore(answer=fail)} if place == "score" else {}
    evaluation = evaluator(make, scores=scores).evaluate(ARCHITECTURE, 5)
    assert_failed(evaluation)
    assert evaluation.reason.startswith(reason)


def test_network_larger_than_the_memory():
    evaluation = evaluator(lambda *_: nn.Linear(2**25, 2**25)).evaluate(ARCHITECTURE, 5)
    assert_failed(evaluation, "does not fit in memory: ", "tried to allocate")


def test_diverging_training():
    hot = settings(learning_rate=1e30, schedule="constant", num_steps=60)
    evaluation = evaluator(train_settings=hot).evaluate(ARCHITECTURE, 5)
    assert_failed(evaluation, "the training loss is not finite from step")
    assert "Error" not in evaluation.reason


def test_network_that_fails_only_when_it_is_judged():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, images):
            logits = images.mean(dim=(1, 2, 3))[:, None] * self.weight
            return logits if self.training else logits * float("nan")

    evaluation = evaluator(lambda *_: Moody()).evaluate(ARCHITECTURE, 5)
    assert_failed(evaluation, "the validation loss is not finite")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_signal_that_is_not_finite(value):
    scores = {"good": FakeScore(), "bad": FakeScore(answer=lambda *_: value)}
    evaluation = evaluator(scores=scores).evaluate(ARCHITECTURE, 5)
    assert_failed(evaluation, f"signal bad is not finite ({value})")


@pytest.mark.parametrize("value", [None, "high", torch.zeros(2), 1j], ids=str)
def test_signal_that_is_no_number(value):
    scores = {"bad": FakeScore(answer=lambda *_: value)}
    assert_failed(evaluator(scores=scores).evaluate(ARCHITECTURE, 5), "Error: ")


@pytest.mark.parametrize("value", [7, np.float32(7), np.int64(7), torch.tensor(7.0)], ids=repr)
def test_signal_of_another_numeric_type_becomes_a_float(value):
    """What JSON cannot hold would stop the whole search when it is logged."""
    scores = {"fake": FakeScore(answer=lambda *_: value)}
    evaluation = evaluator(scores=scores, trained=False).evaluate(ARCHITECTURE, 5)
    assert json.loads(canonical_json(evaluation.to_json()))["signals"] == {"fake": 7.0}


def test_failure_of_one_seed_fails_the_evaluation():
    built = []

    def second_fails(space, spec):
        built.append(space)
        if len(built) == 2:
            raise ValueError("second")
        return small_net(space, spec)

    evaluation = evaluator(second_fails, train_settings=settings(num_seeds=3)).evaluate(
        ARCHITECTURE, 5
    )
    assert_failed(evaluation, "second")
    assert len(built) == 2


def test_keyboard_interrupt_is_no_failure_of_the_candidate():
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator(interrupt).evaluate(ARCHITECTURE, 5)


# --- what is measured -------------------------------------------------------------------------


def test_signals_are_the_means_over_the_seeds():
    evaluation = evaluator(train_settings=settings(num_seeds=3)).evaluate(ARCHITECTURE, 5)
    assert evaluation.complete
    assert len(evaluation.seed_signals) == 3
    assert set(evaluation.signals) == TRAINED
    for name, value in evaluation.signals.items():
        values = [signals[name] for signals in evaluation.seed_signals]
        assert value == pytest.approx(np.mean(values), rel=1e-12)
    losses = [signals["val_loss"] for signals in evaluation.seed_signals]
    assert len(set(losses)) == 3


def test_one_seed_recomputed_by_hand():
    """Train with the library's loop, but build, seed and judge here."""
    dataset, used = tiny_dataset(), settings(num_seeds=2, num_steps=5)
    evaluation = evaluator(train_settings=used).evaluate(ARCHITECTURE, 5)
    images = (dataset.images.double() / 255 - torch.tensor(dataset.spec.mean).view(1, 3, 1, 1)) / (
        torch.tensor(dataset.spec.std).view(1, 3, 1, 1)
    )
    curves = []
    for index, signals in enumerate(evaluation.seed_signals):
        seed = derive_seed("training", 5, index)
        with isolated_rng(seed):
            network = ConvNet((3, 8, 8), 3, width=8, depth=1, norm="batch")
        result = train(network, TrainingSet.of(dataset), used, make_generator(seed))
        with torch.no_grad():
            logits = network.eval()(images.float())
        loss = F.cross_entropy(logits.double(), dataset.labels)
        correct = (logits.argmax(1) == dataset.labels).double().mean()
        assert signals["val_loss"] == pytest.approx(float(loss), rel=1e-5)
        assert signals["val_accuracy"] == pytest.approx(float(correct))
        assert signals["train_loss_mean"] == pytest.approx(np.mean(result.losses))
        assert signals["train_loss_tail"] == pytest.approx(result.losses[-1])
        curves.append(result.losses)
    assert evaluation.train_losses == pytest.approx(np.mean(curves, axis=0))


def test_same_seed_same_evaluation_whatever_the_global_generator_says():
    used = settings(num_seeds=2)
    scores = {
        "norm": FakeScore(answer=lambda net, _: sum(p.sum().item() for p in net.parameters()))
    }
    torch.manual_seed(1)
    first = evaluator(train_settings=used, scores=scores).evaluate(ARCHITECTURE, 5)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = evaluator(train_settings=used, scores=scores).evaluate(ARCHITECTURE, 5)
    assert torch.equal(before, torch.get_rng_state())
    assert without_seconds(first) == without_seconds(second)
    third = evaluator(train_settings=used, scores=scores).evaluate(ARCHITECTURE, 6)
    for name in ("norm", "val_loss", "train_loss_mean"):
        assert third.signals[name] != first.signals[name]


def test_earlier_evaluations_leave_no_trace():
    shared = evaluator()
    first = shared.evaluate(ARCHITECTURE, 5)
    shared.evaluate(Architecture("fake", 1), 9)
    assert without_seconds(shared.evaluate(ARCHITECTURE, 5)) == without_seconds(first)


def test_dropout_is_seeded_too():
    def with_dropout(space, spec):
        return nn.Sequential(nn.Dropout(0.5), small_net(space, spec))

    evaluations = [evaluator(with_dropout).evaluate(ARCHITECTURE, 5) for _ in range(2)]
    assert without_seconds(evaluations[0]) == without_seconds(evaluations[1])
    plain = evaluator().evaluate(ARCHITECTURE, 5)
    assert evaluations[0].signals["train_loss_mean"] != plain.signals["train_loss_mean"]


@pytest.mark.parametrize(("batch_size", "seen"), [(8, 3 * 8), (1, 3), (100, 3 * 24)])
def test_images_seen(batch_size, seen):
    used = settings(batch_size=batch_size, num_seeds=2)
    evaluation = evaluator(train_settings=used).evaluate(ARCHITECTURE, 5)
    assert evaluation.signals["images_seen"] == seen
    assert evaluation.fidelity.num_steps * evaluation.fidelity.batch_size == seen
    assert len(evaluation.train_losses) == 3


def test_zero_cost_signals_alone_need_no_training():
    scores = {"params": NumParams(), "flops": Flops()}
    evaluation = evaluator(scores=scores, trained=False).evaluate(ARCHITECTURE, 5)
    network = small_net(FakeSpace(), tiny_dataset().spec)
    assert dict(evaluation.signals) == {
        "params": sum(p.numel() for p in network.parameters()),
        "flops": 2 * (8 * 8 * 27 * 8 + 8 * 4 * 4 * 3),
    }
    assert set(evaluation.signal_seconds) == {"params", "flops"}
    assert evaluation.train_losses == ()


def test_every_score_gets_its_own_fresh_network_of_equal_weights():
    def spoil(network, images):
        value = sum(p.abs().sum().item() for p in network.parameters())
        for parameter in network.parameters():
            parameter.data.zero_()
        return value

    scores = {"first": FakeScore(answer=spoil), "second": FakeScore(answer=spoil)}
    evaluation = evaluator(scores=scores).evaluate(ARCHITECTURE, 5)
    assert evaluation.signals["first"] == evaluation.signals["second"] > 0
    assert (
        without_seconds(evaluation)["seed_signals"]
        == (without_seconds(evaluator().evaluate(ARCHITECTURE, 5))["seed_signals"])
    )


def test_cost_of_each_part_is_reported():
    scores = {"a": FakeScore(), "b": FakeScore()}
    evaluation = evaluator(scores=scores).evaluate(ARCHITECTURE, 5)
    assert set(evaluation.signal_seconds) == {"a", "b", "training"}
    assert 0 < sum(evaluation.signal_seconds.values()) <= evaluation.seconds
    assert evaluation.signals["train_seconds"] <= evaluation.signal_seconds["training"]


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
    assert torch.equal(built.measured_on.images, judge.images)
    assert torch.equal(built.measured_on.labels, judge.labels)
    assert torch.equal(built.training_set.images, splits.search_train.images)
    signals = built.evaluate(ARCHITECTURE, 0).signals
    assert {name for name in signals if "train" not in name} == {
        f"{split}_loss", f"{split}_accuracy", "images_seen",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "per_class"), [(6, 2), (8, 2), (9, 3), (1, 1), (15, 5), (400, 5), (None, 5)]
)
def test_num_val_images_is_balanced(asked, per_class):
    splits = three_parts()
    judge = make_factory(splits, settings=settings(num_val_images=asked)).build().measured_on
    assert torch.bincount(judge.labels).tolist() == [per_class] * 3
    known = {image.numpy().tobytes(): int(label) for image, label in zip(
        splits.search_val.images, splits.search_val.labels, strict=True)}  # fmt: skip
    drawn = {image.numpy().tobytes(): int(label) for image, label in zip(
        judge.images, judge.labels, strict=True)}  # fmt: skip
    assert len(drawn) == 3 * per_class
    assert drawn.items() <= known.items()


def test_unbalanced_split_gives_as_many_of_each_class_as_its_smallest_has():
    splits = three_parts()
    keep = torch.nonzero((splits.search_val.labels != 1) | (torch.arange(15) % 2 == 0)).flatten()
    scarce = replace(splits, search_val=splits.search_val.subset(keep))
    smallest = int((scarce.search_val.labels == 1).sum())
    assert 0 < smallest < 5
    judge = make_factory(scarce, settings=settings(num_val_images=15)).build().measured_on
    assert torch.bincount(judge.labels).tolist() == [smallest] * 3


def test_validation_images_are_always_the_same_ones():
    used = settings(num_val_images=6)
    torch.manual_seed(1)
    first = make_factory(three_parts(), settings=used).build().measured_on
    torch.manual_seed(2)
    second = make_factory(three_parts(), settings=used).build().measured_on
    assert torch.equal(first.images, second.images)


def test_test_split_is_never_shortened():
    built = make_factory(
        three_parts(), judged_by="test", settings=settings(num_val_images=3)
    ).build()
    assert len(built.measured_on) == 12


@pytest.mark.parametrize("train_on", ["search_train", "proxy"])
def test_images_arrive_at_the_size_of_the_training(tmp_path, train_on):
    splits, file = three_parts(), tmp_path / "proxy.safetensors"
    subset = RandomSubset().distill(
        splits.search_train, 2, generator=make_generator(0), context=DistillContext()
    )
    subset.save(file)
    built = make_factory(
        splits,
        settings=settings(image_size=5),
        train_on=file if train_on == "proxy" else train_on,
    ).build()
    assert built.training_set.images.shape == (6 if train_on == "proxy" else 24, 3, 5, 5)
    assert built.measured_on.images.shape == (15, 3, 5, 5)
    assert built.measured_on.images.dtype == torch.uint8
    assert built.measured_on.spec.image_shape == (3, 5, 5)
    assert built.score_images.shape == (24, 3, 8, 8)
    assert built.spec.image_shape == (3, 8, 8)
    assert built.evaluate(ARCHITECTURE, 0).complete


def test_score_images_are_real_normalised_training_images():
    splits = three_parts()
    images = make_factory(splits).build().score_images
    expected = normalise(splits.search_train.images, splits.spec)
    assert sorted(images.flatten(1).tolist()) == sorted(expected.flatten(1).tolist())


def test_proxy_of_other_images_is_refused(tmp_path):
    splits, file = three_parts(), tmp_path / "proxy.safetensors"
    subset = RandomSubset().distill(
        splits.search_train, 2, generator=make_generator(0), context=DistillContext()
    )
    subset.save(file)
    foreign = replace(splits.search_train, spec=replace(splits.spec, source_hash="0" * 16))
    with pytest.raises(ProxyFileError, match="search-training split"):
        make_factory(replace(splits, search_train=foreign), train_on=file).build()
    with pytest.raises(ProxyFileError, match="does not exist"):
        make_factory(splits, train_on=tmp_path / "missing.safetensors").build()
