"""Differentiable training: one step, and each gradient of many steps by other routes."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parameters_to_vector

from nas_proxy.data.augment import DSA_STRATEGY, siamese_augment
from nas_proxy.distill.common.inner_training import (
    InnerTraining,
    flatten_parameters,
    forward,
    sgd_step,
    unflatten_parameters,
)
from nas_proxy.distill.trajectory_matching.distiller import index_batches
from nas_proxy.reproducibility import make_generator
from tests.distill.helpers import NUM_CLASSES, small_network

# One step of training as a function


def test_the_functional_network_is_the_network():
    network, other = small_network(0), small_network(1)
    images = torch.randn(5, 3, 8, 8, generator=make_generator(0))
    vector = flatten_parameters(network)
    assert not vector.requires_grad
    torch.testing.assert_close(forward(other, vector, images), network(images))
    named = unflatten_parameters(other, vector)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(named[name], parameter.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("soft", [False, True])
def test_a_step_is_that_of_the_optimiser(soft):
    network = small_network()
    images = torch.randn(5, 3, 8, 8, generator=make_generator(0))
    labels = torch.tensor([0, 1, 2, 1, 0])
    if soft:
        labels = torch.rand(5, 3, generator=make_generator(1)).softmax(dim=1)
    vector = flatten_parameters(network)
    found = sgd_step(network, vector, images, labels, learning_rate=0.3, create_graph=False)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.3)
    F.cross_entropy(network(images), labels).backward()
    optimiser.step()
    torch.testing.assert_close(found, parameters_to_vector(network.parameters()))
    torch.testing.assert_close(vector, flatten_parameters(small_network()), rtol=0, atol=0)


# The gradients


def problem(num_steps, learning_rate=0.05, augment=DSA_STRATEGY, batch_size=4):
    """Student steps in double precision that depend on images, labels and learning rate."""
    generator = make_generator(3)

    def noise(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    network = small_network().double()
    images = noise(6, 3, 8, 8).requires_grad_()
    logits = noise(6, NUM_CLASSES).requires_grad_()
    rate = torch.tensor(learning_rate, dtype=torch.float64, requires_grad=True)
    start = flatten_parameters(network)
    goal = start + 0.05 * noise(len(start))
    batches = index_batches(6, batch_size, num_steps, make_generator(4))

    def batch(step):
        chosen = images[batches[step]]
        augmented = siamese_augment(chosen, augment, make_generator(step), shared=False)
        return augmented, logits[batches[step]].softmax(dim=1)

    def loss_of(end):
        return (end - goal).square().sum() / (start - goal).square().sum()

    training = InnerTraining(
        network=network,
        start=start,
        learning_rate=rate,
        num_steps=num_steps,
        batch=batch,
        inputs=[images, logits, rate],
    )
    return training, loss_of


def relative_errors(found, expected):
    return [
        float((one - other).norm() / other.norm())
        for one, other in zip(found, expected, strict=True)
    ]


def test_the_gradient_is_that_of_finite_differences():
    """Of images, labels and learning rate; steps are taken by torch's own optimiser."""
    training, loss_of = problem(num_steps=3, learning_rate=0.2)
    loss, gradients = training.unrolled(loss_of)
    images, logits, rate = training.inputs

    def loss_by_hand():
        network = small_network().double()
        optimiser = torch.optim.SGD(network.parameters(), lr=float(rate.detach()))
        for step in range(3):
            batch, labels = training.batch(step)
            optimiser.zero_grad()
            F.cross_entropy(network(batch.detach()), labels.detach()).backward()
            optimiser.step()
        return float(loss_of(parameters_to_vector(network.parameters())).detach())

    assert float(loss) == pytest.approx(loss_by_hand(), rel=1e-12)
    for tensor, gradient in zip(training.inputs, gradients, strict=True):
        values = tensor.detach().view(-1)  # shares memory with what `batch` reads
        largest = gradient.flatten().abs().argsort(descending=True)[:2].tolist()
        for position in {*largest, 0, len(values) - 1}:
            kept, slopes = float(values[position]), []
            for nudge in (1e-6, -1e-6):
                values[position] = kept + nudge
                slopes.append(loss_by_hand())
            values[position] = kept
            slope = (slopes[0] - slopes[1]) / 2e-6
            assert float(gradient.flatten()[position]) == pytest.approx(slope, rel=1e-4, abs=1e-8)
    assert images.grad is None
    assert logits.grad is None


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("augment", ["", DSA_STRATEGY])
def test_recomputing_equals_unrolling_to_rounding(num_steps, augment):
    training, loss_of = problem(num_steps, learning_rate=0.3, augment=augment)
    loss, exact = training.unrolled(loss_of)
    again, recomputed = training.recomputed(loss_of)
    # Each adds up the squared distances of all parameters, in an order that a library chooses.
    rounding = len(training.start) * torch.finfo(torch.float64).eps
    assert float(again.detach()) == pytest.approx(float(loss.detach()), rel=rounding, abs=0)
    assert max(relative_errors(recomputed, exact)) < num_steps * rounding  # each step adds up anew


