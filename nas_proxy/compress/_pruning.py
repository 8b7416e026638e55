"""Pruning by magnitude: whole channels that are taken out, or single weights that become zero."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.overrides import TorchFunctionMode
from torch_pruning.pruner import function

from nas_proxy.errors import CompressionError, first_line
from nas_proxy.scores.layers import weighted_layers

# Layers whose weights say how much a channel matters. Layer norms with a weight for each pixel are
# not among them: the library expects one for each channel.
_RANKING_LAYERS = [nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm]


class _GroupNormPruner(function.GroupNormPruner):  # type: ignore[misc]
    """Instance norm is a group norm with one group per channel, and groups go with channels."""

    def prune_out_channels(self, layer: nn.GroupNorm, idxs: Sequence[int]) -> nn.Module:
        if layer.num_groups == layer.num_channels:
            layer.num_groups -= len(idxs)
        return super().prune_out_channels(layer, idxs)  # type: ignore[no-any-return]

    prune_in_channels = prune_out_channels

    def get_in_channel_groups(self, layer: nn.GroupNorm) -> int:
        return 1 if layer.num_groups == layer.num_channels else layer.num_groups

    get_out_channel_groups = get_in_channel_groups


class _LayerNormPruner(function.LayernormPruner):  # type: ignore[misc]
    """Of feature maps `(c, h, w)` the channels come first; otherwise they come last."""

    def prune_out_channels(self, layer: nn.LayerNorm, idxs: Sequence[int]) -> nn.Module:
        channels, *pixels = layer.normalized_shape
        if not pixels:
            return super().prune_out_channels(layer, idxs)  # type: ignore[no-any-return]
        kept = sorted(set(range(channels)) - set(idxs))
        for name in ("weight", "bias"):
            parameter = getattr(layer, name)
            if parameter is not None:
                setattr(layer, name, self._prune_parameter_and_grad(parameter, kept, 0))
        layer.normalized_shape = (len(kept), *pixels)
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: nn.LayerNorm) -> int:
        return layer.normalized_shape[0]

    get_in_channels = get_out_channels


def prune_channels(network: nn.Module, amount: float, images: Tensor) -> None:
    """Take out the channels with the smallest weights, in place.

    Which channels of which layers go together, through residual sums, concatenations, depthwise
    and grouped convolutions, is found by tracing (DepGraph, Fang et al., CVPR 2023); the
    importance of such a group is the mean L2 norm of its weights. The logits keep their number.

    Args:
        network: Any classifier.
        amount: Share of each layer's channels, in (0, 1), rounded up; a layer that would have no
            channel left stays whole.
        images: Some that the network accepts, normalised `(n, c, h, w)`, n >= 2.

    Raises:
        CompressionError: If the network cannot be traced or does not run afterwards, or nothing
            in it can be pruned.
    """
    network.eval()
    before = num_parameters(network)
    try:
        with torch.no_grad():
            expected = network(images).shape
        _take_out(network, amount, images)
        with torch.no_grad():
            found = network(images).shape
    except Exception as error:
        raise CompressionError(
            f"structured_pruning cannot follow the channels of this network "
            f"({first_line(error)}); use unstructured_pruning or int8 instead"
        ) from error
    if found != expected or num_parameters(network) == before:
        raise CompressionError(
            f"structured_pruning finds no channel to take out at channel_amount {amount}: layers "
            "of which that would leave no channel stay whole; choose another amount, or use "
            "unstructured_pruning or int8 instead"
        )


def _take_out(network: nn.Module, amount: float, images: Tensor) -> None:
    importance = torch_pruning.importance.GroupMagnitudeImportance(
        p=2, target_types=_RANKING_LAYERS
    )
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters that are no part of any layer
        pruner = torch_pruning.pruner.BasePruner(
            network,
            images,
            importance,
            pruning_ratio=amount,
            customized_pruners={nn.GroupNorm: _GroupNormPruner(), nn.LayerNorm: _LayerNormPruner()},
            # The library's defaults are shared between calls, and it writes into them.
            in_channel_groups={},
            out_channel_groups={},
            forward_fn=_traceable,
        )
        for group in pruner.step(interactive=True):
            targets = [dependency.target for dependency, _ in group]
            if not any(node.type == torch_pruning.ops.OPTYPE.OUTPUT for node in targets):
                group.prune()


def _traceable(network: nn.Module, images: Tensor) -> Tensor:
    with _ConnectedZeros():
        logits: Tensor = network(images)
    return logits * 1  # makes the logits a node of their own, by which their group is known


class _ConnectedZeros(TorchFunctionMode):
    """Zeros in the shape of a feature map have its channels: tracing has to see where from."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.zeros_like:
            return args[0] * 0
        return func(*args, **(kwargs or {}))


def prune_weights(network: nn.Module, amount: float) -> None:
    """Set the smallest weights of all convolutions and linear layers to zero, in place.

    They are ranked together by magnitude (Han et al., NeurIPS 2015). The network keeps its shape:
    neither file nor latency shrinks on hardware that computes with zeros.

    Args:
        network: Any.
        amount: Share of these weights, in (0, 1).

    Raises:
        CompressionError: If there is no such layer.
    """
    layers = weighted_layers(network)
    if not layers:
        raise CompressionError(
            "unstructured_pruning needs a convolution or a linear layer, and this network has none"
        )
    # The library flattens weights, which it cannot where training has left them channels-last, and
    # it puts other parameters in the place of the network's: both are a copy's.
    ranked = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    chosen = [(layer, "weight") for layer in weighted_layers(ranked)]
    prune.global_unstructured(chosen, pruning_method=prune.L1Unstructured, amount=amount)
    with torch.no_grad():
        for layer, (pruned, _) in zip(layers, chosen, strict=True):
            layer.weight.mul_(pruned.weight_mask)


@contextmanager
def holding_zeros(network: nn.Module) -> Iterator[None]:
    """Keep every weight that is zero now at zero while the network is trained inside the block.

    Their gradients are zero; weight decay and momentum keep a zero where it is.
    """
    handles = [
        parameter.register_hook(_Mask(parameter != 0))
        for parameter in network.parameters()
        if parameter.ndim > 1 and bool((parameter == 0).any())
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Mask:
    def __init__(self, kept: Tensor) -> None:
        self._kept = kept

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient * self._kept


def num_parameters(network: Any) -> int:
    """Parameters that are not zero."""
    return sum(int(parameter.count_nonzero()) for parameter in network.parameters())
