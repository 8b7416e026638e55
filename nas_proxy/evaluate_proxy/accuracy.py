"""Test accuracies of fixed networks, and what they say of a proxy data set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nas_proxy.networks.catalogue import NetworkSettings, describe
from nas_proxy.statistics.accuracy import SeedMean
from nas_proxy.types import Evaluation

Condition = str
AS_IS, HARD, RANDOM, FULL = "as it is", "hard labels", "random images", "full data"
CONDITIONS: tuple[Condition, ...] = (AS_IS, HARD, RANDOM, FULL)
"""What networks are trained on: the set; its images with their classes as labels; as many random
images with the same kind of labels; all search-training images with their classes."""


@dataclass(frozen=True)
class NetworkAccuracies:
    """What one network made of the set.

    Attributes:
        network: In words.
        accuracies: Test accuracy by condition; one that failed for every seed is missing.
        hard_label_recovery: Full data minus the set with hard labels: what is still missing.
        improvement_over_random: The set minus random images with the same labels.
        label_robust_score: Both in one number in [0, 1]; None where one is missing.
        confusion: Test images of each class (rows) taken for each class (columns), all seeds.
        failures: Reasons of failed trainings, by condition.
    """

    network: str
    accuracies: Mapping[Condition, SeedMean]
    hard_label_recovery: SeedMean | None
    improvement_over_random: SeedMean | None
    label_robust_score: float | None
    confusion: tuple[tuple[int, ...], ...]
    failures: Mapping[Condition, tuple[str, ...]]

    @property
    def class_accuracies(self) -> tuple[float, ...]:
        """Share of each class's test images that was found, `(num_classes,)`."""
        return tuple(row[label] / max(1, sum(row)) for label, row in enumerate(self.confusion))

    def to_json(self) -> dict[str, Any]:
        """JSON values with the attributes' names."""
        return {**asdict(self), "class_accuracies": self.class_accuracies}


def network_accuracies(
    settings: NetworkSettings,
    evaluations: Mapping[Condition, Sequence[Evaluation]],
    *,
    hard_label_weight: float,
) -> NetworkAccuracies:
    """Put the evaluations of one network together.

    Args:
        settings: Which network.
        evaluations: One for each seed, by condition; `HARD` may be missing where the labels of
            the set are hard already.
        hard_label_weight: See `label_robust_score`.
    """
    accuracies = {
        condition: SeedMean.of(found)
        for condition, each in evaluations.items()
        if (found := [e.signals["test_accuracy"] for e in each if e.complete])
    }
    as_is, full, random = (accuracies.get(c) for c in (AS_IS, FULL, RANDOM))
    hard = accuracies.get(HARD) if HARD in evaluations else as_is
    recovery = full.minus(hard) if full is not None and hard is not None else None
    improvement = as_is.minus(random) if as_is is not None and random is not None else None
    score = None
    if recovery is not None and improvement is not None:
        score = label_robust_score(recovery.mean, improvement.mean, hard_label_weight)
    matrices = [e.confusion for e in evaluations[AS_IS] if e.complete]
    total = np.sum(matrices, axis=0).tolist() if matrices else []
    return NetworkAccuracies(
        network=describe(settings),
        accuracies=accuracies,
        hard_label_recovery=recovery,
        improvement_over_random=improvement,
        label_robust_score=score,
        confusion=tuple(map(tuple, total)),
        failures={
            condition: tuple(e.reason for e in each if not e.complete)
            for condition, each in evaluations.items()
            if not all(e.complete for e in each)
        },
    )


def label_robust_score(recovery: float, improvement: float, hard_label_weight: float) -> float:
    """The label-robust score of DD-Ranking (Li et al. 2025), in [0, 1]; higher is better.

    Args:
        recovery: Hard-label recovery, a difference of accuracies in [0, 1].
        improvement: Improvement over random, likewise.
        hard_label_weight: Of the recovery; one half on their leaderboard.
    """
    alpha = (1 - hard_label_weight) * improvement - hard_label_weight * recovery
    return (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))


@dataclass(frozen=True)
class Stability:
    """How far the figures move with what they should not depend on.

    Attributes:
        over_seeds: Largest standard deviation over seeds of any network's accuracy.
        across_networks: Standard deviation of the networks' mean accuracies.
        worst_decay: How much less than the best network the worst one reaches, as a share of it.
        rank_agreement: Spearman of the networks' mean accuracies with those on the full data;
            None below four networks.
    """

    over_seeds: float
    across_networks: float
    worst_decay: float
    rank_agreement: float | None


def stability(networks: Sequence[NetworkAccuracies]) -> Stability | None:
    """Over all networks that were trained on the set; None if there are fewer than two."""
    from scipy.stats import spearmanr

    used = [each for each in networks if AS_IS in each.accuracies]
    if len(used) < 2:
        return None
    figures = [each.accuracies[AS_IS] for each in used]
    means = np.array([figure.mean for figure in figures])
    full = [w.accuracies[FULL].mean for w in used if FULL in w.accuracies]
    comparable = len(full) == len(used) and len(used) >= 4
    return Stability(
        over_seeds=max(float(np.std(f.values, ddof=1)) for f in figures if len(f.values) > 1),
        across_networks=float(means.std(ddof=1)),
        worst_decay=float(1 - means.min() / means.max()),
        rank_agreement=float(spearmanr(means, full).statistic) if comparable else None,
    )
