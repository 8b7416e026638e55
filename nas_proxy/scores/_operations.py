"""Counting the operations of whatever runs, by what torch's kernels are given.

`torch.utils.flop_counter` knows the formulas of products and convolutions, and takes every other
kernel for free. So fused kernels are switched off while it counts, which leaves the products that
they are made of; what it has no formula for gets one here; and what does work by a formula that
nobody knows is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nas_proxy.errors import EvaluationError

_Shape = Sequence[int]

# Kernels that multiply and add, by words of their names. Those that torch's counter knows and those
# of `_FORMULAS` are counted; interpolation is no product.
_DOES_WORK = re.compile(
    "rnn|lstm|gru_|attention|attn|multi_head|transformer|linear|matmul|gemm|conv|mm$|mv$|"
    "bilinear|fft|cdist|pdist|linalg|svd|cholesky|solve|einsum|tensordot|kron"
)
_DOES_NONE = re.compile("upsample|linalg_vector_norm|thnn_fused")
_OWN_NAMESPACES = ("aten", "prim", "prims")


def count_operations(run: Callable[[], object]) -> float:
    """Operations of the products in `run`; a multiply-add is two.

    Raises:
        EvaluationError: If a kernel does work that is not known; the message names it.
    """
    # It imports triton, of 70 MiB, if that is there.
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    counted = {*flop_registry, *_FORMULAS}
    watch = _UnknownKernels(counted)
    # The counter takes operators apart as far as it can, and what it runs then passes the watch.
    counter = FlopCounterMode(display=False, custom_mapping=dict(_FORMULAS))
    with _plain_kernels(), watch, counter:
        run()
    if watch.names:
        raise EvaluationError(
            f"its floating-point operations cannot be counted: nothing is known of what "
            f"{', '.join(watch.names)} does"
        )
    return float(counter.get_total_flops())


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Switch off kernels that do a whole recurrent or attention layer at once."""
    backends: list[Any] = [torch.backends.mkldnn, torch.backends.cudnn]
    were_on = [backend.enabled for backend in backends]
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for backend in backends:
            backend.enabled = False
        yield
    finally:
        for backend, was_on in zip(backends, were_on, strict=True):
            backend.enabled = was_on
        torch.backends.mha.set_fastpath_enabled(fast_attention)


class _UnknownKernels(TorchDispatchMode):
    """Notes the kernels whose work nobody counts.

    Attributes:
        names: Of these, in the order of their first calls.
    """

    def __init__(self, counted: set[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counted = counted
        self.names: dict[str, None] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        packet = func._overloadpacket
        name = packet.__name__
        is_foreign = func.namespace not in _OWN_NAMESPACES
        works = is_foreign or (_DOES_WORK.search(name) and not _DOES_NONE.search(name))
        # Formulas are those of real numbers; of complex ones a product is four.
        is_known = packet in self._counted and not any(map(_is_complex, args))
        if works and not is_known:
            self.names[f"{func.namespace}::{name}"] = None
        return func(*args, **(kwargs or {}))


def _is_complex(argument: object) -> bool:
    return isinstance(argument, torch.Tensor) and argument.is_complex()


def _matrix_vector(matrix: _Shape, vector: _Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


def _add_matrix_vector(_: _Shape, matrix: _Shape, *__: Any, **___: Any) -> int:
    return 2 * math.prod(matrix)


def _dot(vector: _Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(vector)


def _trilinear(
    first: _Shape, second: _Shape, third: _Shape, expand1: Any, expand2: Any, expand3: Any,
    *_: Any, **__: Any,
) -> int:  # fmt: skip
    """`nn.Bilinear`: each element of the three's common shape is a product of three, and summed."""
    shapes = []
    for shape, expanded in ((first, expand1), (second, expand2), (third, expand3)):
        full = list(shape)
        for dimension in sorted(expanded):
            full.insert(dimension, 1)
        shapes.append(full)
    products: int = math.prod(max(sizes) for sizes in zip(*shapes, strict=True))
    return 3 * products


def _attention(query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any) -> int:
    """Both products of `scaled_dot_product_attention`, `(b, heads, length, width)` each."""
    *batch, num_queries, width = query
    return 2 * math.prod(batch) * num_queries * key[-2] * (width + value[-1])


_aten = torch.ops.aten
_FORMULAS: Mapping[Any, Callable[..., int]] = {
    _aten.mv: _matrix_vector,
    _aten.addmv: _add_matrix_vector,
    _aten.dot: _dot,
    _aten.vdot: _dot,
    _aten._trilinear: _trilinear,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
}
