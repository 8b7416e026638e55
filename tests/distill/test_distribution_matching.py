"""DM: its loss and steps recomputed by hand."""

import pytest
import torch

from nas_proxy.data.augment import DSA_STRATEGY
from nas_proxy.distill import distribution_matching
from nas_proxy.distill.common import synthetic
from nas_proxy.distill.common.synthetic import cache_sized_parts
from nas_proxy.distill.distribution_matching import DistributionMatching
from nas_proxy.interfaces import DistillContext
from nas_proxy.reproducibility import make_generator
from nas_proxy.testing import tiny_dataset
from tests.distill.helpers import (
    NUM_CLASSES,
    SMALL,
    Log,
    distill,
    embed_by_hand,
    real_images,
    remember_networks,
    small_network,
    weights_of,
)


def mean_embedding_distance(weights, dataset, images, per_class):
    """The loss, without augmentation, on all real images."""
    total = 0.0
    for label in range(NUM_CLASSES):
        goal = embed_by_hand(weights, real_images(dataset, label)).mean(dim=0)
        mine = images[label * per_class : (label + 1) * per_class]
        total = total + ((goal - embed_by_hand(weights, mine).mean(dim=0)) ** 2).sum()
    return total


def test_the_network_by_hand_is_the_network():
    network, images = small_network(), torch.randn(3, 3, 8, 8, generator=make_generator(0))
    torch.testing.assert_close(embed_by_hand(weights_of(network), images), network.embed(images))


def test_the_matching_network_of_the_field_has_its_published_size():
    dataset = tiny_dataset(num_classes=10, image_shape=(3, 32, 32))
    network = DistributionMatching().network_source(dataset, DistillContext()).draw(0)
    assert sum(weight.numel() for weight in network.parameters()) == 320_010
    assert network.embed(torch.zeros(2, 3, 32, 32)).shape == (2, 128 * 4 * 4)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_each_step_is_descent_on_the_distance_of_mean_embeddings(monkeypatch, momentum):
    networks = remember_networks(monkeypatch)
    dataset, log = tiny_dataset(), Log()
    distiller = DistributionMatching(
        num_steps=3, image_learning_rate=0.7, image_momentum=momentum, augment="", **SMALL
    )
    result = distill(distiller, progress=log)
    images, _ = distiller.initialise(dataset, 2, make_generator(0))
    start, velocity, losses = images.clone(), 0.0, []
    assert len(networks) == 3
    for weights in networks:
        images = images.detach().requires_grad_()
        loss = mean_embedding_distance(weights, dataset, images, 2)
        losses.append(float(loss.detach()))
        velocity = momentum * velocity + torch.autograd.grad(loss, images)[0]
        images = images - 0.7 * velocity
    torch.testing.assert_close(result.images, images.detach(), rtol=1e-4, atol=1e-5)
    assert log.losses == pytest.approx(losses, rel=0.01)
    assert float((result.images - start).abs().max()) > 0.01
    first = networks[0]["features.0.weight"]
    assert not any(torch.equal(first, other["features.0.weight"]) for other in networks[1:])


def test_noise_moves_towards_the_data():
    dataset = tiny_dataset()
    distiller = DistributionMatching(
        num_steps=30, image_learning_rate=1.0, init="noise", augment="", **SMALL
    )
    start, _ = distiller.initialise(dataset, 2, make_generator(0))
    result = distill(distiller)
    probes = [weights_of(small_network(seed)) for seed in range(100, 106)]

    def distance(images):
        return sum(float(mean_embedding_distance(w, dataset, images, 2)) for w in probes)

    assert distance(result.images) < 0.8 * distance(start)


@pytest.mark.parametrize("augment", ["", "color", "crop", "flip", "rotate", DSA_STRATEGY])
@pytest.mark.parametrize("jointly", [False, True])
def test_all_images_of_a_class_match_themselves_under_the_same_change(augment, jointly):
    """Only if real and synthetic batches get equal changes is there nothing left to match."""
    log = Log()
    distiller = DistributionMatching(num_steps=6, augment=augment, augment_jointly=jointly, **SMALL)
    distill(distiller, images_per_class=8, progress=log)
    assert max(log.losses) < 1e-9


def test_changes_made_jointly_are_those_made_one_after_the_other():
    images = torch.randn(2, 3, 8, 8, generator=make_generator(0))
    jointly = DistributionMatching(augment="flip_cutout_flip", augment_jointly=True)
    changed, same = jointly.augmented_pair(images, images, 5)
    assert torch.equal(changed, same)
    erased = (changed == 0).all(dim=1)
    assert 0 < erased[0].sum() <= 16  # cutout is always among them
    alone = DistributionMatching(augment="flip_cutout_flip")
    kinds = {bool((alone.augmented_pair(images, images, seed)[0] == 0).any()) for seed in range(20)}
    assert kinds == {True, False}  # drawn, it is among them now and then


def test_parts_hold_every_image_once_and_are_of_nearly_equal_length(monkeypatch):
    network = small_network()
    images = torch.randn(23, 3, 8, 8, generator=make_generator(0))
    assert len(cache_sized_parts(network, images)) == 1
    monkeypatch.setattr(synthetic, "_CACHED_VALUES", 5 * 4 * 8 * 8)  # five images of width 4
    found = cache_sized_parts(network, images)
    assert torch.equal(torch.cat(found), images)
    assert sorted(len(part) for part in found) == [4, 4, 5, 5, 5]
    monkeypatch.setattr(synthetic, "_CACHED_VALUES", 1)  # not even one image fits
    assert len(cache_sized_parts(network, images)) == 23


def test_the_mean_embedding_of_the_parts_is_that_of_the_whole(monkeypatch):
    network, generator = small_network(), make_generator(0)
    images = torch.randn(23, 3, 8, 8, generator=generator)
    whole = network.embed(images).mean(dim=0)
    monkeypatch.setattr(synthetic, "_CACHED_VALUES", 5 * 4 * 8 * 8)
    (in_parts,) = distribution_matching._mean_embeddings(network, [images])
    torch.testing.assert_close(in_parts, whole.detach())


def test_the_defaults_are_the_published_settings():
    method = DistributionMatching()
    assert (method.num_steps, method.image_learning_rate) == (20_000, 1.0)
    assert (method.init, method.augment, method.augment_jointly) == ("real", DSA_STRATEGY, False)
    assert (method.image_optimiser, method.image_momentum) == ("sgd", 0.5)
    assert (method.real_batch_size, method.network_width) == (256, 128)
    assert (method.decode_factor, method.zca) == (1, None)
