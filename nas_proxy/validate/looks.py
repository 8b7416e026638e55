"""Looks at references: which architectures have judged or chosen something before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_ORDINALS = {2: "Second", 3: "Third", 4: "Fourth", 5: "Fifth"}


@dataclass(frozen=True, kw_only=True)
class Look:
    """One comparison of rankings with references, after which both are known to whoever chooses.

    Attributes:
        stage: `calibrate` chose a recipe, `validate` judged one.
        created: When, as ISO 8601 text.
        ranking: What was looked at, in words.
        ranking_id: Hash of what its scores depend on.
        reference: What it was compared with, in words.
        reference_id: Hash of that.
        architectures: Ids of those whose references were looked at.
        verdict: What came out.
        sequential: Whether its interval allows for the looks before and after it at the same
            ranking and reference.
    """

    stage: Literal["calibrate", "validate"]
    created: str
    ranking: str
    ranking_id: str
    reference: str
    reference_id: str
    architectures: tuple[str, ...]
    verdict: str
    sequential: bool = False

    def is_of(self, other: Look) -> bool:
        """Whether the same ranking is held against the same reference, on whatever sample."""
        return (self.stage, self.ranking_id, self.reference_id) == (
            other.stage, other.ranking_id, other.reference_id
        )  # fmt: skip

    def allows_for(self, other: Look) -> bool:
        """Whether the other is one of those that this one's interval allows for."""
        return self.sequential and other.sequential and self.is_of(other)

    def repeats(self, other: Look) -> bool:
        """Whether this is the other look again, from which nothing new can be learned."""
        own, others = set(self.architectures), set(other.architectures)
        return self.is_of(other) and self.sequential == other.sequential and own == others


def look_words(look: Look, earlier: Sequence[Look]) -> str:
    """Whether these architectures have been looked at before; empty if none has.

    Args:
        look: This one.
        earlier: All before it, in order.
    """
    own = set(look.architectures)
    before = [each for each in earlier if own & set(each.architectures)]
    if not before:
        return ""
    number = len(before) + 1
    known = own & {name for each in before for name in each.architectures}
    last = before[-1]
    return (
        f"{_ORDINALS.get(number, f'{number}th')} look at these architectures: {len(known)} of "
        f"{len(own)} were looked at before, last by {last.stage} on {last.created[:10]} for "
        f"{last.ranking} against {last.reference}; what was chosen since may owe its figures to "
        "that."
    )
