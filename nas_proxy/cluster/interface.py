"""What is asked of a cluster, and what it answers: the border between `SlotPool` and Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from nas_proxy.errors import NasProxyError, StudyError


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        id: Of this start of it; a machine that comes back is another node.
        host: What it calls itself.
        address: Its address in the cluster's network.
        resources: What it has in all, by Ray's names, memory in bytes.
        is_alive: Whether the cluster still counts on it.
    """

    id: str
    host: str
    address: str
    resources: Mapping[str, float]
    is_alive: bool = True

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.host} ({self.address})"


class SlotDiedError(NasProxyError):
    """A slot's process is gone for good.

    Attributes:
        node_is_lost: Whether its node went with it, as far as the cluster says so.
        is_refused: Whether its constructor failed, so that it never was there.
    """

    def __init__(
        self, reason: str, *, node_is_lost: bool = False, is_refused: bool = False
    ) -> None:
        super().__init__(reason)
        self.node_is_lost = node_is_lost
        self.is_refused = is_refused


class SlotUnreachableError(NasProxyError):
    """Nobody knows yet whether a slot is gone or the way to it."""


class SlotLostError(StudyError):
    """What a slot worked on has no answer; the message says what became of the slot.

    Attributes:
        seconds: For how long it had worked.
    """

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Cluster(Protocol):
    """Starts slots on whatever node has room, and carries what is said.

    A slot is what `nas_proxy.cluster.slot.Slot` does, in a process of its own. All futures may
    raise `SlotDiedError` or `SlotUnreachableError`.
    """

    def nodes(self) -> Sequence[Node]:
        """All nodes, those that were lost too."""

    def put(self, value: object) -> Any:
        """Hand something over once; slots fetch it when they are given what this returns."""

    def start(self, resources: Mapping[str, float], node: str = "") -> Any:
        """Ask for a slot, which starts as soon as a node has room; at once its handle.

        Args:
            resources: Of the slot.
            node: Id of the only node that will do; empty: any.
        """

    def call(self, slot: Any, method: str, *arguments: Any, aside: bool = False) -> Future[Any]:
        """Let a slot do something, after what it does now, or `aside`: at once."""

    def kill(self, slot: Any) -> None:
        """End a slot, whatever it does, started or not."""

    def probe(self, node: str) -> Future[Any]:
        """Let a fresh process answer from a node: what ends that way shows that the node lives."""


def resource_fault(resources: Mapping[str, float], nodes: Sequence[Node]) -> str:
    """Why no node will ever have room for one slot, in words; empty if one may.

    Args:
        resources: Of a slot.
        nodes: Of the cluster.
    """
    alive = [node for node in nodes if node.is_alive]
    if not alive:
        return "the cluster has no node that is alive"
    if any(_fits(resources, node) for node in alive):
        return ""
    for name, wanted in resources.items():
        largest = max(alive, key=lambda node: node.resources.get(name, 0.0))
        if largest.resources.get(name, 0.0) < wanted:
            return (
                f"search.ray.{_OPTIONS[name]} asks for {_amount(name, wanted)} for each slot, but "
                f"no node has that much: the most is {_amount(name, largest.resources.get(name))}, "
                f"of {largest.name}; lower it, or add a node"
            )
    together = ", ".join(f"{_OPTIONS[name]} {_amount(name, n)}" for name, n in resources.items())
    return (
        f"search.ray asks for {together} for each slot, but none of {len(alive)} nodes has all of "
        "it; lower one of them, or add a node"
    )


_OPTIONS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory_gb"}


def _fits(resources: Mapping[str, float], node: Node) -> bool:
    return all(node.resources.get(name, 0.0) >= wanted for name, wanted in resources.items())


def _amount(name: str, value: float | None) -> str:
    if name == "memory":
        return f"{(value or 0) / 10**9:.1f} GB"
    return f"{value or 0:g}"


def num_fitting(resources: Mapping[str, float], nodes: Sequence[Node]) -> int:
    """How many slots the nodes that are alive have room for, if nobody else uses them."""
    return sum(
        min(
            int(node.resources.get(name, 0.0) / wanted + 1e-6) for name, wanted in resources.items()
        )
        for node in nodes
        if node.is_alive
    )
