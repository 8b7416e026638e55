import copy

import pytest
import torch
from torch import nn

from nas_proxy.compress._pruning import holding_zeros, num_parameters, prune_channels, prune_weights
from nas_proxy.errors import CompressionError
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.scores.flops import Flops
from nas_proxy.train.loop import train
from nas_proxy.train.settings import TrainSettings
from tests.compress.helpers import Chain, batches, trained, training_set


@pytest.mark.parametrize("seed", range(4))
def test_taking_weak_channels_out_is_setting_them_to_zero(seed: int) -> None:
    network, images = Chain(seed), batches()[0]
    generator = make_generator(seed)
    zeroed = copy.deepcopy(network)
    for at, num in ((0, 8), (2, 6)):
        weak = torch.randperm(num, generator=generator)[: num // 2]
        for chain, factor in ((network, 1e-3), (zeroed, 0.0)):
            with torch.no_grad():
                chain[at].weight[weak] *= factor
                chain[at].bias[weak] *= factor
                # Importance is of the group: what reads a channel counts with what makes it.
                following = chain[2].weight[:, weak] if at == 0 else None
                if following is not None:
                    chain[2].weight[:, weak] = following * 1e-3
                else:
                    chain[6].weight.view(10, 6, 4)[:, weak] *= 1e-3
    prune_channels(network, 0.5, images[:2])
    assert (network[0].out_channels, network[2].out_channels) == (4, 3)
    assert network[6].in_features == 12
    with torch.no_grad():
        torch.testing.assert_close(network(images), zeroed(images))


def test_a_pruned_network_has_fewer_parameters_and_operations_and_as_many_logits() -> None:
    network, images = trained(), batches()[0]
    parameters, flops = num_parameters(network), Flops().measure(network, images)
    prune_channels(network, 0.5, images[:2])
    assert num_parameters(network) < 0.4 * parameters
    assert Flops().measure(network, images) < 0.4 * flops
    assert network(images).shape == (len(images), 10)


@pytest.mark.parametrize("classifier", [nn.Linear(8, 10), nn.Conv2d(8, 10, 1)])
def test_logits_keep_their_number_whatever_gives_them(classifier: nn.Module) -> None:
    pooled = [nn.AdaptiveAvgPool2d(1)]
    head = [classifier, nn.Flatten()] if isinstance(classifier, nn.Conv2d) else [nn.Flatten()]
    if isinstance(classifier, nn.Linear):
        head.append(classifier)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), *pooled, *head)
    prune_channels(network, 0.5, batches()[0][:2])
    assert network[0].out_channels == 4
    assert network(batches()[0]).shape == (64, 10)


class Joined(nn.Module):
    """Residual sum, concatenation, grouped and depthwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.GroupNorm(4, 8)
        self.side = nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(12, 10)

    def forward(self, images):
        features = torch.relu(self.stem(images))
        features = features + self.norm(self.depthwise(self.grouped(features)))
        features = torch.cat([features, self.side(features)], dim=1)
        return self.head(features.mean(dim=(2, 3)))


def test_channels_are_followed_through_sums_concatenations_and_groups() -> None:
    with isolated_rng(0):
        network = Joined()
    prune_channels(network, 0.5, batches()[0][:2])
    assert network.stem.out_channels == 4
    assert network.depthwise.groups == 4
    assert (network.grouped.groups, network.grouped.in_channels) == (2, 4)
    assert (network.norm.num_groups, network.norm.num_channels) == (4, 4)
    assert network.head.in_features == 6
    network(batches()[0]).sum().backward()


def test_one_call_leaves_nothing_behind_for_the_next() -> None:
    images = batches()[0][:2]
    prune_channels(Joined(), 0.5, images)
    first, second = trained(), trained()
    prune_channels(first, 0.5, images)
    prune_channels(Joined(), 0.5, images)
    prune_channels(second, 0.5, images)
    assert torch.equal(first(batches()[0]), second(batches()[0]))


def test_global_pruning_keeps_the_largest_weights_of_all_layers() -> None:
    network = Chain()
    before = copy.deepcopy(network)
    prune_weights(network, 0.7)
    layers = [0, 2, 6]
    old = torch.cat([before[at].weight.flatten() for at in layers])
    new = torch.cat([network[at].weight.flatten() for at in layers])
    kept = old.abs().topk(len(old) - round(0.7 * len(old))).indices
    expected = torch.zeros_like(old).index_copy(0, kept, old[kept])
    assert torch.equal(new, expected)
    assert [name for name, _ in network.named_parameters()] == [
        name for name, _ in before.named_parameters()
    ]


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_zeros_stay_through_fine_tuning_and_only_inside_the_block(optimiser: str) -> None:
    network = trained()
    prune_weights(network, 0.8)
    weights = {name: p for name, p in network.named_parameters() if p.ndim > 1}
    zeros = {name: weight == 0 for name, weight in weights.items()}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    settings = TrainSettings(
        num_steps=5, batch_size=32, learning_rate=0.01, weight_decay=0.1, optimiser=optimiser
    )
    with holding_zeros(network):
        train(network, training_set(), settings, make_generator(0))
    for name, weight in weights.items():
        assert bool((weight[zeros[name]] == 0).all())
        assert not torch.equal(weight, before[name])
    train(network, training_set(), settings, make_generator(0))
    assert any(bool((weight[zeros[name]] != 0).any()) for name, weight in weights.items())


def test_what_cannot_be_pruned_is_said() -> None:
    images = batches()[0][:2]
    only_logits = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(CompressionError, match="finds no channel to take out at channel_amount"):
        prune_channels(only_logits, 0.5, images)
    with pytest.raises(CompressionError, match="needs a convolution or a linear layer"):
        prune_weights(nn.Sequential(nn.Flatten(), nn.ReLU()), 0.5)
    with pytest.raises(CompressionError, match="channel_amount 0.99: layers of which that would"):
        prune_channels(Chain(), 0.99, images)


class FixedWidth(nn.Module):
    """It knows a width that pruning does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 1), nn.Linear(8, 10)

    def forward(self, images):
        pooled = self.first(images).mean(dim=(2, 3))
        return self.second(pooled.reshape(-1, 2, 4).flatten(1))


def test_a_network_that_does_not_run_afterwards_is_refused() -> None:
    with pytest.raises(CompressionError, match="structured_pruning cannot follow the channels"):
        prune_channels(FixedWidth(), 0.7, batches()[0][:2])
