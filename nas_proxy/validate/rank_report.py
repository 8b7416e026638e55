"""How well each way of ranking agrees with the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from nas_proxy.interfaces import SearchSpace
from nas_proxy.statistics import needed, ranks
from nas_proxy.statistics.intervals import CONFIDENCE
from nas_proxy.statistics.ranks import Estimate, Values, estimate
from nas_proxy.types import Architecture
from nas_proxy.validate import _verdict as verdict
from nas_proxy.validate.coverage import Uncertainty, check_uncertainty
from nas_proxy.validate.settings import BestPart
from nas_proxy.validate.values import (
    Difference,
    Point,
    Points,
    Ranking,
    RankReport,
    RankRow,
    Sample,
    Slice,
    Stopping,
)

SLICES = (0.1, 0.2)  # the best parts that every report shows, whatever its `best_fraction`


def judge(
    judged: Ranking,
    others: Sequence[Ranking],
    sample: Sample,
    settings: BestPart,
    *,
    reference_name: str,
    reference_seconds: float,
    stopping: Stopping | None = None,
) -> RankReport:
    """Compare every ranking with the reference, and the judged one with every control.

    Args:
        judged: The proxy's.
        others: What it is held against; one of kind `ceiling` becomes no row.
        sample: On which they are judged.
        settings: Sizes of the best part, and k.
        reference_name: In words.
        reference_seconds: Per architecture.
        stopping: Where a sequential validation stopped; its confidence is that of every interval.
    """
    confidence = CONFIDENCE if stopping is None else stopping.confidence
    judges = _Judge(judged, sample, settings, confidence)
    compared = [ranking for ranking in others if ranking.kind != "ceiling"]
    own_row = judges.row(judged)
    alone = [judges.row(ranking) for ranking in compared]
    together = zip(alone, verdict.outcomes(alone, confidence), strict=True)
    rows = tuple(replace(row, outcome=outcome) for row, outcome in together)
    again = next((ranking for ranking in others if ranking.kind == "ceiling"), None)
    ceiling = judges.row(again) if again is not None else None
    next_level, num_more = verdict.open_question(own_row, confidence)
    sizes = tuple(sample.sizes)
    return RankReport(
        judged=own_row,
        rows=rows,
        reference_name=reference_name,
        reference_seconds_per_architecture=reference_seconds,
        num_architectures=len(sample.architectures),
        best_fraction=settings.best_fraction,
        k=settings.k,
        verdict=verdict.headline(own_row, rows, sizes, sample, stopping),
        comparisons=tuple(
            verdict.compare(row, own_row, confidence) for row in rows if row.kind == "control"
        ),
        sizes=sizes,
        size_words=verdict.size_words(own_row, sizes, confidence),
        next_level=next_level,
        num_more_architectures=num_more,
        differences=judges.differences(compared, rows),
        ceiling=ceiling,
        ceiling_words=verdict.ceiling_words(ceiling),
        stopping=stopping,
    )


def judged_row(judged: Ranking, sample: Sample, settings: BestPart, confidence: float) -> RankRow:
    """The row of the judged ranking alone, as at a look before the last."""
    return _Judge(judged, sample, settings, confidence).row(judged)


def points_of(
    space: SearchSpace, sample: Sample, judged: Ranking, others: Sequence[Ranking]
) -> Points:
    """Every architecture of the sample with its reference and what each ranking says of it."""
    predictions, deviations = judged.predictions or {}, judged.deviations or {}
    return Points(
        tuple(
            Point(
                architecture=architecture,
                architecture_id=architecture.id,
                description=space.describe(architecture),
                reference=sample.reference.get(architecture),
                sizes={name: sizes.get(architecture) for name, sizes in sample.sizes.items()},
                scores={r.name: r.scores.get(architecture) for r in (judged, *others)},
                prediction=predictions.get(architecture),
                deviation=deviations.get(architecture),
            )
            for architecture in sample.architectures
        )
    )


@dataclass(frozen=True)
class _Judge:
    """What all rows are computed with.

    Attributes:
        judged: The ranking from which every other's difference is taken.
        sample: On which rankings are judged.
        settings: Sizes of the best part, and k.
        confidence: Of every interval.
    """

    judged: Ranking
    sample: Sample
    settings: BestPart
    confidence: float = CONFIDENCE

    def _estimate(
        self, statistic: ranks.Statistic, scores: Values, reference: Values
    ) -> Estimate | None:
        return estimate(statistic, scores, reference, confidence=self.confidence)

    def row(self, ranking: Ranking) -> RankRow:
        """Every figure of one ranking."""
        sample, k = self.sample, self.settings.k
        scores, reference = self._paired([ranking.scores])
        fraction = self.settings.best_fraction
        best, best_reference = self._paired([ranking.scores], self._best_part(fraction))
        shared = self._paired([self.judged.scores, ranking.scores])
        sized = self._paired([ranking.scores, *sample.sizes.values()])
        enough, num_best = len(reference) > k, ranks.num_best(fraction, len(reference))

        def whole(statistic: ranks.Statistic) -> Estimate | None:
            return self._estimate(statistic, scores[0], reference)

        return RankRow(
            name=ranking.name,
            kind=ranking.kind,
            n=len(reference),
            num_failed=sum((ranking.failures or {}).values()),
            failures=dict(ranking.failures or {}),
            spearman=whole(ranks.spearman),
            kendall=whole(ranks.kendall),
            precision_at_k=whole(ranks.precision_at(k)) if enough else None,
            regret_at_k=whole(ranks.regret_at(k)) if enough else None,
            n_best=len(best_reference),
            spearman_best=self._estimate(ranks.spearman, best[0], best_reference),
            kendall_best=self._estimate(ranks.kendall, best[0], best_reference),
            difference=(
                None
                if ranking is self.judged
                else self._estimate(ranks.spearman_difference, *shared)
            ),
            n_difference=len(shared[1]),
            seconds_per_architecture=ranking.seconds_per_architecture,
            one_off_seconds=ranking.one_off_seconds,
            partial_spearman=self._estimate(ranks.partial_spearman, *sized)
            if sample.sizes
            else None,
            n_partial=len(sized[1]) if sample.sizes else 0,
            ndcg=whole(ranks.ndcg_at(num_best)),
            regret_at_1=whole(ranks.regret_at(1)),
            slices=tuple(self._slice(ranking, fraction) for fraction in SLICES),
            uncertainty=self._uncertainty(ranking),
            spearman_failures_last=self._failures_last(ranking),
        )

    def _failures_last(self, ranking: Ranking) -> Estimate | None:
        """A second seed of the reference, which has not been asked of all, is left alone."""
        if not ranking.failures or not ranking.scores or ranking.kind == "ceiling":
            return None
        last = min(ranking.scores.values()) - 1
        everyone = {a: ranking.scores.get(a, last) for a in self.sample.architectures}
        scores, reference = self._paired([everyone])
        return self._estimate(ranks.spearman, scores[0], reference)

    def _slice(self, ranking: Ranking, fraction: float) -> Slice:
        scores, reference = self._paired([ranking.scores])
        best, best_reference = self._paired([ranking.scores], self._best_part(fraction))
        k = ranks.num_best(fraction, len(reference))
        return Slice(
            fraction=fraction,
            n=len(best_reference),
            spearman=self._estimate(ranks.spearman, best[0], best_reference),
            k=k,
            precision=self._estimate(ranks.precision_at(k), scores[0], reference),
        )

    def _uncertainty(self, ranking: Ranking) -> Uncertainty | None:
        if ranking.predictions is None or ranking.deviations is None:
            return None
        sides = [ranking.predictions, ranking.deviations]
        (predictions, deviations), reference = self._paired(sides)
        if ranking.to_unit is not None:
            reference = np.array([ranking.to_unit(value) for value in reference.tolist()])
        return check_uncertainty(predictions, deviations, reference)

    def differences(
        self, others: Sequence[Ranking], rows: Sequence[RankRow]
    ) -> tuple[Difference, ...]:
        """Every two rankings; those with the judged one are the rows' own.

        Args:
            others: Without the judged ranking.
            rows: Theirs.
        """
        found = [
            self._difference(self.judged.name, row.name, row.difference, row.n_difference)
            for row in rows
        ]
        for first, second in combinations(others, 2):
            sides = [first.scores, second.scores]
            shared = self._paired(sides)
            difference = self._estimate(ranks.spearman_difference, *shared)
            found.append(self._difference(first.name, second.name, difference, len(shared[1])))
        return tuple(found)

    def _difference(self, first: str, second: str, spearman: Estimate | None, n: int) -> Difference:
        num_to_tell = None
        if spearman is not None and not verdict.is_told(spearman):
            num_to_tell = needed.to_tell_apart(spearman, n, self.confidence)
        return Difference(first, second, n, spearman, num_to_tell)

    def _best_part(self, fraction: float) -> list[Architecture]:
        """The best part by reference, with all that are tied with the last of it."""
        architectures, reference = self.sample.architectures, self.sample.reference
        known = [reference[a] for a in architectures if a in reference]
        if not known:
            return []
        threshold = sorted(known, reverse=True)[ranks.num_best(fraction, len(known)) - 1]
        return [a for a in architectures if reference.get(a, -np.inf) >= threshold]

    def _paired(
        self,
        columns: Sequence[Mapping[Architecture, float]],
        among: Sequence[Architecture] | None = None,
    ) -> tuple[Values, Values]:
        """Columns `(m, n)` and reference `(n,)` of the architectures that every side has."""
        sides = [*columns, self.sample.reference]
        drawn = self.sample.architectures if among is None else among
        shared = [a for a in drawn if all(a in side for side in sides)]
        values = np.array([[side[a] for a in shared] for side in sides], dtype=np.float64)
        return values[:-1], values[-1]
