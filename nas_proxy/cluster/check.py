"""What a study would find on each node of a cluster, before it runs there."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from nas_proxy.cluster.interface import Cluster, Node
from nas_proxy.cluster.report import SlotReport, compared_versions, start_fault
from nas_proxy.errors import first_line

_NUM_PINGS = 5


@dataclass(frozen=True)
class NodeCheck:
    """One node that is alive.

    Attributes:
        node: Which one.
        report: What a slot found there; None: none answered.
        fault: Why it cannot take part, in words; empty if it can.
        ping_seconds: Until it answers the shortest question, the median; 0 where none answered.
    """

    node: Node
    report: SlotReport | None = None
    fault: str = ""
    ping_seconds: float = 0.0


def check_nodes(
    cluster: Cluster, setup: bytes, source_hash: str, *, patience: float = 60.0
) -> list[NodeCheck]:
    """Start a slot without resources on each node, and ask what it finds.

    Args:
        cluster: Which one.
        setup: As of `SlotPool`.
        source_hash: Of the images that every node has to have; empty: none.
        patience: Seconds for each answer.
    """
    told, versions = cluster.put(setup), compared_versions()
    alive = [node for node in cluster.nodes() if node.is_alive]
    slots = [cluster.start({}, node.id) for node in alive]
    try:
        answers = [cluster.call(slot, "start", told, None) for slot in slots]
        found = []
        for node, slot, answer in zip(alive, slots, answers, strict=True):
            report, fault = _answer(answer, patience)
            if report is not None:
                fault = start_fault(report, versions, source_hash)
            seconds = 0.0 if report is None else _ping(cluster, slot)
            found.append(NodeCheck(node, report, fault, seconds))
        return found
    finally:
        for slot in slots:
            with suppress(Exception):  # it may be gone
                cluster.kill(slot)


def _answer(answer: Future[Any], patience: float) -> tuple[SlotReport | None, str]:
    try:
        return answer.result(timeout=patience), ""
    except FutureTimeoutError:
        return None, f"no slot has answered there within {patience:.0f} s"
    except Exception as error:  # noqa: BLE001 - whatever it is, this node cannot take part
        return None, f"no slot can start there: {first_line(error)}"


def _ping(cluster: Cluster, slot: Any) -> float:
    seconds = []
    for _ in range(_NUM_PINGS):
        started = perf_counter()
        cluster.call(slot, "ping", aside=True).result(timeout=30)
        seconds.append(perf_counter() - started)
    return median(seconds)


def faults_in_words(checks: Sequence[NodeCheck]) -> str:
    """What keeps nodes from taking part, a sentence for each; empty if nothing does."""
    return "\n".join(f"node {each.node.name}: {each.fault}" for each in checks if each.fault)
