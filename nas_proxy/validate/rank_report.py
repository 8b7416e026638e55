"""How well each way of ranking agrees with the reference."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np

from nas_proxy.statistics import ranks
from nas_proxy.statistics.ranks import Estimate, Values
from nas_proxy.types import Architecture
from nas_proxy.validate import verdict
from nas_proxy.validate.coverage import Uncertainty, check_uncertainty
from nas_proxy.validate.settings import ValidateSettings

Kind = Literal["proxy", "control", "signal", "ceiling"]
SLICES = (0.1, 0.2)  # the best parts that every report shows, whatever its `best_fraction`


@dataclass(frozen=True)
class Ranking:
    """One way to rank the validation's architectures.

    Attributes:
        name: What it is, in words.
        kind: `proxy` is what is judged; `control` must be beaten; `signal` is for information;
            `ceiling` is the reference itself, once more.
        scores: Higher is better; architectures whose evaluation failed are missing.
        seconds_per_architecture: Mean wall-clock seconds of one process.
        one_off_seconds: What it costs before the first architecture: distilling, the score's
            reference sample.
        failures: Reason and how often.
        predictions: What it expects of the reference; None if it only ranks.
        deviations: The standard deviations that it states for its predictions.
        to_unit: Turns a reference into the unit of predictions and deviations; None if they are in
            the reference's own.
    """

    name: str
    kind: Kind
    scores: Mapping[Architecture, float]
    seconds_per_architecture: float
    one_off_seconds: float = 0.0
    failures: Mapping[str, int] | None = None
    predictions: Mapping[Architecture, float] | None = None
    deviations: Mapping[Architecture, float] | None = None
    to_unit: Callable[[float], float] | None = None


@dataclass(frozen=True)
class Slice:
    """Agreement in the best part of the architectures.

    Attributes:
        fraction: How large the part is.
        n: Architectures in it by reference, the stratified ones included.
        spearman: Rho within it.
        k: Uniformly drawn architectures that make up the fraction.
        precision: Share of the k best by score that are among the k best by reference.
    """

    fraction: float
    n: int
    spearman: Estimate | None
    k: int
    precision: Estimate | None


@dataclass(frozen=True)
class RankRow:
    """The agreement of one ranking with the reference; None where a figure is not defined.

    Attributes:
        name: See `Ranking`.
        kind: See `Ranking`.
        n: Uniformly drawn architectures that both sides have a value for.
        num_failed: Evaluations that failed, over all architectures.
        failures: Their reasons.
        spearman: Rho over the uniform sample.
        kendall: Tau-b over the same.
        precision_at_k: See `ranks.precision_at`.
        regret_at_k: See `ranks.regret_at`; in the unit of the reference.
        n_best: Architectures in the best part, the stratified ones included.
        spearman_best: Rho within the best part by reference.
        kendall_best: Tau-b within the same.
        difference: Rho of the proxy minus rho of this row, on the architectures they share.
        n_difference: How many these are.
        seconds_per_architecture: See `Ranking`.
        one_off_seconds: See `Ranking`.
        partial_spearman: Rho at equal sizes; see `ranks.partial_spearman`.
        n_partial: Architectures of the uniform sample whose sizes are known too.
        ndcg: Of as many as the best part of the uniform sample holds; see `ranks.ndcg_at`.
        regret_at_1: What the one architecture that it would pick lacks to the best.
        slices: One for each of `SLICES`.
        uncertainty: Whether its stated deviations are right; None if it states none.
    """

    name: str
    kind: Kind
    n: int
    num_failed: int
    failures: Mapping[str, int]
    spearman: Estimate | None
    kendall: Estimate | None
    precision_at_k: Estimate | None
    regret_at_k: Estimate | None
    n_best: int
    spearman_best: Estimate | None
    kendall_best: Estimate | None
    difference: Estimate | None
    n_difference: int
    seconds_per_architecture: float
    one_off_seconds: float
    partial_spearman: Estimate | None
    n_partial: int
    ndcg: Estimate | None
    regret_at_1: Estimate | None
    slices: tuple[Slice, ...]
    uncertainty: Uncertainty | None


@dataclass(frozen=True)
class Difference:
    """Two rankings on the architectures that both of them, and the reference, have.

    Attributes:
        first: Name of one.
        second: Name of the other.
        n: How many architectures these are.
        spearman: Rho of the first minus rho of the second, resampled in pairs.
        num_to_tell: How many architectures would tell them apart if these do not; None if they do.
    """

    first: str
    second: str
    n: int
    spearman: Estimate | None
    num_to_tell: int | None


@dataclass(frozen=True)
class RankReport:
    """The validator's result.

    Attributes:
        rows: The proxy first, then the controls, then the single signals.
        reference_name: What the reference is, in words.
        reference_seconds_per_architecture: 0 for a table.
        num_architectures: Drawn uniformly.
        num_stratified: Drawn beside them.
        best_fraction: The best part.
        k: Of precision and regret.
        verdict: The headline, one sentence, and what limits it.
        comparisons: One sentence for each control.
        sizes: What `partial_spearman` holds equal, in words.
        size_words: Whether the proxy knows more than size; empty if sizes are not known.
        next_level: The next better reading's lower bound, if the interval leaves it open.
        num_more_architectures: How many more than there are would settle that.
        differences: Every two rows.
        ceiling: One seed of the reference against another; None if there is no other.
        ceiling_words: What follows from it, or that it is not known.
    """

    rows: tuple[RankRow, ...]
    reference_name: str
    reference_seconds_per_architecture: float
    num_architectures: int
    num_stratified: int
    best_fraction: float
    k: int
    verdict: str
    comparisons: tuple[str, ...]
    sizes: tuple[str, ...]
    size_words: str
    next_level: float | None
    num_more_architectures: int | None
    differences: tuple[Difference, ...]
    ceiling: RankRow | None
    ceiling_words: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values with the attributes' names."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Sample:
    """The architectures of a validation and what the reference says of them.

    Attributes:
        uniform: Drawn uniformly.
        stratified: Drawn over the strata of the score; may be empty.
        reference: Higher is better; failed ones are missing.
        sizes: Sizes of the architectures by their names in words, such as parameters.
    """

    uniform: Sequence[Architecture]
    stratified: Sequence[Architecture]
    reference: Mapping[Architecture, float]
    sizes: Mapping[str, Mapping[Architecture, float]] = field(default_factory=dict)


def judge(
    rankings: Sequence[Ranking],
    sample: Sample,
    settings: ValidateSettings,
    *,
    reference_name: str,
    reference_seconds: float,
    rng: np.random.Generator,
) -> RankReport:
    """Compare every ranking with the reference, and the proxy with every control.

    Args:
        rankings: The first one is the proxy's; one of kind `ceiling` becomes no row.
        sample: On which they are judged.
        settings: Sizes of the best part, k and the bootstrap.
        reference_name: In words.
        reference_seconds: Per architecture.
        rng: Of the bootstrap.
    """
    judges = _Judge(sample, settings, rng, rng.spawn(1)[0])
    proxy, compared = rankings[0], [r for r in rankings if r.kind != "ceiling"]
    rows = tuple(judges.row(ranking, proxy) for ranking in compared)
    again = next((ranking for ranking in rankings if ranking.kind == "ceiling"), None)
    ceiling = judges.row(again, proxy) if again is not None else None
    next_level, num_more = verdict.open_question(rows[0])
    size_words = verdict.size_words(rows[0], tuple(sample.sizes))
    return RankReport(
        rows=rows,
        reference_name=reference_name,
        reference_seconds_per_architecture=reference_seconds,
        num_architectures=len(sample.uniform),
        num_stratified=len(sample.stratified),
        best_fraction=settings.best_fraction,
        k=settings.k,
        verdict=verdict.headline(rows, size_words),
        comparisons=tuple(verdict.compare(row, rows[0]) for row in rows if row.kind == "control"),
        sizes=tuple(sample.sizes),
        size_words=size_words,
        next_level=next_level,
        num_more_architectures=num_more,
        differences=judges.differences(compared, rows),
        ceiling=ceiling,
        ceiling_words=verdict.ceiling_words(ceiling),
    )


@dataclass(frozen=True)
class _Judge:
    """What all rows are computed with.

    Attributes:
        sample: On which rankings are judged.
        settings: Sizes of the best part, k and the bootstrap.
        rng: Of the figures that reports have always had: those that came later leave it alone, so
            that the same study keeps its intervals.
        later_rng: Of the others.
    """

    sample: Sample
    settings: ValidateSettings
    rng: np.random.Generator
    later_rng: np.random.Generator

    def row(self, ranking: Ranking, proxy: Ranking) -> RankRow:
        """Every figure of one ranking."""
        sample, k = self.sample, self.settings.k
        scores, reference = _paired([ranking.scores], sample.uniform, sample)
        fraction = self.settings.best_fraction
        best, best_reference = _paired([ranking.scores], self._best_part(fraction), sample)
        shared = _paired([proxy.scores, ranking.scores], sample.uniform, sample)
        sized = _paired([ranking.scores, *sample.sizes.values()], sample.uniform, sample)
        enough, num_best = len(reference) > k, ranks.num_best(fraction, len(reference))
        figure, later = self._figure, self._later_figure
        return RankRow(
            name=ranking.name,
            kind=ranking.kind,
            n=len(reference),
            num_failed=sum((ranking.failures or {}).values()),
            failures=dict(ranking.failures or {}),
            spearman=figure(ranks.spearman, scores[0], reference),
            kendall=figure(ranks.kendall, scores[0], reference),
            precision_at_k=figure(ranks.precision_at(k), scores[0], reference) if enough else None,
            regret_at_k=figure(ranks.regret_at(k), scores[0], reference) if enough else None,
            n_best=len(best_reference),
            spearman_best=figure(ranks.spearman, best[0], best_reference),
            kendall_best=figure(ranks.kendall, best[0], best_reference),
            difference=None if ranking is proxy else figure(ranks.spearman_difference, *shared),
            n_difference=len(shared[1]),
            seconds_per_architecture=ranking.seconds_per_architecture,
            one_off_seconds=ranking.one_off_seconds,
            partial_spearman=later(ranks.partial_spearman, *sized) if sample.sizes else None,
            n_partial=len(sized[1]) if sample.sizes else 0,
            ndcg=later(ranks.ndcg_at(num_best), scores[0], reference),
            regret_at_1=later(ranks.regret_at(1), scores[0], reference),
            slices=tuple(self._slice(ranking, fraction) for fraction in SLICES),
            uncertainty=self._uncertainty(ranking),
        )

    def _slice(self, ranking: Ranking, fraction: float) -> Slice:
        scores, reference = _paired([ranking.scores], self.sample.uniform, self.sample)
        best, best_reference = _paired([ranking.scores], self._best_part(fraction), self.sample)
        k = ranks.num_best(fraction, len(reference))
        return Slice(
            fraction=fraction,
            n=len(best_reference),
            spearman=self._later_figure(ranks.spearman, best[0], best_reference),
            k=k,
            precision=self._later_figure(ranks.precision_at(k), scores[0], reference),
        )

    def _uncertainty(self, ranking: Ranking) -> Uncertainty | None:
        if ranking.predictions is None or ranking.deviations is None:
            return None
        sides = [ranking.predictions, ranking.deviations]
        (predictions, deviations), reference = _paired(sides, self.sample.uniform, self.sample)
        if ranking.to_unit is not None:
            reference = np.array([ranking.to_unit(value) for value in reference.tolist()])
        return check_uncertainty(predictions, deviations, reference)

    def differences(
        self, rankings: Sequence[Ranking], rows: Sequence[RankRow]
    ) -> tuple[Difference, ...]:
        """Every two rankings; those with the proxy are the rows' own."""
        found = []
        for first, second in combinations(range(len(rankings)), 2):
            if first == 0:
                estimate, n = rows[second].difference, rows[second].n_difference
            else:
                sides = [rankings[first].scores, rankings[second].scores]
                shared = _paired(sides, self.sample.uniform, self.sample)
                estimate = self._later_figure(ranks.spearman_difference, *shared)
                n = len(shared[1])
            num_to_tell = None
            if estimate is not None and not verdict.is_told(estimate):
                num_to_tell = ranks.num_architectures_to_tell(estimate, n)
            names = rankings[first].name, rankings[second].name
            found.append(Difference(*names, n, estimate, num_to_tell))
        return tuple(found)

    def _figure(self, statistic: ranks.Statistic, x: Values, y: Values) -> Estimate | None:
        return self._estimate(statistic, x, y, self.rng)

    def _later_figure(self, statistic: ranks.Statistic, x: Values, y: Values) -> Estimate | None:
        return self._estimate(statistic, x, y, self.later_rng)

    def _estimate(
        self, statistic: ranks.Statistic, x: Values, y: Values, rng: np.random.Generator
    ) -> Estimate | None:
        return ranks.estimate(statistic, x, y, num_resamples=self.settings.num_resamples, rng=rng)

    def _best_part(self, fraction: float) -> list[Architecture]:
        """Everything as good as the best part of the uniform sample, by reference."""
        sample = self.sample
        uniform = [sample.reference[a] for a in sample.uniform if a in sample.reference]
        if not uniform:
            return []
        num_best = ranks.num_best(fraction, len(uniform))
        threshold = sorted(uniform, reverse=True)[num_best - 1]
        everything = [*sample.uniform, *sample.stratified]
        return [a for a in everything if sample.reference.get(a, -np.inf) >= threshold]


def _paired(
    columns: Sequence[Mapping[Architecture, float]],
    architectures: Sequence[Architecture],
    sample: Sample,
) -> tuple[Values, Values]:
    """Columns `(m, n)` and reference `(n,)` of the architectures that every side has."""
    sides = [*columns, sample.reference]
    shared = [a for a in architectures if all(a in side for side in sides)]
    values = np.array([[side[a] for a in shared] for side in sides], dtype=np.float64)
    return values[:-1], values[-1]
