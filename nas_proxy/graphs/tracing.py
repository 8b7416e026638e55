"""Recording what a network computes: every call of torch as a node of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nas_proxy.errors import EvaluationError
from nas_proxy.graphs.graph import Graph, Node
from nas_proxy.graphs.operations import (
    CONSTANT,
    convolution,
    kind_of_call,
    kind_of_module,
    multiply_adds,
    shape_given,
)

_LEAVES = ("numpy", "__array__", "__dlpack__")
_POOLS = ("max_pool", "avg_pool")


def trace(network: nn.Module, images: Tensor) -> Graph:
    """The graph of one forward pass in evaluation mode.

    On torch's meta device this takes no memory and no arithmetic; there a network whose Python
    code asks for the numbers in a tensor fails. The network is put into evaluation mode.

    Args:
        network: On the device of `images`.
        images: Normalised images, `(n, c, h, w)`.

    Raises:
        EvaluationError: If a part of it cannot be seen, such as one that is done by numpy, or a
            scripted module.
    """
    network.eval()
    recorder = _Recorder(network, images)
    with torch.no_grad(), recorder:
        output = network(images)
    return recorder.graph(output)


def trace_modules(network: nn.Module, images: Tensor) -> Graph:
    """The innermost modules in the order in which they are called, without paths."""
    nodes = [Node("input", shape=tuple(images.shape[1:]))]

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        given, taken = _first(output), _first(inputs)
        if given is not None and taken is not None:
            nodes.append(_module_node(module, taken, given))

    network.eval()
    leaves = [module for module in network.modules() if not any(module.children())]
    handles = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return Graph(tuple(nodes), len(nodes) - 1, has_paths=False)


class _Recorder(TorchFunctionMode):
    """Notes each call while it is active."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()
        self._nodes = [Node("input", shape=tuple(images.shape[1:]))]
        self._position = {id(images): 0}
        self._kept: list[Any] = [images]  # an id is taken anew when its owner is gone
        self._network = network
        self._unknown = ""

    @cached_property
    def _buffers(self) -> set[int]:
        return {id(buffer) for buffer in self._network.buffers()}

    @cached_property
    def _attributes(self) -> set[int]:
        """Tensors that modules hold as plain attributes; looked for when one is met."""
        found = [value for module in self._network.modules() for value in vars(module).values()]
        return {id(value) for value in _flat(found) if isinstance(value, Tensor)}

    def _is_constant(self, tensor: Tensor) -> bool:
        is_held = isinstance(tensor, nn.Parameter) or id(tensor) in self._buffers
        return is_held or id(tensor) in self._attributes

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        kind = kind_of_call(name)
        shape = shape_given(kind, name, args)
        if shape is not None and args[0].is_meta and not options.get("inplace"):
            result: Any = torch.empty(shape, dtype=args[0].dtype, device="meta")
        else:
            result = func(*args, **options)
        if name in _LEAVES:
            self._unknown = self._unknown or f"{name}() takes numbers out of torch"
        changed = args[0] if name.endswith("_setitem__") else result
        outputs = [t for t in _flat(changed) if isinstance(t, Tensor)]
        if outputs:
            self._note(kind, name, args, options, outputs)
        return result

    def _note(
        self,
        kind: str,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        outputs: list[Tensor],
    ) -> None:
        inputs = [t for t in _flat((*args, *kwargs.values())) if isinstance(t, Tensor)]
        sources = () if kind == CONSTANT else self._sources(name, inputs)
        node = _call_node(kind, sources, inputs, args, kwargs, outputs[0])
        self._nodes.append(node)
        for output in outputs:
            self._position[id(output)] = len(self._nodes) - 1
        self._kept.append(outputs)

    def _sources(self, name: str, inputs: list[Tensor]) -> tuple[int, ...]:
        found = []
        for tensor in inputs:
            position = self._position.get(id(tensor))
            if position is not None:
                found.append(position)
            elif not self._is_constant(tensor):
                self._unknown = self._unknown or f"{name} reads what it does not show"
        return tuple(found)

    def graph(self, output: Any) -> Graph:
        logits = _first(output)
        position = None if logits is None else self._position.get(id(logits))
        if self._unknown or position is None:
            reason = self._unknown or "the network's output comes from what it does not show"
            raise EvaluationError(f"the network cannot be traced: {reason}")
        return Graph(tuple(self._nodes), position)


def _call_node(
    kind: str,
    sources: tuple[int, ...],
    inputs: list[Tensor],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    output: Tensor,
) -> Node:
    taken = tuple(inputs[0].shape) if inputs else ()
    given = tuple(output.shape)
    weight = inputs[1] if kind in ("conv", "transposed_conv") and len(inputs) > 1 else None
    kernel, groups, stride, dilation = 0, 1, _reduction(kind, taken, given), 1
    if weight is not None:
        kernel, groups, stride, dilation = convolution(kind, weight, taken, args, kwargs)
    return Node(
        kind=_whole_pool(kind, taken, given),
        sources=sources,
        shape=given[1:],
        kernel=kernel,
        groups=groups,
        depthwise=1 < groups == taken[1],
        stride=stride,
        dilation=dilation,
        multiply_adds=multiply_adds(kind, weight, taken, given),
        weights=tuple((id(t), t.numel()) for t in inputs if isinstance(t, nn.Parameter)),
    )


def _module_node(module: nn.Module, taken: Tensor, given: Tensor) -> Node:
    kind = kind_of_module(module)
    shapes = tuple(taken.shape), tuple(given.shape)
    weight = getattr(module, "weight", None) if "conv" in kind else None
    groups = 1 if weight is None else int(module.groups)  # type: ignore[arg-type]
    own = list(module.parameters(recurse=False))
    return Node(
        kind=_whole_pool(kind, *shapes),
        shape=shapes[1][1:],
        kernel=0 if weight is None else max(module.kernel_size),  # type: ignore[arg-type]
        groups=groups,
        depthwise=1 < groups == taken.shape[1],
        stride=_reduction(kind, *shapes) if weight is None else max(module.stride),  # type: ignore[arg-type]
        dilation=1 if weight is None else max(module.dilation),  # type: ignore[arg-type]
        multiply_adds=multiply_adds(kind, weight, *shapes),
        weights=tuple((id(each), each.numel()) for each in own),
    )


def _whole_pool(kind: str, taken: tuple[int, ...], given: tuple[int, ...]) -> str:
    """The kind of a pooling: over the whole map, or none at all where nothing becomes smaller."""
    if kind not in _POOLS:
        return kind
    if all(side == 1 for side in given[2:]) and any(side > 1 for side in taken[2:]):
        return "global_pool"
    return kind if len(given) == len(taken) else "other"


def _reduction(kind: str, taken: tuple[int, ...], given: tuple[int, ...]) -> int:
    """By how much a pooling makes its map smaller."""
    if kind not in _POOLS or len(given) < 3 or len(taken) < 3:
        return 1
    return max(1, round(taken[-1] / max(1, given[-1])))


def _flat(value: Any) -> Iterator[Any]:
    """What lists and tuples in `value` hold, nested ones too."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _flat(each)
    else:
        yield value


def _first(value: Any) -> Tensor | None:
    return next((t for t in _flat(value) if isinstance(t, Tensor)), None)