def published_formula(training, loss_of, goal):
    """TESLA's equation 6 as its authors compute it, from the gradients at constant parameters."""
    images, logits, rate = training.inputs
    path, sums = [training.start], torch.zeros_like(training.start)
    for step in range(training.num_steps):
        weights = path[-1].detach().requires_grad_()
        batch, labels = training.batch(step)
        loss = F.cross_entropy(forward(training.network, weights, batch), labels)
        gradient = torch.autograd.grad(loss, weights)[0]
        sums = sums + gradient
        path.append((weights - rate * gradient).detach())
    way = (training.start - goal).square().sum()
    beta = rate.detach()
    factor = 2 * (beta * (goal - training.start) + beta**2 * sums) / way
    totals = [torch.zeros_like(images), torch.zeros_like(logits)]
    for step in range(training.num_steps):
        weights = path[step].detach().requires_grad_()
        batch, labels = training.batch(step)
        loss = F.cross_entropy(forward(training.network, weights, batch), labels)
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
        parts = torch.autograd.grad(factor @ gradient, [images, logits])
        totals = [total + part for total, part in zip(totals, parts, strict=True)]
    distance = (training.start - rate * sums - goal).square().sum() / way
    return [*totals, torch.autograd.grad(distance, rate)[0]]


@pytest.mark.parametrize("num_steps", [1, 3])
def test_first_order_is_the_published_formula_of_tesla(num_steps):
    training, loss_of = problem(num_steps, learning_rate=0.3)
    goal = loss_of.__closure__[0].cell_contents
    assert goal.shape == training.start.shape
    _, found = training.first_order(loss_of)
    expected = published_formula(training, loss_of, goal)
    assert max(relative_errors(found, expected)) < 1e-12


def test_first_order_is_exact_for_one_step_and_for_what_enters_the_last():
    training, loss_of = problem(1, learning_rate=0.3)
    errors = relative_errors(training.first_order(loss_of)[1], training.unrolled(loss_of)[1])
    assert max(errors) < 1e-14
    # Two steps on three images each: the later three are exact, the earlier ones are not.
    training, loss_of = problem(2, learning_rate=0.3, augment="", batch_size=3)
    approximate, exact = training.first_order(loss_of)[1], training.unrolled(loss_of)[1]
    first, last = index_batches(6, 3, 2, make_generator(4))
    for which in range(2):  # images, labels
        found, right = approximate[which], exact[which]
        assert max(relative_errors([found[last]], [right[last]])) < 1e-13
        assert max(relative_errors([found[first]], [right[first]])) > 1e-3


def test_the_error_of_first_order_falls_in_proportion_to_the_learning_rate():
    errors = []
    for learning_rate in (1e-2, 1e-3, 1e-4):
        training, loss_of = problem(4, learning_rate=learning_rate)
        pair = training.first_order(loss_of)[1], training.unrolled(loss_of)[1]
        errors.append(relative_errors(*pair)[:2])
    for larger, smaller in zip(errors, errors[1:], strict=False):
        for one, other in zip(larger, smaller, strict=True):
            assert 7 < one / other < 13
    assert min(errors[0]) > 1e-3


def peak_of_saved_tensors(run):
    """The most bytes of intermediate results that are alive at once."""
    alive, peak = {}, [0]

    def pack(tensor):
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key not in alive:
            alive[key] = storage.nbytes()
            peak[0] = max(peak[0], sum(alive.values()))
        held = Held(tensor)
        weakref.finalize(held, alive.pop, key, None)
        return held

    class Held:
        def __init__(self, tensor):
            self.tensor = tensor

    with saved_tensors_hooks(pack, lambda held: held.tensor):
        run()
    return peak[0]


def test_recomputing_needs_the_memory_of_one_step():
    peaks = {}
    for name in ("unrolled", "recomputed", "first_order"):
        for num_steps in (2, 12):
            training, loss_of = problem(num_steps, augment="")
            method = getattr(training, name)
            peaks[name, num_steps] = peak_of_saved_tensors(lambda m=method, of=loss_of: m(of))
    assert peaks["unrolled", 12] > 4 * peaks["unrolled", 2]
    assert peaks["recomputed", 12] < 1.2 * peaks["recomputed", 2]
    assert peaks["first_order", 12] < 1.2 * peaks["first_order", 2]
    assert peaks["recomputed", 12] < 0.2 * peaks["unrolled", 12]


# The batches


def test_every_image_is_used_once_before_any_is_used_again():
    for num_images, size, num_batches in ((6, 4, 5), (6, 6, 3), (7, 2, 10)):
        batches = index_batches(num_images, size, num_batches, make_generator(0))
        assert [len(batch) for batch in batches] == [size] * num_batches
        stream = torch.cat(batches).tolist()
        for start in range(0, len(stream), num_images):
            part = stream[start : start + num_images]
            assert len(set(part)) == len(part)
    whole = index_batches(6, None, 3, make_generator(0))
    assert [sorted(batch.tolist()) for batch in whole] == [list(range(6))] * 3
    assert [len(batch) for batch in index_batches(6, 1000, 2, make_generator(0))] == [6, 6]
