"""FRePo and label solve: the regression in its primal form, the pool beside torch's Adam."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nas_proxy.core import checkpoint as checkpoint_module
from nas_proxy.data.transforms import normalise
from nas_proxy.distill.common import network_pool
from nas_proxy.distill.common.inner_training import flatten_parameters
from nas_proxy.distill.common.network_pool import NetworkPool
from nas_proxy.distill.common.pixels import RealImages
from nas_proxy.distill.kernel_ridge import KernelRidge, margin_loss, regression_loss
from nas_proxy.errors import ConfigError, DivergedError
from nas_proxy.interfaces import DistillContext
from nas_proxy.reproducibility import make_generator
from nas_proxy.teachers.label_solve import LabelEquations
from nas_proxy.testing import tiny_dataset
from tests.distill.helpers import NUM_CLASSES, SMALL, Log, distill, small_network
from tests.distill.helpers_patterns import patterned_dataset

LEARNED = DistillContext(labels="learned")
TINY = {**SMALL, "zca": None, "num_networks": 2, "max_online_updates": 3}


def images_and_network():
    """Images, real images and their labels, and a network; all in double precision."""
    dataset = tiny_dataset()
    images = normalise(dataset.images, dataset.spec).double()
    network = small_network().double().requires_grad_(False)
    return images[:6], images[6:], dataset.labels[:6], dataset.labels[6:], network


def primal_loss(network, images, labels, real, target, regularisation):
    """Ridge regression from embeddings to centred labels: weights for each dimension."""
    support = network.embed(images).numpy()
    strength = regularisation * (support**2).sum(axis=1).mean()
    size = support.shape[1]
    rows = np.vstack([support, np.sqrt(strength) * np.eye(size)])
    centred = labels.numpy() - 1 / NUM_CLASSES
    weights = np.linalg.lstsq(rows, np.vstack([centred, np.zeros((size, NUM_CLASSES))]))[0]
    predicted = network.embed(real).numpy() @ weights
    error = predicted - (np.eye(NUM_CLASSES)[target.numpy()] - 1 / NUM_CLASSES)
    return 0.5 * (error**2).sum(axis=1).mean()


@pytest.mark.parametrize("mirror", [False, True])
def test_the_loss_is_that_of_ridge_regression(mirror):
    images, real, labels, target, network = images_and_network()
    distiller = KernelRidge(regularisation=1e-3, mirror=mirror)
    predictor = distiller.predictor(network, images)
    loss = regression_loss(predictor, labels, network.embed(real), target, NUM_CLASSES)
    one_hot = F.one_hot(labels, NUM_CLASSES)
    if mirror:
        images, one_hot = torch.cat([images, images.flip(-1)]), torch.cat([one_hot, one_hot])
    expected = primal_loss(network, images, one_hot, real, target, 1e-3)
    assert float(loss) == pytest.approx(expected, rel=1e-9)


def test_the_gradient_of_images_and_labels_is_that_of_finite_differences():
    images, real, _, target, network = images_and_network()
    embeddings = network.embed(real)
    distiller = KernelRidge(regularisation=1e-3, mirror=True)
    logits = torch.randn(6, NUM_CLASSES, generator=make_generator(0)).double()

    def loss_of(images, logits):
        predictor, labels = distiller.predictor(network, images), logits.softmax(dim=1)
        return regression_loss(predictor, labels, embeddings, target, NUM_CLASSES)

    inputs = (images.requires_grad_(), logits.requires_grad_())
    assert torch.autograd.gradcheck(loss_of, inputs, eps=1e-6, atol=1e-7, fast_mode=True)


def test_mirror_images_are_seen_where_augmentation_flips():
    images, *_, network = images_and_network()
    with_flip = KernelRidge(augment="color_flip").predictor(network, images)
    without = KernelRidge(augment="color_crop").predictor(network, images)
    assert torch.equal(with_flip, KernelRidge(mirror=True).predictor(network, images))
    assert torch.equal(without, KernelRidge(mirror=False).predictor(network, images))
    assert not torch.allclose(with_flip, without)


def test_descending_on_labels_alone_converges_to_the_solved_labels():
    images, real, labels, target, network = images_and_network()
    predictor = KernelRidge(regularisation=0.1, mirror=True).predictor(network, images)
    embeddings = network.embed(real)
    equations = LabelEquations(6, NUM_CLASSES, torch.device("cpu"))
    equations.add(embeddings @ predictor, target)
    solved = equations.solve(0.0)

    learned = F.one_hot(labels, NUM_CLASSES).double().requires_grad_()
    design = embeddings @ predictor
    rate = len(real) / float(torch.linalg.eigvalsh(design.T @ design).max())
    for _ in range(1000):
        loss = regression_loss(predictor, learned, embeddings, target, NUM_CLASSES)
        (gradient,) = torch.autograd.grad(loss, learned)
        learned = (learned - rate * gradient).detach().requires_grad_()
    torch.testing.assert_close(learned.detach(), solved, atol=1e-6, rtol=0)

    at_solution = solved.clone().requires_grad_()
    loss = regression_loss(predictor, at_solution, embeddings, target, NUM_CLASSES)
    (gradient,) = torch.autograd.grad(loss, at_solution)
    assert gradient.abs().max() < 1e-10
    assert float(loss.detach()) == pytest.approx(equations.loss(solved))


def test_a_label_needs_a_lead_of_chance_alone():
    labels = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.3, 0.2], [0.9, 0.1, 0.0]], requires_grad=True)
    loss = margin_loss(labels)
    assert float(loss.detach()) == pytest.approx(-(0 + 0.2 + 1 / 3) / 3)
    loss.backward()
    assert labels.grad[1].tolist() == pytest.approx([-1 / 3, 1 / 3, 0])
    assert labels.grad[2].tolist() == [0, 0, 0]


# The pool


def make_pool(size=3, max_updates=6):
    return NetworkPool(
        lambda seed: small_network(seed % 1000), size=size, max_updates=max_updates,
        learning_rate=0.01,
    )  # fmt: skip


def pool_data():
    images = torch.randn(5, 3, 8, 8, generator=make_generator(0))
    return images, torch.randn(5, NUM_CLASSES, generator=make_generator(1))


def test_a_network_of_the_pool_trains_as_with_torchs_adam():
    images, targets = pool_data()
    pool = make_pool(size=1, max_updates=9)
    pool.fill(0)
    network = small_network()
    network.load_state_dict(pool.network(0).state_dict())
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for seed in range(5):
        loss = 0.5 * (network(images) - targets).square().sum(dim=1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        pool.train(0, images, targets, seed)
    # Not the weights: a bias before a norm has no gradient but rounding, which Adam enlarges.
    others = torch.randn(8, 3, 8, 8, generator=make_generator(2))
    torch.testing.assert_close(pool.network(0)(others), network(others), atol=1e-4, rtol=1e-3)


def test_networks_are_replaced_at_their_age_and_not_all_at_once():
    images, targets = pool_data()
    pool = make_pool(size=3, max_updates=6)
    pool.fill(0)
    replaced = {0: [], 1: [], 2: []}
    for turn in range(1, 21):
        for index in replaced:
            pool.train(index, images, targets, derive(turn, index))
            if int(pool.state()["pool.ages"][index]) == 0:
                replaced[index].append(turn)
    # Six updates and then a fresh one; at first the second has four to live, the third two.
    assert replaced == {0: [7, 14], 1: [5, 12, 19], 2: [3, 10, 17]}


def derive(turn, index):
    return 100 * turn + index


def test_a_fresh_network_is_another_one_without_a_past():
    images, targets = pool_data()
    pool = make_pool(size=1, max_updates=1)
    pool.fill(0)
    first = flatten_parameters(pool.network(0))
    pool.train(0, images, targets, 1)
    pool.train(0, images, targets, 2)
    assert not torch.equal(flatten_parameters(pool.network(0)), first)
    assert not pool.state()["pool.states.0"][1:].any()


def test_a_large_set_is_learned_in_batches(monkeypatch):
    images, targets = pool_data()
    monkeypatch.setattr(network_pool, "_BATCH_SIZE", 2)
    seen = []
    forward = network_pool.forward
    monkeypatch.setattr(
        network_pool, "forward", lambda *given: seen.append(given[2]) or forward(*given)
    )
    pool = make_pool()
    pool.fill(0)
    for seed in range(8):
        pool.train(0, images, targets, seed)
    assert {len(batch) for batch in seen} == {2}
    assert len({float(batch.sum()) for batch in seen}) > 2


def test_a_network_that_diverges_leaves_the_pool_as_it_was():
    images, targets = pool_data()
    pool = make_pool()
    pool.fill(0)
    before = {name: value.clone() for name, value in pool.state().items()}
    with pytest.raises(DivergedError, match="network in the pool"):
        pool.train(1, images * math.inf, targets, 0)
    assert all(torch.equal(before[name], value) for name, value in pool.state().items())


# Distilling


def loss_on_real_images(images, labels):
    """Mean over networks that had no part in distilling, none of them trained."""
    dataset = patterned_dataset()
    real = normalise(dataset.images, dataset.spec)
    losses = []
    for seed in range(100, 110):
        network = small_network(seed).requires_grad_(False)
        predictor = KernelRidge(mirror=False).predictor(network, images)
        embeddings = network.embed(real)
        loss = regression_loss(predictor, labels, embeddings, dataset.labels, NUM_CLASSES)
        losses.append(float(loss))
    return np.mean(losses)


def test_images_get_better_and_their_labels_stay_labels():
    dataset = patterned_dataset()
    distiller = KernelRidge(**TINY, mirror=False, num_steps=40, image_learning_rate=0.03)
    initial, classes = distiller.initialise(dataset, 2, make_generator(0))
    before = loss_on_real_images(initial, classes)
    hard = distill(distiller, dataset=dataset)
    assert loss_on_real_images(hard.images, hard.labels) < 0.85 * before
    learned = distill(distiller, dataset=dataset, labels="learned")
    assert learned.labelling.kind == "learned"
    learned.check_labels()
    assert not torch.equal(learned.labels, F.one_hot(classes, NUM_CLASSES).float())
    assert loss_on_real_images(learned.images, learned.labels) < 0.75 * before


def test_hard_labels_stay_and_images_move():
    distiller = KernelRidge(**TINY, num_steps=3)
    made = distill(distiller)
    initial, labels = distiller.initialise(tiny_dataset(), 2, make_generator(0))
    assert torch.equal(made.labels, labels)
    assert made.labelling.kind == "hard"
    # LAMB: each step moves the images by the learning rate's share of their norm, along a cosine.
    rates = [3e-4 * (0.1 + 0.9 * (1 + math.cos(math.pi * step / 3)) / 2) for step in range(3)]
    moved = float((made.images - initial).norm() / initial.norm())
    assert 0.3 * sum(rates) < moved <= 1.001 * sum(rates)


def test_the_learning_rate_falls_along_a_cosine_to_a_tenth():
    dataset = tiny_dataset()
    distiller = KernelRidge(**TINY, num_steps=4, image_learning_rate=0.01)
    objective = distiller.objective(dataset, RealImages(dataset, 8), DistillContext())
    images, _ = distiller.initialise(dataset, 2, make_generator(0))
    synthetic = distiller.synthetic_images(images, 2, dataset.spec, LEARNED)
    rates = []
    for seed in range(4):
        objective.step(synthetic, seed)
        rates.append([group["lr"] for group in synthetic.optimiser.param_groups])
    cosine = [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    expected = [[0.001 + 0.009 * factor] * 2 for factor in cosine]
    np.testing.assert_allclose(rates, expected)


@pytest.mark.parametrize(
    ("optimise", "num_networks", "max_online_updates", "stops"),
    [("images", 2, 2, (1, 7)), ("labels", 5, 3, (1, 3))],
)
def test_a_kill_changes_nothing_with_learned_labels(
    tmp_path, monkeypatch, optimise, num_networks, max_online_updates, stops
):
    monkeypatch.setattr(
        checkpoint_module.Checkpointer, "save_if_due", checkpoint_module.Checkpointer.save
    )
    distiller = KernelRidge(
        **{**TINY, "num_networks": num_networks, "max_online_updates": max_online_updates},
        optimise=optimise,
        num_steps=14,
        image_learning_rate=0.03,
    )
    undisturbed = distill(distiller, labels="learned")
    checkpoint = tmp_path / "checkpoint"
    for stop_after in stops:
        log = Log(stop_after)
        with pytest.raises(KeyboardInterrupt):
            distill(distiller, labels="learned", checkpoint=checkpoint, progress=log)
    log = Log()
    continued = distill(distiller, labels="learned", checkpoint=checkpoint, progress=log)
    assert log.steps[0][0] == stops[-1] + 1
    assert continued.id == undisturbed.id


def test_label_solve_leaves_real_images_as_they_are():
    log = Log()
    distiller = KernelRidge(**TINY, optimise="labels")
    made = distill(distiller, labels="learned", progress=log)
    assert log.steps == [(1, 2), (2, 2)]  # one for each network
    initial, labels = distiller.initialise(tiny_dataset(), 2, make_generator(0))
    assert torch.equal(made.images, initial)
    assert made.labelling.kind == "learned"
    made.check_labels()
    assert not torch.equal(made.labels, F.one_hot(labels, NUM_CLASSES).float())


def test_solved_labels_predict_real_ones_better_than_the_classes():
    distiller = KernelRidge(**TINY, mirror=False, optimise="labels")
    made = distill(distiller, dataset=patterned_dataset(), labels="learned")
    classes = torch.arange(NUM_CLASSES).repeat_interleave(2)
    solved = loss_on_real_images(made.images, made.labels)
    assert solved < 0.8 * loss_on_real_images(made.images, classes)


def test_multi_formation_solves_a_label_for_each_tile():
    made = distill(KernelRidge(**TINY, optimise="labels", decode_factor=2), labels="learned")
    assert made.labels.shape == (6 * 4, NUM_CLASSES)


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_label_solve_is_refused_where_its_labels_are_not_wanted(labels):
    with pytest.raises(ConfigError, match=rf"asks for {labels} ones; set distill.labels: learned"):
        distill(KernelRidge(**TINY, optimise="labels"), labels=labels)


def test_images_that_explode_end_in_one_sentence():
    distiller = KernelRidge(**TINY, num_steps=5, image_optimiser="sgd", image_learning_rate=1e38)
    with pytest.raises(DivergedError, match="kernel_ridge diverged at step"):
        distill(distiller)


@pytest.mark.parametrize(("per_class", "epochs"), [(3, 1000), (30, 2000), (34, 5000), (400, 5000)])
def test_training_on_more_images_takes_longer(per_class, epochs):
    distiller = KernelRidge()
    spec = tiny_dataset().spec
    images = torch.zeros(per_class * NUM_CLASSES, 3, 8, 8)
    synthetic = distiller.synthetic_images(images, per_class, spec, DistillContext())
    rule = distiller.learning_rate_rule(synthetic)
    assert (rule.optimiser, rule.learning_rate, rule.num_epochs) == ("adam", 3e-4, epochs)
