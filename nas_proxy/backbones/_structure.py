"""What can be known of any classifier by watching it work once: its head, and its layers by depth.

No name of a layer is known beforehand, so that this holds for networks yet to be written.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_proxy.errors import ConfigError


@dataclass(frozen=True)
class Structure:
    """The modules of a network that hold weights, in the order in which it uses them.

    Attributes:
        head: Name of the last of them, which gives the logits: a linear layer, or a convolution
            of one pixel after which there is no other weight.
        body: Names of all others, the one next to the images first. A module that is never
            called by itself stands where the module around it is entered.
        head_width: Features, or channels, that the head is given.
        head_is_linear: Whether it is a linear layer.
    """

    head: str
    body: tuple[str, ...]
    head_width: int
    head_is_linear: bool

    def groups(self, num_groups: int) -> list[tuple[str, ...]]:
        """The body cut by depth into parts of as many layers each as possible.

        Args:
            num_groups: At most so many; fewer where there are fewer layers.

        Returns:
            The deepest part, next to the head, comes first.
        """
        num = min(num_groups, len(self.body))
        cuts = [part * len(self.body) // num for part in range(num + 1)]
        return [self.body[start:end] for start, end in zip(cuts[:-1], cuts[1:], strict=True)][::-1]


@torch.no_grad()
def find_structure(network: nn.Module, image_shape: tuple[int, int, int]) -> Structure:
    """Head and body of a classifier, from one pass of two blank images.

    Args:
        network: Maps `(n, c, h, w)` to logits; on any device, also `meta`. Its mode and its
            statistics stay as they are.
        image_shape: Of images that it accepts, `(c, h, w)`.

    Raises:
        ConfigError: If what gives the logits is neither a linear layer nor a convolution of one
            pixel.
    """
    device = next(network.parameters()).device
    modules = dict(network.named_modules())
    owners = [name for name, module in modules.items() if _own_parameters(module)]
    entered: list[str] = []
    was_training = {name: module.training for name, module in modules.items()}
    network.eval()  # batch norms and dropout leave no trace
    with ExitStack() as hooks:
        for name, module in modules.items():
            hook = module.register_forward_pre_hook(lambda *_, name=name: entered.append(name))
            hooks.callback(hook.remove)
        logits: Tensor = network(torch.zeros(2, *image_shape, device=device))
    for name, module in modules.items():
        module.training = was_training[name]
    owning = set(owners)
    head = next(name for name in reversed(entered) if name in owning)
    if not _gives(modules[head], logits):
        raise ConfigError(
            f"{type(network).__name__} does not end in a linear layer or a convolution of one "
            f"pixel, but in {head} ({type(modules[head]).__name__}), so its head cannot be "
            "replaced; name another network"
        )
    first = {name: position for position, name in reversed(list(enumerate(entered)))}
    depth = {name: _position(name, first) for name in owners}
    body = sorted((name for name in owners if name != head), key=depth.__getitem__)
    last = modules[head]
    return Structure(head, tuple(body), input_width(last), isinstance(last, nn.Linear))


def replace_head(
    network: nn.Module, head: str, num_classes: int, *, hidden_units: int = 0, dropout: float = 0.0
) -> None:
    """Put a new head in the place of the old one; weights come from torch's global generator.

    Args:
        network: Changed in place.
        head: Name of its head; see `Structure`.
        num_classes: To tell apart.
        hidden_units: Of a hidden layer with ReLU before the last one; 0 for none.
        dropout: Share of the last layer's inputs that are dropped in training.
    """
    old = network.get_submodule(head)
    width = input_width(old)
    layers: list[nn.Module] = []
    if hidden_units:
        layers += [_like(old, width, hidden_units), nn.ReLU()]
    if dropout:
        layers.append(nn.Dropout(dropout))
    layers.append(_like(old, hidden_units or width, num_classes))
    new = layers[0] if len(layers) == 1 else nn.Sequential(*layers)
    parent, _, name = head.rpartition(".")
    setattr(network.get_submodule(parent), name, new)


def input_width(head: nn.Module) -> int:
    """Features, or channels, that a head is given."""
    layer = next(module for module in head.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def parameters_of(network: nn.Module, names: Sequence[str]) -> list[nn.Parameter]:
    """The weights that the named modules hold themselves, without those of modules inside."""
    return [
        parameter
        for name in names
        for parameter in network.get_submodule(name).parameters(recurse=False)
    ]


def _like(layer: nn.Module, width: int, num_outputs: int) -> nn.Module:
    """A fresh layer of the same kind with other widths."""
    has_bias = getattr(layer, "bias", None) is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(width, num_outputs, bias=has_bias)
    return nn.Conv2d(width, num_outputs, kernel_size=1, bias=has_bias)


def _gives(module: nn.Module, logits: Tensor) -> bool:
    """Whether a layer has one output for each logit, and can be replaced by its like."""
    if isinstance(module, nn.Linear):
        return module.out_features == logits.shape[1]
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.out_channels == logits.shape[1]
    return False


def _own_parameters(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _position(name: str, first: dict[str, int]) -> int:
    """When a module was entered first, or else the nearest one around it."""
    while name not in first:
        name = name.rpartition(".")[0]
    return first[name]
