"""Networks that train on the synthetic images while these are optimised."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nas_proxy.distill.common.inner_training import (
    adam_update,
    flatten_parameters,
    forward,
    initial_adam_state,
    unflatten_parameters,
)
from nas_proxy.errors import DivergedError
from nas_proxy.networks.base import Network
from nas_proxy.reproducibility import derive_seed, make_generator

_BATCH_SIZE = 1000  # of the synthetic images, as published; fewer are used whole


class NetworkPool:
    """Networks of all ages; each is replaced by a fresh one after some updates (FRePo).

    At the start none has been trained, but they are replaced one after another, so that from then
    on their ages differ.

    Args:
        build: From a seed to a network with random weights, on its device.
        size: Networks in the pool.
        max_updates: After so many updates a network is replaced.
        learning_rate: Of Adam.
    """

    def __init__(
        self,
        build: Callable[[int], Network],
        *,
        size: int,
        max_updates: int,
        learning_rate: float,
    ) -> None:
        self._build = build
        self._max_updates = max_updates
        self._learning_rate = learning_rate
        self._lifetimes = max_updates - max_updates // size * torch.arange(size)
        self._ages = torch.zeros(size, dtype=torch.int64)
        self._seeds = torch.zeros(size, dtype=torch.int64)  # of the networks as they were built
        self._structures: list[Network] = []
        self._states: list[Tensor] = []  # what Adam makes of each network, (3, p)

    def __len__(self) -> int:
        return len(self._ages)

    def fill(self, seed: int) -> None:
        """Make the first networks; a pool that is filled already is left as it is."""
        if not self._states:
            self._structures = [self._built(i, derive_seed(seed, i)) for i in range(len(self))]
            self._states = [_initial_state(network) for network in self._structures]

    def network(self, index: int) -> Network:
        """A network without gradients; it is good until it is trained."""
        network = self._structures[index]
        parts = unflatten_parameters(network, self._states[index][0])
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(parts[name])
        return network

    def train(self, index: int, images: Tensor, targets: Tensor, seed: int) -> None:
        """One update by Adam towards the least squares, or a fresh network instead of an old one.

        Args:
            index: Which network.
            images: What it trains on, `(n, c, h, w)`, without gradients.
            targets: What its logits should be, `(n, num_classes)`.
            seed: Of the batch, or of the fresh network.

        Raises:
            DivergedError: If its loss is not finite; the network is left as it was.
        """
        network, state = self._structures[index], self._states[index]
        age = int(self._ages[index])
        if age >= self._lifetimes[index]:
            self._structures[index] = self._built(index, derive_seed(seed, "network"))
            self._states[index] = _initial_state(self._structures[index])
            self._ages[index] = 0
            self._lifetimes[index] = self._max_updates
            return
        generator = make_generator(derive_seed(seed, "batch"))
        chosen = torch.randperm(len(images), generator=generator)[:_BATCH_SIZE].to(images.device)
        weights = state[0].detach().requires_grad_()
        logits = forward(network, weights, images[chosen]).float()
        loss = 0.5 * (logits - targets[chosen]).square().sum(dim=1).mean()
        if not bool(loss.isfinite()):
            raise DivergedError("the loss of a network in the pool is not finite")
        (gradient,) = torch.autograd.grad(loss, weights)
        rate = self._learning_rate
        state.copy_(adam_update(state, gradient, num_steps=age + 1, learning_rate=rate))
        self._ages[index] = age + 1

    def state(self) -> dict[str, Tensor]:
        """Weights, Adam's moments and ages, for a checkpoint; empty until the pool is filled."""
        if not self._states:
            return {}
        return {
            **{f"pool.states.{index}": state for index, state in enumerate(self._states)},
            "pool.seeds": self._seeds,
            "pool.ages": self._ages,
            "pool.lifetimes": self._lifetimes,
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what `state` gave; architectures are drawn again from their seeds."""
        if "pool.seeds" not in state:
            return
        seeds = state["pool.seeds"].tolist()
        self._structures = [self._built(index, seed) for index, seed in enumerate(seeds)]
        device = next(self._structures[0].parameters()).device
        self._states = [state[f"pool.states.{index}"].to(device) for index in range(len(self))]
        self._ages = state["pool.ages"]
        self._lifetimes = state["pool.lifetimes"]

    def _built(self, index: int, seed: int) -> Network:
        """The network of a seed, for a place in the pool."""
        self._seeds[index] = seed
        return self._build(seed).requires_grad_(False)


def _initial_state(network: Network) -> Tensor:
    return initial_adam_state(flatten_parameters(network))
