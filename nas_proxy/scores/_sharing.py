"""Scores that are read of one and the same pass through one network.

A score of this kind says before the pass what it needs of it, and reads its value afterwards.
Measured alone, it has a pass of its own: its value is the same, however many read along.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_proxy.interfaces import ZeroCostScore
from nas_proxy.scores._operations import count_operations
from nas_proxy.scores._positive_flow import positive_flow
from nas_proxy.scores.layers import (
    ForwardHook,
    InputHook,
    forward_hooks,
    input_hooks,
    weighted_layers,
)

Read = Callable[[], float]
Modules = Callable[[nn.Module], list[nn.Module]]


class SharedPass(Protocol):
    """Work on a freshly initialised network, of which several scores are read.

    Attributes:
        num_readers: How many scores have joined.
    """

    num_readers: int

    def run(self, network: nn.Module, images: Tensor, labels: Tensor) -> None:
        """Do all that those who joined have in common; see `ZeroCostScore.measure_labelled`."""


@dataclass(frozen=True, kw_only=True)
class SharingScore(ZeroCostScore):
    """A score that is read of a pass, which others may share.

    Attributes:
        looks_at_labels: Whether there is no score without the images' classes.
    """

    looks_at_labels: ClassVar[bool] = False

    @abstractmethod
    def shares(self) -> Hashable:
        """Scores for which this is equal can share a pass."""

    @abstractmethod
    def new_pass(self) -> SharedPass:
        """A pass that nobody has joined."""

    @abstractmethod
    def join(self, shared: Any) -> Read:
        """Take part in a pass of `new_pass` of any score that shares with this one.

        Returns:
            What gives the score once the pass has been run; it leaves the network, and what others
            read, as they are, and raises an `EvaluationError` if there is no score.
        """

    def measure(self, network: nn.Module, images: Tensor) -> float:
        """The same without labels, where they are not looked at."""
        if self.looks_at_labels:
            return super().measure(network, images)
        unused = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return self.measure_labelled(network, images, unused)

    def measure_labelled(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        """Score one network by a pass of its own; see `ZeroCostScore.measure_labelled`.

        Raises:
            EvaluationError: If the score is not defined for this network, with the reason.
        """
        if type(self).measure is not SharingScore.measure:  # a plug-in derived from one of ours
            return self.measure(network, images)
        shared = self.new_pass()
        shared.num_readers += 1
        read = self.join(shared)
        shared.run(network, images, labels)
        return read()


def can_share(score: ZeroCostScore) -> TypeGuard[SharingScore]:
    """Whether a score is read of a pass; a plug-in that derives from one may measure by itself."""
    own = type(score)
    return (
        isinstance(score, SharingScore)
        and own.measure is SharingScore.measure
        and own.measure_labelled is SharingScore.measure_labelled
    )


@dataclass(eq=False)
class TrainingPass:
    """One batch through a network in training mode, and the gradients of its loss.

    Fresh norms use the batch's statistics, as all scores that read here were published.

    Attributes:
        num_images: Images of the batch, the first ones given; all when fewer are given.
        num_readers: See `SharedPass`.
        watched: Hooks, each with what tells from the network for which modules it is called.
        watched_inputs: The same for hooks that are called before the modules.
        wants_slopes: Whether `logits` shall be differentiable by `pixels`.
        wants_gradients: Whether the loss's gradients by the weights of convolutions and linear
            layers are needed.
        wants_outputs: Whether those by their outputs are needed too.
        wants_curvature: Whether the gradients by the weights shall be differentiable again.
        pixels: The batch, `(n, c, h, w)`.
        logits: `(n, num_classes)`.
        weights: Of convolutions and linear layers.
        weight_gradients: One for each of `weights`; zero where the loss does not depend on it.
        outputs: The convolutions and linear layers in the order in which they were used, each with
            its output and the gradient by that.
    """

    num_images: int
    num_readers: int = 0
    watched: list[tuple[Modules, ForwardHook]] = field(default_factory=list)
    watched_inputs: list[tuple[Modules, InputHook]] = field(default_factory=list)
    wants_slopes: bool = False
    wants_gradients: bool = False
    wants_outputs: bool = False
    wants_curvature: bool = False
    pixels: Tensor = field(init=False)
    logits: Tensor = field(init=False)
    weights: list[Tensor] = field(init=False)
    weight_gradients: list[Tensor] = field(init=False)
    outputs: list[tuple[Any, Tensor, Tensor]] = field(init=False)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor) -> None:
        """See `SharedPass.run`."""
        self.pixels = images[: self.num_images]
        if self.wants_slopes:
            self.pixels = self.pixels.clone().requires_grad_()
        self.weights = [layer.weight for layer in weighted_layers(network)]
        used: list[tuple[Any, Tensor]] = []

        def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            used.append((layer, output))
            return output.clone()  # an activation in place must not alter what is recorded

        network.train()
        with ExitStack() as stack:
            for modules, input_hook in self.watched_inputs:
                stack.enter_context(input_hooks(modules(network), input_hook))
            for modules, hook in self.watched:
                stack.enter_context(forward_hooks(modules(network), hook))
            if self.wants_outputs:
                stack.enter_context(forward_hooks(weighted_layers(network), record))
            with torch.set_grad_enabled(self.wants_slopes or self.wants_gradients):
                self.logits = network(self.pixels)
        if self.wants_gradients:
            self._differentiate(used, labels[: self.num_images])

    def _differentiate(self, used: list[tuple[Any, Tensor]], labels: Tensor) -> None:
        by = [*self.weights, *(output for _, output in used)]
        if not by:
            self.weight_gradients, self.outputs = [], []
            return
        with torch.enable_grad():
            loss = F.cross_entropy(self.logits, labels)
        gradients = torch.autograd.grad(
            loss,
            by,
            create_graph=self.wants_curvature,
            retain_graph=self.num_readers > 1 or self.wants_curvature,
            materialize_grads=True,
        )
        self.weight_gradients = list(gradients[: len(self.weights)])
        self.outputs = [
            (layer, output.detach(), gradient.detach())
            for (layer, output), gradient in zip(used, gradients[len(self.weights) :], strict=True)
        ]


@dataclass(eq=False)
class FlowPass:
    """The signal of one image of ones with positive weights, and its gradients.

    Attributes:
        num_readers: See `SharedPass`.
        layer_weights: Of convolutions and linear layers, each with its gradient, in float64; None
            where the signal does not depend on it.
        all_weights: The same of all parameters.
    """

    num_readers: int = 0
    layer_weights: list[tuple[Tensor, Tensor | None]] = field(init=False)
    all_weights: list[tuple[Tensor, Tensor | None]] = field(init=False)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor) -> None:
        """See `SharedPass.run`."""
        flow = positive_flow(network, images)
        parameters = [weight for weight in network.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(flow, parameters, allow_unused=True) if parameters else ()
        self.all_weights = [
            (weight.detach(), gradient)
            for weight, gradient in zip(parameters, gradients, strict=True)
        ]
        found = dict(zip(map(id, parameters), gradients, strict=True))
        self.layer_weights = [
            (layer.weight.detach(), found.get(id(layer.weight)))
            for layer in weighted_layers(network)
        ]


@dataclass(eq=False)
class CountingPass:
    """Two images through a network in evaluation mode, or none where parameters alone count.

    Attributes:
        num_readers: See `SharedPass`.
        wants_flops: Whether operations are counted.
        layer_hooks: Called for each use of a convolution or linear layer.
        network: The network.
        flops: Operations for one image; a multiply-add is two.
    """

    num_readers: int = 0
    wants_flops: bool = False
    layer_hooks: list[ForwardHook] = field(default_factory=list)
    network: nn.Module = field(init=False)
    flops: float = field(init=False)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor) -> None:
        """See `SharedPass.run`."""
        self.network = network
        if not (self.wants_flops or self.layer_hooks):
            return
        # Two images: torch refuses group norm on a single image of a single pixel, which deep
        # networks come down to on small images.
        images = images[:2]
        network.eval()
        with torch.no_grad(), ExitStack() as stack:
            for hook in self.layer_hooks:
                stack.enter_context(forward_hooks(weighted_layers(network), hook))
            if self.wants_flops:
                self.flops = count_operations(lambda: network(images)) / len(images)
            else:
                network(images)
