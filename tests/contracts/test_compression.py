"""Networks of every space and of the catalogue become smaller, or one sentence says why not."""

import pytest
import torch

from nas_proxy.compress._pruning import num_parameters, prune_channels, prune_weights
from nas_proxy.compress._quantisation import finish_training, prepare_training
from nas_proxy.errors import CompressionError
from nas_proxy.networks.catalogue import NETWORKS, NetworkSettings, build_network
from nas_proxy.registry import SEARCH_SPACES
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.scores.layers import weighted_layers
from nas_proxy.testing import tiny_dataset

# Options that make the networks of a built-in space cheap; others are sampled as they are.
SMALL_OPTIONS = {
    "convnet": {"widths": (8,)},
    "nasbench201": {"num_cells": 1, "channels": 4},
}
SAMPLES_PER_SPACE = 4  # the first of them in the default run
# ShuffleNets shuffle channels by reshaping, which pruning cannot follow; two draws are such ones.
REFUSED = {"shufflenet_v2", "torchvision_backbones-1", "torchvision_backbones-3"}


def spec():
    return tiny_dataset().spec


def images():
    shape = spec().image_shape
    return torch.randn(4, *shape, generator=make_generator(0))


def of_space(name, seed):
    space = SEARCH_SPACES.get(name)(**SMALL_OPTIONS.get(name, {}))
    with isolated_rng(seed):
        return space.build(space.sample(make_generator(seed)), spec())


def of_catalogue(name):
    width = 8 if NETWORKS[name].width else None
    with isolated_rng(0):
        return build_network(NetworkSettings(name=name, width=width), spec())


def settled(network):
    """With norms that have seen images: at 0 and 1 they would not be there at all."""
    network.train()
    with isolated_rng(0), torch.no_grad():
        network(images())
    return network.eval()


def cases(*typical):
    """Samples of each space, and the networks of the catalogue; those not named are exhaustive."""
    marks = [pytest.mark.exhaustive]
    samples = [
        pytest.param(
            lambda n=name, s=seed: of_space(n, s), id=f"{name}-{seed}", marks=marks if seed else []
        )
        for name in SEARCH_SPACES.names()
        for seed in range(SAMPLES_PER_SPACE)
    ]
    return samples + [
        pytest.param(
            lambda n=name: of_catalogue(n), id=name, marks=[] if name in typical else marks
        )
        for name in NETWORKS
    ]


@pytest.mark.parametrize("make", cases(*NETWORKS))
def test_channels_are_taken_out_and_the_network_trains_on(make, request) -> None:
    network = settled(make())
    before = num_parameters(network)
    if request.node.callspec.id in REFUSED:
        with pytest.raises(CompressionError) as raised:
            prune_channels(network, 0.5, images())
        assert "\n" not in str(raised.value)
        return
    prune_channels(network, 0.5, images())
    assert num_parameters(network) < before
    network.train()
    logits = network(images())
    assert logits.shape == (4, spec().num_classes)
    logits.square().sum().backward()


@pytest.mark.parametrize("make", cases("convnet"))
def test_weights_become_zero_and_int8(make) -> None:
    network = settled(make())
    prune_weights(network, 0.5)
    weights = torch.cat([layer.weight.flatten() for layer in weighted_layers(network)])
    assert float((weights == 0).double().mean()) == pytest.approx(0.5, abs=0.01)
    expected = network(images())
    training = prepare_training(network, [images()])
    training(images()).square().sum().backward()
    graded = [parameter for parameter in training.parameters() if parameter.ndim > 1]
    assert all(parameter.grad is not None for parameter in graded)
    quantised = finish_training(training)
    assert any(value.dtype == torch.int8 for value in quantised.state_dict().values())
    with torch.no_grad():
        difference = float((quantised(images()) - expected).abs().max())
    assert difference < 0.5 * max(0.1, float(expected.detach().abs().max()))
