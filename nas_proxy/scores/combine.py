"""How signals become the one number that ranks architectures; higher is always better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np

from nas_proxy.errors import StudyError
from nas_proxy.options import Bound, Options
from nas_proxy.scores.signals import higher_is_better
from nas_proxy.types import Evaluation


class Score(Protocol):
    """Ranks evaluations."""

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals it reads."""

    def of(self, evaluation: Evaluation) -> float:
        """The score of a complete evaluation; higher is better."""


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(Options):
    """The configuration section `score`.

    Attributes:
        signals: What is measured on every candidate.
        combine: `single` takes the only signal. `rank_mean` averages the ranks of several among a
            reference sample of architectures that is drawn and evaluated for this purpose.
        num_reference: Size of that sample; each of its architectures costs one evaluation.
    """

    signals: tuple[str, ...] = ("val_loss",)
    combine: Literal["single", "rank_mean"] = "single"
    num_reference: Annotated[int, Bound(ge=4)] = 32

    def __post_init__(self) -> None:
        """Refuse a list of signals that `combine` cannot use."""
        if not self.signals:
            raise ValueError("signals is empty; name at least one, such as val_loss")
        if len(set(self.signals)) < len(self.signals):
            raise ValueError("signals names one of them twice")
        if self.combine == "single" and len(self.signals) > 1:
            raise ValueError("several signals need combine: rank_mean")


@dataclass(frozen=True)
class SingleSignal:
    """One signal, with its sign turned where lower is better."""

    signal: str

    @property
    def signals(self) -> tuple[str, ...]:
        """The only signal."""
        return (self.signal,)

    def of(self, evaluation: Evaluation) -> float:
        """The signal's value, so that higher is better."""
        return oriented(evaluation, self.signal)


class RankMean:
    """The mean of each signal's rank among a reference sample.

    A rank is the share of the reference that is worse, interpolated between its members, so that
    no two different values tie. Beyond the best and the worst member it goes on growing, but by
    no more than one member's worth: an outlier in one signal cannot outvote the others.

    Args:
        signals: The signals to combine.
        reference: Evaluations of the reference sample; failed ones are left out.

    Raises:
        StudyError: If fewer than four of them are complete.
    """

    def __init__(self, signals: tuple[str, ...], reference: Sequence[Evaluation]) -> None:
        self._signals = signals
        complete = [evaluation for evaluation in reference if evaluation.complete]
        if len(complete) < 4:
            reasons = sorted({evaluation.reason for evaluation in reference if evaluation.reason})
            raise StudyError(
                f"only {len(complete)} of {len(reference)} reference architectures could be "
                f"evaluated; rank_mean needs 4 (reasons: {'; '.join(reasons) or 'none drawn'})"
            )
        self._values = {
            signal: np.sort([oriented(evaluation, signal) for evaluation in complete])
            for signal in signals
        }

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals that are combined."""
        return self._signals

    def of(self, evaluation: Evaluation) -> float:
        """Mean rank over the signals; 0 is the worst of the reference, 1 its best."""
        ranks = [
            _rank(self._values[signal], oriented(evaluation, signal)) for signal in self._signals
        ]
        return float(np.mean(ranks))


def make_score(settings: ScoreSettings, reference: Sequence[Evaluation]) -> Score:
    """The score that the settings ask for.

    Args:
        settings: The configuration section `score`.
        reference: Evaluations of the reference sample; not read by `single`.

    Raises:
        StudyError: If `rank_mean` has fewer than four complete evaluations to rank among.
    """
    if settings.combine == "single":
        return SingleSignal(settings.signals[0])
    return RankMean(settings.signals, reference)


def oriented(evaluation: Evaluation, signal: str) -> float:
    """The value of a signal, with its sign turned where lower is better."""
    value = evaluation.signals[signal]
    return value if higher_is_better(signal) else -value


def _rank(reference: np.ndarray, value: float) -> float:
    """Rank of `value` among the ascending `reference`, `(n,)`; strictly increasing in `value`."""
    levels, first, counts = np.unique(reference, return_index=True, return_counts=True)
    mid_ranks = (first + (counts - 1) / 2) / (len(reference) - 1)
    inside = np.interp(value, levels, mid_ranks)
    beyond = max(value - levels[-1], 0.0) - max(levels[0] - value, 0.0)
    lower, upper = np.percentile(reference, [25, 75])
    distance = beyond / (float(upper - lower) or 1.0)
    return float(inside + distance / (1 + abs(distance)) / (len(reference) - 1))
