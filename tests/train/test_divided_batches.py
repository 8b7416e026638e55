"""A batch that does not fit into memory is divided: the same update, and it is said once."""

import logging

import pytest
import torch
from torch import nn

from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.testing import tiny_dataset
from nas_proxy.train import loop
from nas_proxy.train.loop import train
from nas_proxy.train.measuring import measure
from nas_proxy.train.objective import CrossEntropy
from nas_proxy.train.training_set import TrainingSet
from tests.helpers.memory import TooLargeGradient, too_large
from tests.train.helpers import make_settings


class Limited(nn.Module):
    """A network whose activations fit for so many images."""

    def __init__(self, most, place="forward", norm="group"):
        super().__init__()
        with isolated_rng(0):
            self.network = ConvNet((3, 8, 8), 3, width=8, depth=2, norm=norm)
        self.most, self.place, self.sizes = most, place, []

    def forward(self, images):
        self.sizes.append(len(images))
        logits = self.network(images)
        if len(images) > self.most:
            if self.place == "forward":
                raise too_large()
            return TooLargeGradient.apply(logits)
        return logits


def trained(most, place="forward", **options):
    network = Limited(most, place)
    training_set = TrainingSet.of(tiny_dataset())
    told = make_settings(batch_size=12, num_steps=4, label_smoothing=0.1)
    result = train(network, training_set, told, make_generator(0), **options)
    return network, result


@pytest.mark.parametrize("place", ["forward", "gradient"])
@pytest.mark.parametrize("most", [6, 3])
def test_the_parts_give_the_update_of_the_whole(most, place):
    whole, expected = trained(12)
    divided, found = trained(most, place)
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    for one, other in zip(whole.parameters(), divided.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert set(divided.sizes[-12 // most :]) == {most}  # tried as a whole once, not at each step
    assert divided.sizes.count(12) == 1


def test_it_is_said_once(caplog):
    loop._say_divided.cache_clear()
    with caplog.at_level(logging.WARNING, "nas_proxy"):
        trained(6)
        trained(6)
    (said,) = caplog.messages
    assert said.startswith("a batch of 12 images does not fit into memory")


def test_an_observer_sees_the_logits_of_the_whole_batch():
    seen = []
    trained(6, observer=lambda step, indices, logits: seen.append((len(indices), len(logits))))
    assert seen == [(12, 12)] * 4


class OverBatch(CrossEntropy):
    """A loss that looks at pairs of images cannot be had from parts."""

    averages_images = False


@pytest.mark.parametrize(("most", "objective"), [(6, OverBatch()), (1, None)])
def test_what_cannot_be_divided_fails_as_before(most, objective):
    with pytest.raises(torch.OutOfMemoryError):
        trained(most, objective=objective)


def test_measuring_takes_smaller_parts():
    dataset = tiny_dataset()
    whole, limited = (Limited(most, norm="batch") for most in (1000, 5))
    expected = measure(whole, dataset, make_settings())
    found = measure(limited, dataset, make_settings())
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert torch.equal(found.confusion, expected.confusion)
    assert max(limited.sizes[-3:]) <= 5
