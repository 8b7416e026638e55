"""LAMB against its formula, written with numpy."""

import numpy as np
import pytest
import torch

from nas_proxy.distill.common._lamb import Lamb
from nas_proxy.reproducibility import make_generator

RATE, BETA1, BETA2, EPSILON = 0.03, 0.9, 0.999, 1e-6


def by_the_formula(start, gradients):
    """Algorithm 2 of You et al. with bias correction and without weight decay."""
    value, mean, square = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for number, gradient in enumerate(gradients, start=1):
        mean = BETA1 * mean + (1 - BETA1) * gradient
        square = BETA2 * square + (1 - BETA2) * gradient**2
        root = np.sqrt(square / (1 - BETA2**number))
        direction = mean / (1 - BETA1**number) / (root + EPSILON)
        trust = np.linalg.norm(value) / np.linalg.norm(direction)
        value = value - RATE * trust * direction
    return value


def test_each_tensor_follows_the_formula():
    generator = make_generator(0)
    shapes = [(4, 3), (7,)]
    tensors = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    gradients = [[torch.randn(*shape, generator=generator).double() for shape in shapes]
                 for _ in range(5)]  # fmt: skip
    parameters = [tensor.clone().requires_grad_() for tensor in tensors]
    optimiser = Lamb([{"params": [parameter]} for parameter in parameters], lr=RATE)
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimiser.step()
    for index, (parameter, start) in enumerate(zip(parameters, tensors, strict=True)):
        expected = by_the_formula(start.numpy(), [step[index].numpy() for step in gradients])
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_a_step_is_as_long_as_its_share_of_the_norm(size):
    """Whatever the scale of the tensor and of the gradient."""
    parameter = torch.full((6,), size, requires_grad=True)
    parameter.grad = torch.linspace(-1e3, 1e3, 6)
    before = parameter.detach().clone()
    Lamb([parameter], lr=RATE).step()
    length = (parameter.detach() - before).norm() / before.norm()
    assert float(length) == pytest.approx(RATE, rel=1e-4)


def test_a_tensor_of_zeros_can_leave_zero():
    parameter = torch.zeros(4, requires_grad=True)
    parameter.grad = torch.tensor([1.0, -1.0, 2.0, 0.0])
    Lamb([parameter], lr=RATE).step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([-RATE, RATE, -RATE, 0.0]))


def test_no_gradient_is_no_step():
    still, unmoved = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    still.grad = torch.zeros(3)
    Lamb([still, unmoved], lr=RATE).step()
    assert torch.equal(still.detach(), torch.ones(3))
    assert torch.equal(unmoved.detach(), torch.ones(3))


def test_groups_have_rates_of_their_own():
    first, second = (torch.ones(3, requires_grad=True) for _ in range(2))
    optimiser = Lamb([{"params": [first]}, {"params": [second], "lr": 2 * RATE}], lr=RATE)
    for parameter in (first, second):
        parameter.grad = torch.ones(3)
    optimiser.step()
    torch.testing.assert_close(1 - second.detach(), 2 * (1 - first.detach()))
