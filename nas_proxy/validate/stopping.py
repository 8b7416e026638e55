"""When a validation whose references are bought one look at a time has seen enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nas_proxy.statistics.ranks import Estimate
from nas_proxy.statistics.sequential import look_confidences, look_sizes
from nas_proxy.statistics.words import decimal, duration
from nas_proxy.validate.values import RankRow, Stopping

Settled = Literal["reached", "missed", "open"]


@dataclass(frozen=True)
class PlannedLook:
    """A look at the first architectures, planned before anything is known of them.

    Attributes:
        number: From 1.
        size: How many architectures.
        confidence: Of its intervals, both sides together.
    """

    number: int
    size: int
    confidence: float


def planned_looks(max_architectures: int) -> tuple[PlannedLook, ...]:
    """All looks of a validation that may use so many; see `statistics.sequential`."""
    sizes = look_sizes(max_architectures)
    pairs = enumerate(zip(sizes, look_confidences(sizes), strict=True), start=1)
    return tuple(PlannedLook(number, size, confidence) for number, (size, confidence) in pairs)


def settled(proxy: RankRow, threshold: float) -> Settled:
    """Whether Spearman is shown to reach a threshold, or to miss it.

    By the worse of Spearman and what it is with failed evaluations ranked last; both of them have
    to miss it.

    Args:
        proxy: Its row, with the intervals of a planned look.
        threshold: In (-1, 1).
    """
    worst, _ = proxy.worst_case
    if worst is not None and worst.low is not None and worst.low >= threshold:
        return "reached"
    found = [each for each in (proxy.spearman, proxy.spearman_failures_last) if each is not None]
    if found and all(each.high is not None and each.high < threshold for each in found):
        return "missed"
    return "open"


def stopped(
    look: PlannedLook, looks: Sequence[PlannedLook], proxy: RankRow, threshold: float
) -> Stopping:
    """What is kept of where a validation stopped.

    Args:
        look: The last one.
        looks: All that were planned.
        proxy: The judged ranking's row there.
        threshold: What Spearman was held against.
    """
    return Stopping(
        look=look.number,
        num_looks=len(looks),
        num_used=look.size,
        max_architectures=looks[-1].size,
        confidence=look.confidence,
        threshold=threshold,
        outcome=settled(proxy, threshold),
    )


def with_saving(stopping: Stopping, reference_seconds: float) -> Stopping:
    """The same with what the references that were not trained would have cost.

    Args:
        stopping: Where it stopped.
        reference_seconds: Of one reference, as those that were trained took.
    """
    return replace(stopping, seconds_saved=reference_seconds * stopping.num_saved)


def look_in_words(look: PlannedLook, looks: Sequence[PlannedLook], found: Estimate | None) -> str:
    """What is said while a validation goes on."""
    shown = "no Spearman yet" if found is None else f"Spearman {found}"
    return f"look {look.number} of at most {len(looks)}, n = {look.size}: {shown}; not settled yet"


def stopping_words(stopping: Stopping | None) -> str:
    """Why a validation used as many architectures as it did; empty where all were asked for."""
    if stopping is None:
        return ""
    threshold, used = decimal(stopping.threshold), f"{stopping.num_used} of at most"
    where = (
        f"{used} {stopping.max_architectures} architectures (look {stopping.look} of at most "
        f"{stopping.num_looks}, intervals hold over all of them)"
    )
    if stopping.outcome == "open":
        return (
            f"Not settled after {where}: whether Spearman reaches {threshold}; raise "
            "validate.num_architectures.max to go on."
        )
    verb = "reaches" if stopping.outcome == "reached" else "does not reach"
    return f"Settled after {where}: Spearman {verb} {threshold}{_saved(stopping)}."


def _saved(stopping: Stopping) -> str:
    if not stopping.num_saved or not stopping.seconds_saved:
        return ""
    references = "reference was" if stopping.num_saved == 1 else "references were"
    return (
        f"; {stopping.num_saved} {references} not trained, which saves about "
        f"{duration(stopping.seconds_saved)}"
    )
