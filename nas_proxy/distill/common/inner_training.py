"""Training that can be differentiated: gradient descent, or Adam, on one vector of parameters.

Methods that look through the training of a network (trajectory matching, meta-learning) share
these steps. A network lends its structure alone; its own parameters are neither read nor changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

EndLoss = Callable[[Tensor], Tensor]
InnerOptimiser = Literal["sgd", "adam"]

_ADAM_DECAYS = (0.9, 0.999)
_ADAM_EPSILON = 1e-8


def flatten_parameters(network: nn.Module) -> Tensor:
    """A copy of all parameters in the order of `network.parameters()`, `(p,)`, without gradient."""
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def unflatten_parameters(network: nn.Module, vector: Tensor) -> dict[str, Tensor]:
    """The parameters of `network` by name, as views of `vector`, `(p,)`; gradients flow to it."""
    named = dict(network.named_parameters())
    parts = vector.split([parameter.numel() for parameter in named.values()])
    return {
        name: part.view(parameter.shape)
        for (name, parameter), part in zip(named.items(), parts, strict=True)
    }


def forward(network: nn.Module, vector: Tensor, images: Tensor) -> Tensor:
    """Logits of `network` with the parameters `vector`, `(n, num_classes)`.

    Args:
        network: Without buffers that change while it runs, such as those of batch norm.
        vector: `(p,)`, in the order of `flatten_parameters`.
        images: Normalised, `(n, c, h, w)`.
    """
    logits: Tensor = functional_call(network, unflatten_parameters(network, vector), (images,))
    return logits


def sgd_step(
    network: nn.Module,
    vector: Tensor,
    images: Tensor,
    labels: Tensor,
    *,
    learning_rate: Tensor | float,
    create_graph: bool,
) -> Tensor:
    """The parameters after one step of gradient descent on the cross-entropy, `(p,)`.

    Args:
        network: As in `forward`.
        vector: The parameters before, `(p,)`; need not have gradients.
        images: Normalised, `(n, c, h, w)`.
        labels: int64 `(n,)`, or probabilities `(n, num_classes)`.
        learning_rate: A scalar.
        create_graph: Whether gradients flow from the result to everything that it came from:
            parameters, images, labels and learning rate. Otherwise the gradient of the loss is a
            constant, and they flow to `vector` and `learning_rate` alone.
    """
    gradient = loss_gradient(network, vector, images, labels, create_graph=create_graph)
    return vector - learning_rate * gradient


def loss_gradient(
    network: nn.Module, vector: Tensor, images: Tensor, labels: Tensor, *, create_graph: bool
) -> Tensor:
    """The gradient of the cross-entropy at the parameters `vector`, `(p,)`; see `sgd_step`."""
    start = vector if vector.requires_grad else vector.detach().requires_grad_()
    loss = F.cross_entropy(forward(network, start, images), labels)
    (gradient,) = torch.autograd.grad(loss, start, create_graph=create_graph)
    return gradient


def initial_adam_state(vector: Tensor) -> Tensor:
    """What Adam carries from step to step, `(3, p)`: parameters, and both means, which are zero."""
    return torch.stack([vector, torch.zeros_like(vector), torch.zeros_like(vector)])


def adam_update(
    state: Tensor, gradient: Tensor, *, num_steps: int, learning_rate: Tensor | float
) -> Tensor:
    """Adam's next state, `(3, p)`; gradients flow to all that it comes from.

    The root of a mean square that is zero, as for a unit that was never active, would have an
    infinite derivative: it is held constant.

    Args:
        state: Parameters, running mean of the gradient, and of its square.
        gradient: At these parameters, `(p,)`.
        num_steps: How many steps there are with this one, at least 1.
        learning_rate: A scalar.
    """
    vector, mean, square = state.unbind()
    beta1, beta2 = _ADAM_DECAYS
    mean = beta1 * mean + (1 - beta1) * gradient
    square = beta2 * square + (1 - beta2) * gradient.square()
    moved = square > 0
    root = torch.where(moved, torch.where(moved, square, 1.0).sqrt(), 0.0)
    direction = mean / (1 - beta1**num_steps)
    scale = root / (1 - beta2**num_steps) ** 0.5 + _ADAM_EPSILON
    return torch.stack([vector - learning_rate * direction / scale, mean, square])


@dataclass(frozen=True, eq=False, kw_only=True)
class InnerTraining:
    """Some steps of gradient descent whose end is differentiated to what the network learns from.

    With `theta_(i+1) = theta_i - beta * g_i` and `g_i` the gradient of the cross-entropy of batch i
    at `theta_i`, the end depends on an input X of the batches in two ways: through the step that
    uses X, and through all later steps, which start elsewhere then. For a loss L of the end,

        dL/dX = sum over i of (d theta_(i+1) / dX at fixed theta_i) applied to a_(i+1),
        a_N = dL/d theta_N,    a_i = (I - beta * H_i) a_(i+1),

    where `H_i` is the Hessian of the cross-entropy. `unrolled` and `recomputed` are this sum, and
    equal to rounding; `first_order` leaves `H_i` out.

    Attributes:
        network: As in `forward`.
        start: The first parameters, `(p,)`; with Adam the first state, `(3, p)`, which then stands
            for theta above.
        learning_rate: A scalar; may be one of the inputs.
        num_steps: How many steps.
        batch: From the number of a step to its images and labels as in `sgd_step`. The same number
            gives the same values each time.
        inputs: Leaves with gradients, from which `batch` and `learning_rate` come.
        optimiser: `sgd` is plain gradient descent.
        first_step: The number of the first step: how many came before `start`.
    """

    network: nn.Module
    start: Tensor
    learning_rate: Tensor
    num_steps: int
    batch: Callable[[int], tuple[Tensor, Tensor]]
    inputs: Sequence[Tensor]
    optimiser: InnerOptimiser = "sgd"
    first_step: int = 0

    def end(self) -> Tensor:
        """What `start` becomes after all steps, without gradients."""
        state = self.start
        for step in self._numbers():
            state = self._step(state, step, create_graph=False).detach()
        return state

    def unrolled(self, loss_of: EndLoss) -> tuple[Tensor, list[Tensor]]:
        """Back-propagation through all steps at once; memory grows with their number.

        Args:
            loss_of: From the last parameters, `(p,)`, to a scalar.

        Returns:
            The loss, and its gradient for each of `inputs`.
        """
        end = self.start
        for step in self._numbers():
            end = self._step(end, step, create_graph=True)
        loss = loss_of(self._parameters(end))
        return loss.detach(), list(torch.autograd.grad(loss, self.inputs))

    def recomputed(self, loss_of: EndLoss) -> tuple[Tensor, list[Tensor]]:
        """The same gradient with the graph of one step at a time, each computed a second time.

        Between the two passes only the parameters at each step are kept, p numbers for a step.
        """
        return self._backwards(loss_of, through_parameters=True)

    def first_order(self, loss_of: EndLoss) -> tuple[Tensor, list[Tensor]]:
        """As `recomputed`, but with the parameters of each step held constant: `H_i` is left out.

        This is TESLA's published gradient (Cui et al., ICML 2023, equation 6). It is exact for a
        single step and for what enters the last step alone; otherwise its relative error is of the
        order of `beta * N * |H|`. Measured for the images of trajectory matching (CIFAR-10, one
        image per class, `beta = 0.01`, ConvNet of width 16): .2 to .5 of the gradient's length for
        N = 10 (cosine .99 to .90), .5 to .8 for N = 30 (cosine .90 to .78); the larger ones are
        those of images that have been distilled for a while.
        """
        return self._backwards(loss_of, through_parameters=False)

    def _backwards(
        self, loss_of: EndLoss, *, through_parameters: bool
    ) -> tuple[Tensor, list[Tensor]]:
        path = [self.start]
        for step in self._numbers():
            path.append(self._step(path[-1], step, create_graph=False).detach())
        end = path.pop().requires_grad_()
        loss = loss_of(self._parameters(end))
        (adjoint,) = torch.autograd.grad(loss, end)
        totals = [torch.zeros_like(each) for each in self.inputs]
        for step in reversed(self._numbers()):
            before = path.pop().detach().requires_grad_()
            after = self._step(before, step, create_graph=True)
            wanted = [*self.inputs, before] if through_parameters else self.inputs
            parts = torch.autograd.grad(after, wanted, adjoint)
            for total, part in zip(totals, parts, strict=False):  # the adjoint comes after them
                total += part
            if through_parameters:
                adjoint = parts[-1]
        return loss.detach(), totals

    def _step(self, state: Tensor, step: int, *, create_graph: bool) -> Tensor:
        images, labels = self.batch(step)
        network, rate = self.network, self.learning_rate
        if self.optimiser == "sgd":
            return sgd_step(
                network, state, images, labels, learning_rate=rate, create_graph=create_graph
            )
        gradient = loss_gradient(network, state[0], images, labels, create_graph=create_graph)
        return adam_update(state, gradient, num_steps=step + 1, learning_rate=rate)

    def _parameters(self, state: Tensor) -> Tensor:
        return state if self.optimiser == "sgd" else state[0]

    def _numbers(self) -> range:
        return range(self.first_step, self.first_step + self.num_steps)
