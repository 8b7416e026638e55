"""What a short training says of a network, at its end and on the way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from nas_proxy.data.sources import DataSettings
from nas_proxy.data.transforms import normalise
from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.errors import StudyError
from nas_proxy.evaluate import factory as factory_module
from nas_proxy.evaluate.factory import NetworkEvaluatorFactory, training_fidelity
from nas_proxy.evaluate.trained_signals import EvaluationData, SignalObserver, some_of
from nas_proxy.interfaces import DistillTask
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import derive_seed, isolated_rng, make_generator
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.loop import TrainResult, train
from nas_proxy.train.measuring import measure, recalibrate_norms
from nas_proxy.train.training_set import TrainingSet
from nas_proxy.types import Splits
from tests.evaluate.helpers_fakes import ARCHITECTURE, evaluator, settings

# Of three classes of eight images, the first fifteen train and the last nine judge.
WHOLE = tiny_dataset()
TRAIN, JUDGE = WHOLE.subset(torch.arange(15)), WHOLE.subset(torch.arange(15, 24))
TRAINING_SET = TrainingSet.of(TRAIN)
PLAIN = {"num_steps": 6, "schedule": "constant"}
RESULT = TrainResult((3.0, 2.0), 1.0, 16)


def convnet(norm="batch"):
    with isolated_rng(0):
        return ConvNet((3, 8, 8), 3, width=4, depth=1, norm=norm)


def says(network, dataset):
    """Probabilities of a network in evaluation mode, float64 `(n, num_classes)`."""
    with torch.no_grad():
        logits = network.eval()(normalise(dataset.images, dataset.spec))
    return logits.double().softmax(dim=1).numpy()


def cross_entropy(network, dataset):
    probabilities = says(network, dataset)
    return -np.log(probabilities[np.arange(len(dataset)), dataset.labels]).mean()


def signals_of(evaluation_data, *, network=None, **changes):
    """Train a network with a watch on it; its signals and the network."""
    used = settings(**{**PLAIN, **changes})
    network = network or convnet()
    watch = SignalObserver(network, evaluation_data, used, used.num_steps, seed=3)
    result = train(network, evaluation_data.training_set, used, make_generator(1), watch)
    return watch.finish(result)[0], network


def evaluation_data(**changes):
    return replace(EvaluationData(JUDGE, "val", TRAINING_SET), **changes)


# --- at the end -------------------------------------------------------------------------------


def test_losses_accuracies_and_their_gap_by_hand():
    found, network = signals_of(evaluation_data(fit_on=TRAINING_SET))
    for name, dataset in (("val", JUDGE), ("fit", TRAIN)):
        probabilities = says(network, dataset)
        right = (probabilities.argmax(axis=1) == dataset.labels.numpy()).mean()
        assert found[f"{name}_loss"] == pytest.approx(cross_entropy(network, dataset), rel=1e-4)
        assert found[f"{name}_accuracy"] == pytest.approx(right)
    gap = cross_entropy(network, JUDGE) - cross_entropy(network, TRAIN)
    assert found["generalisation_gap"] == pytest.approx(gap, rel=1e-3)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_averaged_weights_by_hand(norm):
    found, network = signals_of(evaluation_data(averages=True), network=convnet(norm), num_steps=8)
    weights = []
    again = convnet(norm)

    class Keep:
        def __call__(self, step, indices, logits):
            if step > 6:
                weights.append({k: v.detach().clone() for k, v in again.named_parameters()})

    used = settings(**{**PLAIN, "num_steps": 8})
    train(again, TRAINING_SET, used, make_generator(1), Keep())
    with torch.no_grad():
        for name, parameter in again.named_parameters():
            parameter.copy_(torch.stack([each[name] for each in weights]).mean(dim=0))
    recalibrate_norms(again, TRAINING_SET, used, make_generator(derive_seed("norm images", 3)))
    assert found["averaged_val_loss"] == pytest.approx(cross_entropy(again, JUDGE), rel=1e-3)
    assert found["averaged_val_loss"] != pytest.approx(found["val_loss"], rel=1e-4)
    right = (says(again, JUDGE).argmax(axis=1) == JUDGE.labels.numpy()).mean()
    assert found["averaged_val_accuracy"] == pytest.approx(right)


def test_averaging_changes_no_other_signal_and_no_weight():
    plain, first = signals_of(evaluation_data(), num_steps=8)
    averaged, second = signals_of(evaluation_data(averages=True), num_steps=8)
    assert plain == {name: averaged[name] for name in plain}
    assert set(averaged) - set(plain) == {"averaged_val_loss", "averaged_val_accuracy"}
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_averaged_weights_of_a_training_that_is_kept_are_refused(tmp_path):
    with pytest.raises(StudyError, match="averaged_val_loss"):
        SignalObserver(
            convnet(), evaluation_data(averages=True), settings(), 6, 0, tmp_path / "kept.json"
        )


def test_what_nobody_asked_for_is_not_measured():
    found, _ = signals_of(evaluation_data())
    assert set(found) == {
        "val_loss", "val_accuracy", "val_loss_mean",
        "train_loss_mean", "train_loss_tail", "train_loss_slope",
    }  # fmt: skip


@pytest.mark.parametrize("split", ["val", "test"])
def test_signals_are_named_after_the_split_that_judges(split):
    found, _ = signals_of(evaluation_data(split=split), checkpoints=(50,))
    other = {"val": "test", "test": "val"}[split]
    for name in ("loss", "accuracy", "loss_mean", "loss@50", "accuracy@50"):
        assert f"{split}_{name}" in found
    assert not [name for name in found if name.startswith(other)]


def test_a_teacher_that_says_the_same_agrees_and_others_by_their_divergence():
    network = convnet()
    own = torch.tensor(says(network, JUDGE), dtype=torch.float32)
    other = torch.rand(9, 3, generator=make_generator(0)).softmax(dim=1)
    sure = torch.eye(3)[JUDGE.labels]  # probabilities of zero count nothing
    found = []
    for teacher in (own, other, sure):
        watch = SignalObserver(
            network,
            evaluation_data(teacher_probabilities=teacher),
            settings(),
            settings().num_steps,
            0,
        )
        found.append(watch.finish(RESULT)[0]["teacher_agreement"])
    expected = [
        -stats.entropy(np.asarray(teacher, dtype=float), says(network, JUDGE), axis=1).mean()
        for teacher in (own, other, sure)
    ]
    assert found == pytest.approx(expected, abs=1e-5)
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found[1] < -0.01


@pytest.mark.parametrize("batch_size", [1, 4, 9])
def test_divergence_does_not_depend_on_the_batches(batch_size):
    network, teacher = convnet(), torch.rand(9, 3, generator=make_generator(0)).softmax(dim=1)
    whole = measure(network, JUDGE, settings(), expected=teacher)
    parts = measure(network, JUDGE, settings(), batch_size, expected=teacher)
    assert parts.divergence == pytest.approx(whole.divergence, rel=1e-5)
    assert measure(network, JUDGE, settings()).divergence is None


# --- checkpoints ------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["running", "recalibrated"])
def test_a_checkpoint_is_the_end_of_a_training_that_stops_there(policy):
    """At a constant rate nothing in a training depends on how long it will last."""
    teacher = torch.rand(9, 3, generator=make_generator(0)).softmax(dim=1)
    asked = evaluation_data(fit_on=TRAINING_SET, teacher_probabilities=teacher)
    found, _ = signals_of(asked, checkpoints=(34, 70), norm_statistics=policy)
    for percentage, num_steps in ((34, 2), (70, 4)):
        expected, _ = signals_of(asked, num_steps=num_steps, norm_statistics=policy)
        at = {
            name.removesuffix(f"@{percentage}"): value
            for name, value in found.items()
            if name.endswith(f"@{percentage}")
        }
        whole_run = {"val_loss_mean", "train_loss_slope"}
        assert at.keys() == expected.keys() - whole_run
        assert at == pytest.approx({name: expected[name] for name in at}, rel=1e-5)


@pytest.mark.parametrize("policy", ["running", "recalibrated"])
def test_checkpoints_change_neither_weights_nor_the_end(policy):
    images = TrainingSet.of(tiny_dataset(images_per_class=200))  # more than norms look at
    asked = evaluation_data(training_set=images, fit_on=some_of(images, 20))
    plain, before = signals_of(asked, norm_statistics=policy)
    found, after = signals_of(asked, norm_statistics=policy, checkpoints=(20, 50, 90))
    for name, value in after.state_dict().items():
        assert torch.equal(value, before.state_dict()[name]), name
    assert {**found, "val_loss_mean": 0} == {**found, **plain, "val_loss_mean": 0}


def test_the_mean_loss_is_that_over_the_checkpoints_and_the_end():
    found, _ = signals_of(evaluation_data(), checkpoints=(20, 50, 90))
    losses = [found[name] for name in ("val_loss@20", "val_loss@50", "val_loss@90", "val_loss")]
    assert found["val_loss_mean"] == pytest.approx(np.mean(losses))
    alone, _ = signals_of(evaluation_data())
    assert alone["val_loss_mean"] == alone["val_loss"]


def test_checkpoints_of_a_training_too_short_for_them_fall_on_one_step():
    found, _ = signals_of(evaluation_data(), num_steps=3, checkpoints=(10, 20, 50, 99))
    assert found["val_loss@10"] == found["val_loss@20"] == found["val_loss@50"]
    assert found["train_loss_mean@20"] == found["train_loss_mean@50"]
    assert found["val_loss@99"] != found["val_loss@10"]


def test_the_policy_of_the_norms_decides_what_they_are_measured_with():
    running, _ = signals_of(evaluation_data())
    found, network = signals_of(evaluation_data(), norm_statistics="recalibrated")
    assert found["train_loss_mean"] == running["train_loss_mean"]
    assert found["val_loss"] != running["val_loss"]
    images = normalise(TRAIN.images, TRAIN.spec)
    norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    seen = []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network.eval()(images)
    assert torch.allclose(norm.running_mean, seen[0].mean((0, 2, 3)), atol=1e-5)


def test_an_evaluation_averages_them_over_seeds():
    used = settings(num_seeds=2, checkpoints=(50,))
    found = evaluator(train_settings=used).evaluate(ARCHITECTURE, 0)
    assert found.complete, found.reason
    for name in ("val_loss@50", "val_loss_mean", "train_loss_slope"):
        values = [signals[name] for signals in found.seed_signals]
        assert values[0] != values[1]
        assert found.signals[name] == pytest.approx(np.mean(values))


# --- what they are measured on ----------------------------------------------------------------


class Shifted:
    """A labeller that says of bright images one thing, of dark ones another."""

    def __call__(self, images):
        bright = images.mean(dim=(1, 2, 3))
        return torch.stack([bright, -bright, 0 * bright], dim=1).softmax(dim=1)


def test_some_training_images_are_always_the_same_and_keep_their_labels():
    first, second = (some_of(TRAINING_SET, 6) for _ in range(2))
    assert torch.equal(first.images, second.images)
    known = {image.numpy().tobytes(): int(label) for image, label in zip(
        TRAIN.images, TRAIN.labels, strict=True)}  # fmt: skip
    for image, label in zip(first.images, first.labels, strict=True):
        assert known[image.numpy().tobytes()] == int(label)
    assert len({image.numpy().tobytes() for image in first.images}) == 6
    assert len(some_of(TRAINING_SET, 1000)) == 15


def test_a_labeller_labels_them_as_they_are():
    found = some_of(replace(TRAINING_SET, labeller=Shifted()), 7)
    assert found.labeller is None
    expected = Shifted()(normalise(found.images, TRAIN.spec))
    assert torch.equal(found.labels, expected)


class FakeTeacher:
    """Says of an image what its brightness tells it."""

    def __init__(self, scale):
        self.scale = scale

    def for_images_of(self, spec):
        assert spec.image_shape == (3, 8, 8)  # at full size
        return self

    def to(self, device):
        return self

    def logits(self, images):
        return self.scale * Shifted()(images)


@pytest.fixture
def make_factory(monkeypatch):
    splits = Splits(TRAIN, JUDGE, JUDGE)
    monkeypatch.setattr(factory_module, "load_splits", lambda data: splits)

    def make(*, image_size=None, **options):
        used = settings(image_size=image_size)
        fixed = {
            "data": DataSettings(name="fake"),
            "space": evaluator().space,
            "scores": {},
            "settings": used,
            "train_on": "search_train",
            "device": "cpu",
            "fidelity": training_fidelity(used, TRAIN.spec, "d", len(TRAIN)),
        }
        return NetworkEvaluatorFactory(**{**fixed, **options})

    return make


@pytest.mark.parametrize("requested", ["fit_loss", "fit_accuracy", "generalisation_gap"])
def test_fit_is_measured_where_a_signal_asks_for_it(make_factory, requested):
    found = make_factory(requested=("val_loss", requested)).build().evaluate(ARCHITECTURE, 0)
    assert requested in found.signals
    assert found.signals["generalisation_gap"] == pytest.approx(
        found.signals["val_loss"] - found.signals["fit_loss"]
    )
    plain = make_factory(requested=("val_loss",)).build().evaluate(ARCHITECTURE, 0)
    assert requested not in plain.signals


@pytest.mark.parametrize("image_size", [None, 5])
def test_teachers_are_asked_about_the_judging_images_at_full_size(
    make_factory, monkeypatch, tmp_path, image_size
):
    files = tuple(tmp_path / name for name in ("a", "b"))
    scales = dict(zip(files, (1.0, 4.0), strict=True))
    monkeypatch.setattr(factory_module, "read_teacher", lambda path: FakeTeacher(scales[path]))
    asked = make_factory(
        requested=("teacher_agreement",), teachers=files, image_size=image_size
    ).build()
    images = normalise(JUDGE.images, JUDGE.spec)
    expected = sum((s * Shifted()(images)).softmax(dim=1) for s in (1.0, 4.0)) / 2
    assert torch.allclose(asked.evaluation_data.teacher_probabilities, expected, atol=1e-6)
    assert asked.evaluate(ARCHITECTURE, 0).signals["teacher_agreement"] < 0
    assert make_factory(teachers=files).build().evaluation_data.teacher_probabilities is None


def test_zero_cost_scores_look_at_distilled_images_where_they_are_asked_to(make_factory, tmp_path):
    proxy_dataset = RandomSubset().distill(
        DistillTask(dataset=TRAIN, images_per_class=2, generator=make_generator(0))
    )
    file = tmp_path / "proxy.safetensors"
    proxy_dataset.save(file)
    images, labels = make_factory(score_on=file).build().score_images
    own = {image.numpy().tobytes(): int(label) for image, label in zip(
        proxy_dataset.images, proxy_dataset.labels, strict=True)}  # fmt: skip
    assert len(images) == 6
    for image, label in zip(images, labels, strict=True):
        assert own[image.numpy().tobytes()] == int(label)
    real, classes = make_factory().build().score_images
    assert len(real) == len(classes) == 15
