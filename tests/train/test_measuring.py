"""Precision and layout; loss, accuracy and confusion of a trained network."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.transforms import normalise
from nas_proxy.errors import DivergedError, EvaluationError
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.loop import TrainResult, train
from nas_proxy.train.measuring import Measurement, measure, num_parts
from nas_proxy.train.training_set import TrainingSet
from tests.train.helpers import Recorder, make_settings

# Precision


def test_bfloat16_trains_and_stays_close_to_float32():
    dataset = TrainingSet.of(tiny_dataset())

    def trained(**changes):
        with isolated_rng(0):
            network = ConvNet((3, 8, 8), 3, width=8, depth=2, norm="group")
        told = make_settings(num_steps=15, learning_rate=0.02, **changes)
        return network, train(network, dataset, told, make_generator(0))

    _, exact = trained()
    network, rough = trained(precision="bfloat16")
    assert rough.losses != exact.losses
    assert rough.losses == pytest.approx(exact.losses, rel=0.02)
    assert all(weight.dtype == torch.float32 for weight in network.parameters())
    convolution = network.features[0].weight
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    network, _ = trained(precision="bfloat16", channels_last=False)
    assert network.features[0].weight.is_contiguous()


def test_channels_last_does_not_change_the_numbers():
    dataset = TrainingSet.of(tiny_dataset())

    def losses(channels_last):
        with isolated_rng(0):
            network = ConvNet((3, 8, 8), 3, width=8, depth=2)
        told = make_settings(channels_last=channels_last)
        return train(network, dataset, told, make_generator(0)).losses

    assert losses(True) == pytest.approx(losses(False), rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
@pytest.mark.parametrize("norm", ["none", "batch", "group", "instance", "layer"])
def test_the_layout_follows_precision_and_norm_unless_it_is_said(precision, norm):
    told = make_settings(precision=precision)
    device = torch.device("cpu")
    network = ConvNet((3, 8, 8), 3, width=8, depth=2, norm=norm)
    assert told.uses_bfloat16(device) is (precision == "bfloat16")
    faster = precision == "bfloat16" and norm not in ("instance", "layer")
    assert told.uses_channels_last(network, device) is faster
    for said in (True, False):
        changed = make_settings(precision=precision, channels_last=said)
        assert changed.uses_channels_last(network, device) is said


# Measuring


@pytest.mark.parametrize("batch_size", [1, 5, 24, 500])
def test_measuring_is_the_loss_and_accuracy_in_evaluation_mode(batch_size):
    dataset = tiny_dataset()
    with isolated_rng(0):
        network = ConvNet((3, 8, 8), 3, width=8, depth=2, norm="batch")
    told = make_settings(num_steps=5, augmentation=Augmentation(dsa="color"))
    train(network, TrainingSet.of(dataset), told, make_generator(0))
    assert network.training
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    measured = measure(network, dataset, told, batch_size=batch_size)

    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    pixels = dataset.images.double() / 255
    mean, std = (
        torch.tensor(x).double().view(1, 3, 1, 1) for x in (dataset.spec.mean, dataset.spec.std)
    )
    network.eval()
    with torch.no_grad():
        logits = network(((pixels - mean) / std).float()).double().numpy()
        network.train()
        other = network(((pixels - mean) / std).float()).double().numpy()

    def direct(logits):
        by_image = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(24), dataset.labels]
        return by_image.mean(), (logits.argmax(axis=1) == dataset.labels.numpy()).mean()

    assert (measured.loss, measured.accuracy) == pytest.approx(direct(logits), rel=1e-5)
    # Batch statistics would differ.
    assert measured.loss != pytest.approx(direct(other)[0], rel=1e-3)
    confusion = np.zeros((3, 3), dtype=int)
    for label, answer in zip(dataset.labels.tolist(), logits.argmax(axis=1), strict=True):
        confusion[label, answer] += 1
    assert measured.confusion.tolist() == confusion.tolist()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_measured_loss_that_is_not_finite_is_an_error(value):
    class Broken(nn.Module):
        def forward(self, images):
            return images.new_full((len(images), 3), value)

    with pytest.raises(DivergedError, match="validation loss is not finite"):
        measure(Broken(), tiny_dataset(), make_settings())


def test_summaries_of_the_losses():
    result = TrainResult(tuple(float(step) for step in range(25)), 1.0, 25)
    assert result.loss_mean == 12.0
    assert result.loss_tail == 23.5  # the last tenth, rounded down
    assert TrainResult((3.0, 1.0), 1.0, 2).loss_tail == 1.0


def test_accuracy_is_the_share_on_the_diagonal():
    confusion = torch.tensor([[3, 1, 0], [0, 2, 2], [1, 0, 7]])
    assert Measurement(0.0, confusion).accuracy == 12 / 16


def test_images_that_are_normalised_already_are_measured_as_they_are():
    dataset, told = tiny_dataset(), make_settings()
    network = Recorder(3 * 8 * 8)
    normalised = TrainingSet(normalise(dataset.images, dataset.spec), dataset.labels, dataset.spec)
    first, second = (measure(network, each, told) for each in (dataset, normalised))
    assert first.loss == second.loss
    assert torch.equal(first.confusion, second.confusion)


def test_large_images_go_through_a_network_in_smaller_parts():
    network = Recorder(3 * 8 * 8)
    measure(network, tiny_dataset(images_per_class=200), make_settings())
    assert [len(batch) for batch in network.batches] == [300, 300]
    for size, batch in ((32, 500), (64, 256), (128, 64), (224, 20), (2048, 1)):
        assert num_parts(10 * batch, (3, size, size)) == 10
        assert num_parts(10 * batch + 1, (3, size, size)) == 11


@pytest.mark.parametrize("batch_size", [1, 2, 23, 24])
def test_no_part_is_a_single_image_that_group_norm_would_refuse(batch_size):
    # Three blocks leave one pixel of 8x8; its norm knows no deviation of a single value.
    with isolated_rng(0):
        network = ConvNet((3, 8, 8), 3, width=8, depth=4)
    dataset = tiny_dataset()
    if batch_size == 1:
        with pytest.raises(ValueError, match="more than 1 value"):
            measure(network, dataset, make_settings(), batch_size=1)
        return
    assert int(measure(network, dataset, make_settings(), batch_size).confusion.sum()) == 24


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda logits: (logits, logits), "a tuple"),
        (lambda logits: {"out": logits}, "a dict"),
        (lambda logits: logits[:, :, None], r"\(8, 3, 1\)"),
    ],
)
def test_what_is_no_logits_is_named(answer, said):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(192, 3)

        def forward(self, images):
            return answer(self.inner(images.flatten(1)))

    told = make_settings(num_steps=1, batch_size=8)
    with pytest.raises(EvaluationError, match=f"the network gives {said} instead of logits"):
        train(Odd(), TrainingSet.of(tiny_dataset()), told, make_generator(0))


@pytest.mark.parametrize("num_outputs", [2, 4])
def test_one_output_for_each_class_is_asked_for(num_outputs):
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, num_outputs))
    with pytest.raises(EvaluationError, match=f"gives {num_outputs} outputs for 3 classes"):
        measure(network, tiny_dataset(), make_settings())
