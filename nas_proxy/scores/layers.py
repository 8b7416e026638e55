"""Which modules hold weights, which ones normalise, and how scores look inside a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

# Called with the module, its positional inputs and its output; what it returns, if anything, takes
# the output's place.
ForwardHook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]
# Called with the module and its positional inputs.
InputHook = Callable[[nn.Module, tuple[Tensor, ...]], None]

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


def weighted_layers(network: nn.Module) -> list[Any]:
    """The convolutions and linear layers whose weights training would adjust, each once."""
    return [
        module
        for module in network.modules()
        if isinstance(module, _WEIGHTED) and module.weight.requires_grad
    ]


def norms(network: nn.Module) -> list[nn.Module]:
    """The layers that normalise feature maps, each once."""
    return [module for module in network.modules() if isinstance(module, NORMS)]


def bypass_norms(network: nn.Module) -> None:
    """Put the identity in the place of every norm inside `network`."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, NORMS):
                setattr(module, name, nn.Identity())


@contextmanager
def forward_hooks(modules: Iterable[nn.Module], hook: ForwardHook) -> Iterator[None]:
    """Call `hook` after each forward pass of any of `modules`; none is left behind afterwards."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def input_hooks(modules: Iterable[nn.Module], hook: InputHook) -> Iterator[None]:
    """The same with a hook that is called before the forward pass of each."""
    handles = [module.register_forward_pre_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
