"""From the evaluations of architectures to one ranking of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from nas_proxy.scores.combine import Score
from nas_proxy.study.context import StudyContext
from nas_proxy.types import Architecture, Evaluation
from nas_proxy.validate.values import Kind, Ranking

Evaluations = Mapping[Architecture, Evaluation]


def ranking_by(
    study: StudyContext,
    name: str,
    kind: Kind,
    evaluations: Evaluations,
    score: Score,
    *,
    one_off_seconds: float = 0.0,
) -> Ranking:
    """How a score ranks what was evaluated.

    Args:
        study: Knows what an evaluation costs on its device.
        name: In words.
        kind: See `Ranking`.
        evaluations: Failed ones have no score, and are counted.
        score: What is higher for better ones.
        one_off_seconds: See `Ranking`.
    """
    return Ranking(
        name=name,
        kind=kind,
        scores={a: score.of(e) for a, e in evaluations.items() if e.complete},
        seconds_per_architecture=mean_cost(study, evaluations),
        one_off_seconds=one_off_seconds,
        failures=failures(evaluations),
    )


def mean_cost(study: StudyContext, evaluations: Evaluations) -> float:
    """Mean seconds of an evaluation; see `StudyContext.cost`."""
    return sum(map(study.cost, evaluations.values())) / len(evaluations)


def failures(evaluations: Evaluations) -> Mapping[str, int]:
    """Reasons and how often each."""
    return Counter(e.reason for e in evaluations.values() if not e.complete)
