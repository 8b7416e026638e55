"""How well each way of ranking agrees with the reference, and what may be concluded from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from nas_proxy.types import Architecture
from nas_proxy.validate import ranks
from nas_proxy.validate.ranks import Estimate, Values
from nas_proxy.validate.settings import ValidateSettings

Kind = Literal["proxy", "control", "signal"]


@dataclass(frozen=True)
class Ranking:
    """One way to rank the validation's architectures.

    Attributes:
        name: What it is, in words.
        kind: `proxy` is what is judged; `control` must be beaten; `signal` is for information.
        scores: Higher is better; architectures whose evaluation failed are missing.
        seconds_per_architecture: Mean wall-clock seconds of one process.
        one_off_seconds: What it costs before the first architecture: distilling, the score's
            reference sample.
        failures: Reason and how often.
    """

    name: str
    kind: Kind
    scores: Mapping[Architecture, float]
    seconds_per_architecture: float
    one_off_seconds: float = 0.0
    failures: Mapping[str, int] | None = None


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
        verdict: The headline, one sentence.
        comparisons: One sentence for each control.
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
    """

    uniform: Sequence[Architecture]
    stratified: Sequence[Architecture]
    reference: Mapping[Architecture, float]


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
        rankings: The first one is the proxy's.
        sample: On which they are judged.
        settings: Sizes of the best part, k and the bootstrap.
        reference_name: In words.
        reference_seconds: Per architecture.
        rng: Of the bootstrap.
    """
    rows = tuple(_row(ranking, rankings[0], sample, settings, rng) for ranking in rankings)
    controls = [row for row in rows if row.kind == "control"]
    return RankReport(
        rows=rows,
        reference_name=reference_name,
        reference_seconds_per_architecture=reference_seconds,
        num_architectures=len(sample.uniform),
        num_stratified=len(sample.stratified),
        best_fraction=settings.best_fraction,
        k=settings.k,
        verdict=_verdict(rows),
        comparisons=tuple(_compare(row, rows[0]) for row in controls),
    )


def _row(
    ranking: Ranking,
    proxy: Ranking,
    sample: Sample,
    settings: ValidateSettings,
    rng: np.random.Generator,
) -> RankRow:
    scores, reference = _paired([ranking], sample.uniform, sample)
    best_scores, best_reference = _paired([ranking], _best_part(sample, settings), sample)
    shared, shared_reference = _paired([proxy, ranking], sample.uniform, sample)

    def figure(statistic: ranks.Statistic, x: Values, y: Values) -> Estimate | None:
        return ranks.estimate(statistic, x, y, num_resamples=settings.num_resamples, rng=rng)

    enough = len(reference) > settings.k
    return RankRow(
        name=ranking.name,
        kind=ranking.kind,
        n=len(reference),
        num_failed=sum((ranking.failures or {}).values()),
        failures=dict(ranking.failures or {}),
        spearman=figure(ranks.spearman, scores[0], reference),
        kendall=figure(ranks.kendall, scores[0], reference),
        precision_at_k=figure(ranks.precision_at(settings.k), scores[0], reference)
        if enough
        else None,
        regret_at_k=figure(ranks.regret_at(settings.k), scores[0], reference) if enough else None,
        n_best=len(best_reference),
        spearman_best=figure(ranks.spearman, best_scores[0], best_reference),
        kendall_best=figure(ranks.kendall, best_scores[0], best_reference),
        difference=None
        if ranking is proxy
        else figure(ranks.spearman_difference, shared, shared_reference),
        n_difference=len(shared_reference),
        seconds_per_architecture=ranking.seconds_per_architecture,
        one_off_seconds=ranking.one_off_seconds,
    )


def _best_part(sample: Sample, settings: ValidateSettings) -> list[Architecture]:
    """Everything as good as the best part of the uniform sample, by reference."""
    uniform = [sample.reference[a] for a in sample.uniform if a in sample.reference]
    if not uniform:
        return []
    num_best = max(1, round(settings.best_fraction * len(uniform)))
    threshold = sorted(uniform, reverse=True)[num_best - 1]
    everything = [*sample.uniform, *sample.stratified]
    return [a for a in everything if sample.reference.get(a, -np.inf) >= threshold]


def _paired(
    rankings: Sequence[Ranking], architectures: Sequence[Architecture], sample: Sample
) -> tuple[Values, Values]:
    """Scores `(m, n)` and reference `(n,)` of the architectures that every side has."""
    sides = [*(ranking.scores for ranking in rankings), sample.reference]
    shared = [a for a in architectures if all(a in side for side in sides)]
    values = np.array([[side[a] for a in shared] for side in sides], dtype=np.float64)
    return values[:-1], values[-1]


def _compare(row: RankRow, proxy: RankRow) -> str:
    """The proxy against one control, in words."""
    difference = row.difference
    if difference is None:
        silent = "the proxy" if proxy.spearman is None else row.name
        why = f"{silent} ranks nothing here, for its values are missing or all the same"
        return f"The proxy cannot be compared with {row.name}: {why}."
    shown = f"difference {difference}, n = {row.n_difference}"
    if difference.low is not None and difference.low > 0:
        return f"The proxy ranks better than {row.name} ({shown})."
    if difference.high is not None and difference.high < 0:
        return f"The proxy ranks worse than {row.name} ({shown})."
    needed = ranks.num_architectures_to_tell(difference, row.n_difference)
    more = f"; about {needed:,} architectures would tell" if needed else ""
    return f"The proxy cannot be told apart from {row.name} ({shown}){more}."


def _verdict(rows: Sequence[RankRow]) -> str:
    proxy = rows[0]
    if proxy.spearman is None:
        return (
            f"The proxy ranks nothing: fewer than {ranks.MIN_ARCHITECTURES} of its evaluations "
            "can be compared with the reference, or all have the same score."
        )
    undecided = "not demonstrably different from"
    outcome: dict[str, list[str]] = {"better than": [], "worse than": [], undecided: []}
    for row in rows:
        if row.kind == "control" and row.difference is not None:
            low, high = row.difference.low, row.difference.high
            side = undecided
            if low is not None and high is not None and (low > 0 or high < 0):
                side = "better than" if low > 0 else "worse than"
            outcome[side].append(row.name)
    parts = [f"{side} {', '.join(names)}" for side, names in outcome.items() if names]
    found = f"; it ranks {'; '.join(parts)}" if parts else ""
    sign = _reading(proxy.spearman)
    return f"Spearman {proxy.spearman} at n = {proxy.n}: {sign}{found}."


def _reading(spearman: Estimate) -> str:
    """What the interval allows to say of the ranking alone."""
    if spearman.low is None or spearman.low <= 0:
        return "the ranking is not shown to be better than chance"
    if spearman.low >= 0.7:
        return "the ranking can be trusted to tell good from bad"
    if spearman.low >= 0.4:
        return "the ranking tells good from bad roughly"
    return "the ranking is better than chance, but weak"
