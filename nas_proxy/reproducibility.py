"""Randomness and identity: every random number comes from an explicit generator or seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from nas_proxy.devices import gpus_in_use


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2**63), a pure function of `parts`; unlike `hash`, the same everywhere."""
    digest = hashlib.sha256(canonical_json([str(part) for part in parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` that starts from `seed`."""
    return torch.Generator(device=device).manual_seed(seed)


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Run a block with torch's global generators set to `seed`, and put them back afterwards.

    `nn.Module` initialisers and dropout know no explicit generator: this is how they get one.
    """
    with torch.random.fork_rng(devices=gpus_in_use()):
        torch.manual_seed(seed)
        yield


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_hash(*parts: Any, length: int = 16) -> str:
    """Hexadecimal hash of tensors (dtype, shape and bytes) and of anything JSON can hold."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            tensor = part.detach().cpu().contiguous()
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().data)
        else:
            digest.update(canonical_json(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:length]
