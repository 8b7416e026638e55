"""Randomness and identity: every random number comes from an explicit generator or seed.

torch is imported by those functions alone that need it: hashing does not.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2**63), a pure function of `parts`; unlike `hash`, the same everywhere."""
    digest = hashlib.sha256(canonical_json([str(part) for part in parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` that starts from `seed`."""
    import torch

    return torch.Generator(device=device).manual_seed(seed)


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Run a block with torch's global generators set to `seed`, and put them back afterwards.

    `nn.Module` initialisers and dropout know no explicit generator: this is how they get one.
    """
    import torch

    from nas_proxy.devices import gpus_in_use

    with torch.random.fork_rng(devices=gpus_in_use()):
        torch.manual_seed(seed)
        yield


def canonical_json(value: Any, *, plain: Callable[[Any], Any] | None = None) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text.

    Args:
        value: What JSON can hold.
        plain: Turns anything else that stands in it into what JSON can hold.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=plain)


def content_hash(*parts: Any, length: int = 16) -> str:
    """Hexadecimal hash of tensors (dtype, shape and bytes) and of anything JSON can hold.

    A numpy array counts as the tensor of the same content.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"torch.{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        elif _is_tensor(part):
            tensor = part.detach().cpu().contiguous()
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.flatten().view(sys.modules["torch"].uint8).numpy().data)
        else:
            digest.update(canonical_json(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:length]


def _is_tensor(part: Any) -> bool:
    """Whoever has a tensor has imported torch."""
    return "torch" in sys.modules and isinstance(part, sys.modules["torch"].Tensor)
