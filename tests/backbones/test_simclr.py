"""Contrastive learning: the loss against its definition, and that it learns without labels."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nas_proxy.backbones._simclr import SimCLR, nt_xent
from nas_proxy.data.augment import Augmentation
from nas_proxy.networks.convnet import ConvNet
from nas_proxy.reproducibility import isolated_rng, make_generator
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.loop import train
from nas_proxy.train.objective import Batch
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.training_set import TrainingSet


def by_definition(embeddings, temperature):
    """Equation 1 of the paper, pair by pair."""
    z = embeddings.double().numpy()
    num = len(z) // 2

    def sim(a, b):
        return z[a] @ z[b] / (np.linalg.norm(z[a]) * np.linalg.norm(z[b]))

    losses = []
    for i in range(2 * num):
        j = i + num if i < num else i - num
        others = [np.exp(sim(i, k) / temperature) for k in range(2 * num) if k != i]
        losses.append(-np.log(np.exp(sim(i, j) / temperature) / sum(others)))
    return float(np.mean(losses))


@pytest.mark.parametrize("num_images", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_the_loss_is_that_of_the_paper(num_images, temperature):
    embeddings = torch.randn(2 * num_images, 5, generator=make_generator(num_images))
    expected = by_definition(embeddings, temperature)
    assert float(nt_xent(embeddings, temperature)) == pytest.approx(expected, abs=1e-5)


def test_it_is_smallest_where_views_agree_and_images_differ():
    apart = torch.eye(6).repeat(2, 1)
    same = torch.ones(12, 6)
    assert nt_xent(apart, 0.1) < nt_xent(same, 0.1)
    assert float(nt_xent(same, 0.1)) == pytest.approx(np.log(11), abs=1e-5)
    assert nt_xent(apart, 0.1) < nt_xent(torch.cat([torch.eye(6), torch.eye(6).roll(1, 0)]), 0.1)


def batch(images, logits):
    labels = torch.zeros(len(images), dtype=torch.int64)
    return Batch(torch.arange(len(images)), images, labels, logits)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3, 3)])
def test_what_the_head_is_given_is_what_learns(shape):
    given = torch.randn(shape, generator=make_generator(0), requires_grad=True)
    head = nn.Linear(6, 2) if len(shape) == 2 else nn.Conv2d(6, 2, 1)
    with isolated_rng(0):
        objective = SimCLR(head, 6, projection_size=3, temperature=0.5)
    logits = head(given)
    flat = given if len(shape) == 2 else given.mean(dim=(2, 3))
    loss = objective(batch(given, logits))
    torch.testing.assert_close(loss, nt_xent(objective.projection(flat), 0.5))
    loss.backward()
    assert given.grad is not None
    assert head.weight.grad is None
    assert all(weight.grad is not None for weight in objective.parameters())
    objective.close()
    assert not head._forward_pre_hooks


def test_views_of_one_image_are_found_without_labels():
    dataset = tiny_dataset()
    with isolated_rng(0):
        network = ConvNet(dataset.spec.image_shape, 3, width=8, depth=1)
        width = network.classifier.in_features
        objective = SimCLR(network.classifier, width, projection_size=8, temperature=0.2)
    settings = TrainSettings(
        num_steps=40,
        batch_size=12,
        learning_rate=0.02,
        precision="float32",
        augmentation=Augmentation(colour_jitter=0.2),
    )
    views = replace(TrainingSet.of(dataset), views=2)
    before = network.classifier.weight.clone()
    result = train(network, views, settings, make_generator(0), objective=objective)
    assert result.loss_tail < math.log(2 * 12 - 1) / 3  # a third of what guessing gives
    assert torch.equal(network.classifier.weight, before)
