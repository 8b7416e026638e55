"""The strictest control without training: the best combination of zero-cost scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import scipy

from nas_proxy.statistics import ranks
from nas_proxy.types import Architecture
from nas_proxy.validate.values import Ranking


def best_combination(
    rankings: Sequence[Ranking],
    architectures: Sequence[Architecture],
    reference: Mapping[Architecture, float],
) -> Ranking | None:
    """The mean of ranks of those rankings that together agree best with the reference.

    It starts from the best ranking and adds the one that helps most, as long as one helps. It is
    chosen by the very reference that judges it, so it looks better than it is: what beats it
    adds something that these rankings do not know.

    Args:
        rankings: Such as all zero-cost scores.
        architectures: Of the choice; those that a ranking or the reference lacks are left out of
            it, and each combination scores what all its members have.
        reference: Higher is better.

    Returns:
        None if no combination is better than the best ranking alone, or too few architectures
        have everything.
    """
    shared = [a for a in architectures if all(a in s for s in (reference, *_scores(rankings)))]
    if len(shared) < ranks.MIN_ARCHITECTURES or len(rankings) < 2:
        return None
    ordered = np.array([[scores[a] for a in shared] for scores in _scores(rankings)])
    chosen = _forward(
        scipy.stats.rankdata(ordered, axis=-1), np.array([reference[a] for a in shared])
    )
    if len(chosen) < 2:
        return None
    members = [rankings[index] for index in chosen]
    return Ranking(
        name=f"the best zero-cost combination, found afterwards ({_names(members)})",
        kind="control",
        scores=_rank_means(members),
        seconds_per_architecture=sum(member.seconds_per_architecture for member in members),
        failures=sum((Counter(member.failures or {}) for member in members), Counter[str]()),
    )


def _forward(table: ranks.Values, reference: ranks.Values) -> list[int]:
    """Indices of the rows of ranks `(m, n)` whose mean agrees best, each the best addition."""
    chosen: list[int] = []
    reached = -np.inf
    while len(chosen) < len(table):
        rest = [index for index in range(len(table)) if index not in chosen]
        sums = table[chosen].sum(axis=0) + table[rest]
        agreements = ranks.spearman(sums, np.broadcast_to(reference, sums.shape))
        agreements = np.where(np.isfinite(agreements), agreements, -np.inf)
        best = int(np.argmax(agreements))
        if agreements[best] <= reached:
            break
        chosen.append(rest[best])
        reached = agreements[best]
    return chosen


def _rank_means(members: Sequence[Ranking]) -> dict[Architecture, float]:
    shared = [a for a in members[0].scores if all(a in scores for scores in _scores(members))]
    values = np.array([[scores[a] for a in shared] for scores in _scores(members)])
    means = scipy.stats.rankdata(values, axis=-1).mean(axis=0)
    return dict(zip(shared, means.tolist(), strict=True))


def _scores(rankings: Sequence[Ranking]) -> list[Mapping[Architecture, float]]:
    return [ranking.scores for ranking in rankings]


def _names(rankings: Sequence[Ranking]) -> str:
    return " + ".join(ranking.name for ranking in rankings)
