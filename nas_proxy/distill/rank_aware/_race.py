"""A race of training sets: which of them ranks architectures best, with as few trainings as can be.

Architectures are divided into folds and rounds. What is known of the images for one fold comes from
the other folds alone, so no set is judged on architectures that helped to choose it. After each
round the sets that are beaten leave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_proxy.reproducibility import make_generator
from nas_proxy.statistics import ranks

Train = Callable[[list[tuple[int, int]]], None]
"""Trains pairs of a set and an architecture, and enters their signals."""

CONTROL = 0  # the first set is the control: it runs to the end
NUM_FOLDS = 2
_NUM_RESAMPLES = 1000
_DOUBT = 0.05  # a set that wins in fewer resamples than this is beaten beyond doubt


@dataclass(frozen=True, eq=False)
class Plan:
    """When each architecture runs, and by which part of the others its sets are chosen.

    Attributes:
        folds: Fold of each architecture, int64 `(n,)`; -1 for those that do not take part.
        rounds: Round of each, alike.
        num_rounds: How many rounds there are.
    """

    folds: Tensor
    rounds: Tensor
    num_rounds: int

    def members(self, number: int) -> list[int]:
        """Architectures of a round."""
        return torch.nonzero(self.rounds == number).flatten().tolist()

    def most_trainings(self, num_sets: int) -> int:
        """Trainings that the race takes at most."""
        total = 0
        for number in range(self.num_rounds):
            total += num_sets * len(self.members(number))
            num_sets = min(num_sets, _num_kept(num_sets) + 1)  # and the control
        return total


def make_plan(references: Tensor, taking_part: Sequence[int], num_rounds: int, seed: int) -> Plan:
    """Spread good and bad architectures evenly over folds and rounds.

    Args:
        references: Of all architectures, `(n,)`.
        taking_part: Positions of those that run.
        num_rounds: In how many steps.
        seed: Decides what the references leave open.
    """
    generator = make_generator(seed)
    num_cells = NUM_FOLDS * num_rounds
    folds = torch.full((len(references),), -1)
    rounds = folds.clone()
    ranked = sorted(taking_part, key=lambda position: float(references[position]))
    for start in range(0, len(ranked), num_cells):
        block = ranked[start : start + num_cells]
        cells = torch.randperm(num_cells, generator=generator)[: len(block)]
        folds[block] = cells % NUM_FOLDS
        rounds[block] = cells // NUM_FOLDS
    return Plan(folds, rounds, num_rounds)


@dataclass(frozen=True, eq=False)
class Race:
    """Sets against one another.

    Attributes:
        names: Of the sets; the first is the control.
        references: What full training of each architecture reached, `(n,)`.
        plan: Folds and rounds.
        signals: What training on each set said of each architecture, higher is better, float64
            `(num_sets, n)`; entered while the race runs, NaN where a training failed.
        seed: Of the resamples by which sets are compared.
    """

    names: Sequence[str]
    references: Tensor
    plan: Plan
    signals: Tensor
    seed: int

    def run(self, train: Train) -> int:
        """The set that ranks best; where several do, the first."""
        alive = list(range(len(self.names)))
        for number in range(self.plan.num_rounds):
            if len(alive) == 1:
                break
            train([(each, a) for a in self.plan.members(number) for each in alive])
            alive = self._without_failures(alive, self._seen(number))
            if number < self.plan.num_rounds - 1:
                alive = self._survivors(alive, self._comparable(self._seen(number)))
        return self._best(alive, self.comparable())

    def comparable(self) -> list[int]:
        """Architectures whose trainings on the control ended well; they decide."""
        return self._comparable(self._seen(self.plan.num_rounds - 1))

    def table(self) -> dict[str, dict[str, Any]]:
        """What the race found out about each set, by name, as JSON values.

        `spearman` is the correlation within the folds over `num_architectures`, None where it is
        undefined; `minus_random` is the difference to the control on the same architectures, with
        the ends of its 95 % interval. Sets that left early were measured on fewer.
        """
        return {name: self._row(each) for each, name in enumerate(self.names)}

    def _row(self, each: int) -> dict[str, Any]:
        members = [a for a in self.comparable() if bool(self.signals[each, a].isfinite())]
        own, control = (self._correlation(s, members) for s in (each, CONTROL))
        row: dict[str, Any] = {"spearman": _rounded(own), "num_architectures": len(members)}
        if each != CONTROL:
            scores, reference, strata = self._by_fold([each, CONTROL], members)
            found = ranks.estimate(
                ranks.difference_of(ranks.spearman_within(strata)),
                scores,
                reference,
            )
            low, high = (None, None) if found is None else (found.low, found.high)
            row["minus_random"] = [_rounded(value) for value in (own - control, low, high)]
        return row

    def _seen(self, number: int) -> list[int]:
        return [a for earlier in range(number + 1) for a in self.plan.members(earlier)]

    def _comparable(self, seen: Sequence[int]) -> list[int]:
        return [a for a in seen if bool(self.signals[CONTROL, a].isfinite())]

    def _without_failures(self, alive: Sequence[int], seen: Sequence[int]) -> list[int]:
        """A set on which a training fails that did not on random images is no instrument."""
        members = self._comparable(seen)
        return [each for each in alive if bool(self.signals[each, members].isfinite().all())]

    def _survivors(self, alive: Sequence[int], members: Sequence[int]) -> list[int]:
        leader = self._best(alive, members)
        kept = sorted(alive, key=lambda each: -_or_worst(self._correlation(each, members)))
        kept = kept[: _num_kept(len(alive))]
        return [
            each
            for each in alive
            if each in (CONTROL, leader)
            or (each in kept and self._share_won(each, leader, members) >= _DOUBT)
        ]

    def _share_won(self, each: int, leader: int, members: Sequence[int]) -> float:
        """Of the resamples on which a set is as good as the leader, or better."""
        scores, reference, strata = self._by_fold([each, leader], members)
        ahead = ranks.resampled(
            ranks.difference_of(ranks.spearman_within(strata)),
            scores,
            reference,
            num_resamples=_NUM_RESAMPLES,
            rng=np.random.default_rng(self.seed),
            strata=strata,
        )
        return float(np.mean(ahead >= 0))

    def _best(self, alive: Sequence[int], members: Sequence[int]) -> int:
        return max(alive, key=lambda each: _or_worst(self._correlation(each, members)))

    def _correlation(self, each: int, members: Sequence[int]) -> float:
        """Of ranks within the folds: what is measured on their sets may differ in scale."""
        if not members:
            return np.nan
        (scores,), reference, strata = self._by_fold([each], members)
        return float(ranks.spearman_within(strata)(scores, reference))

    def _by_fold(
        self, sets: Sequence[int], members: Sequence[int]
    ) -> tuple[ranks.Values, ranks.Values, list[int]]:
        """Signals `(len(sets), n)` and references `(n,)` of members, and how many each fold has."""
        chosen = torch.tensor(members, dtype=torch.int64)
        parts = [chosen[self.plan.folds[chosen] == fold] for fold in range(NUM_FOLDS)]
        order = torch.cat(parts)
        scores = torch.stack([self.signals[each, order] for each in sets])
        strata = [len(part) for part in parts if len(part)]
        return scores.numpy(), self.references[order].numpy(), strata


def _num_kept(num_sets: int) -> int:
    """The better half goes on."""
    return -(-num_sets // 2)


def _or_worst(correlation: float) -> float:
    """A set under which all architectures look alike tells nothing: it is behind all others."""
    return correlation if np.isfinite(correlation) else -np.inf


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 4)
