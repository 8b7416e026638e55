"""The Pareto front of a search: what no other trial beats in every objective at once.

The score is maximised; every other objective is a cost and minimised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

SCORE = "score"
Pick = Literal["knee", "all", "max_accuracy"]


class HasObjectives(Protocol):
    """A trial, as far as a front is concerned."""

    @property
    def objectives(self) -> Mapping[str, float]:
        """Value of each objective by its name."""


T = TypeVar("T", bound=HasObjectives)


def pareto_front(trials: Sequence[T]) -> list[T]:
    """The trials that no other one dominates, the best score first.

    One dominates another that is better in no objective and worse in one. Trials with the very
    same values do not dominate one another and stay together.

    Args:
        trials: With the same objectives each, every value finite.
    """
    if not trials:
        return []
    losses = _losses(trials)
    front: list[int] = []
    # In lexicographic order nothing is dominated by what comes after it.
    for index in np.lexsort(losses.T[::-1]):
        better = losses[front] <= losses[index]
        same = (losses[front] == losses[index]).all(axis=1)
        if not (better.all(axis=1) & ~same).any():
            front.append(int(index))
    front.sort(key=lambda index: (-_score(trials[index]), index))
    return [trials[index] for index in front]


def knee(front: Sequence[T]) -> T:
    """The member that gives up least of everything: furthest from the chord between the ends.

    Each objective is stretched to [0, 1] over the front, costs by their logarithms: twice the size
    is as much more at ten thousand parameters as at ten million. With two objectives the knee is
    then the point at the largest distance from the straight line between the two ends, on its good
    side (Das, "On characterizing the knee of the Pareto curve based on normal-boundary
    intersection", Structural Optimization 1999); with more, the line becomes the plane through the
    unit points of all axes. Where nothing lies on the good side of it, and among equals, the best
    score wins.

    Args:
        front: As `pareto_front` gives it; at least one.
    """
    losses = _losses(front)
    for column, name in enumerate(front[0].objectives):
        if name != SCORE:
            losses[:, column] = _logarithms(losses[:, column])
    low = losses.min(axis=0)
    span = losses.max(axis=0) - low
    away = ((losses - low) / np.where(span > 0, span, 1)).sum(axis=1)
    # An end that is best in all costs and worst in score lies on the plane: it is no knee.
    if away.min() > 1 - 1e-9:
        return max(front, key=_score)
    # Equal up to rounding is equal.
    least = np.flatnonzero(np.isclose(away, away.min(), rtol=0, atol=1e-9)).tolist()
    return max((front[index] for index in least), key=_score)


def pick(front: Sequence[T], how: Pick) -> list[T]:
    """The members of a front that go on.

    Args:
        front: As `pareto_front` gives it; empty if no trial succeeded.
        how: `all` of them, the best score first; the `knee`; or the one of the highest score,
            `max_accuracy`.
    """
    if how == "all" or not front:
        return list(front)
    return [knee(front) if how == "knee" else max(front, key=_score)]


def _score(trial: HasObjectives) -> float:
    return float(trial.objectives[SCORE])


def _losses(trials: Sequence[HasObjectives]) -> NDArray[np.float64]:
    """Values to be minimised, `(num_trials, num_objectives)`."""
    names = list(trials[0].objectives)
    values = [[trial.objectives[name] for name in names] for trial in trials]
    return np.array(values, dtype=np.float64) * [-1 if name == SCORE else 1 for name in names]


def _logarithms(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithms of costs; one that is zero counts as the smallest that is not."""
    positive = costs[costs > 0]
    smallest = positive.min() if len(positive) else 1.0
    return np.asarray(np.log(np.maximum(costs, smallest)), dtype=np.float64)
