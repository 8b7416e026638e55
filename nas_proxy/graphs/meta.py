"""Networks without numbers: their weights lie on torch's meta device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FILLS = frozenset(
    f"{name}_"
    for name in (
        *("kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal", "trunc_normal"),
        *("uniform", "normal", "ones", "zeros", "constant", "fill", "zero"),
    )
)


class WeightsOnMeta(TorchFunctionMode):
    """Puts what layers allocate for their weights on the meta device, and nothing else.

    `torch.device("meta")` would put everything there, also numbers from which a network computes
    its widths, as RegNets do.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.empty:
            options["device"] = "meta"
        name = getattr(func, "__name__", "")
        if name in _FILLS and args and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]  # there are no numbers to fill in
        return func(*args, **options)
