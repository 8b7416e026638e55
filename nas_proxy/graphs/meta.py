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
        filled = args[0] if args else options.get("tensor")  # so `torch.nn.init` hands it on
        if (
            getattr(func, "__name__", "") in _FILLS
            and isinstance(filled, Tensor)
            and filled.is_meta
        ):
            return filled  # there are no numbers to fill in
        return func(*args, **options)
