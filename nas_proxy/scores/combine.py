"""How signals become the one number that ranks architectures; higher is always better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np

from nas_proxy.errors import StudyError
from nas_proxy.options import Bound, Options
from nas_proxy.scores._ranking import oriented, rank_among
from nas_proxy.scores.calibrated import CalibratedScore, Encode
from nas_proxy.scores.signals import is_trained, trained_among
from nas_proxy.types import Architecture, Evaluation


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
        signals: What is measured on every candidate. The default reads a distilled set, which
            `val_loss` ranks backwards (`benchmarks/signals_by_data.py`).
        combine: `single` takes the only signal. `rank_mean` averages the ranks of several among a
            reference sample of architectures that is drawn and evaluated for this purpose; those
            of a training have one half of the vote together, zero-cost ones the other.
            `calibrated` fits a model of the signals to architectures whose full training is
            known; it needs the stage `calibrate`, whose sample then also serves `rank_mean`.
        num_reference: Size of the reference sample of a `rank_mean` without calibration; each of
            its architectures costs one evaluation.
        use_encoding: Whether `calibrated` also learns from architectures themselves: from the
            graphs of their networks, and what the space's `encode` adds. Then it needs no signal.
        regressor: What `calibrated` fits: `gaussian_process`, `single_kernel`, or a class of one's
            own with `fit(X, y)` and `predict(X, return_std=True)`, as `module:Class`.
        score_images: What zero-cost signals look at: `real` images, or `distilled` ones.
    """

    signals: tuple[str, ...] = ("train_loss_mean",)
    combine: Literal["single", "rank_mean", "calibrated"] = "single"
    num_reference: Annotated[int, Bound(ge=4)] = 32
    use_encoding: bool = True
    regressor: str = "gaussian_process"
    score_images: Literal["real", "distilled"] = "real"

    def __post_init__(self) -> None:
        """Refuse a list of signals that `combine` cannot use."""
        if not self.signals and not (self.combine == "calibrated" and self.use_encoding):
            raise ValueError(
                "signals is empty; name at least one, such as train_loss_mean (combine: calibrated "
                "alone can rank by labels and encoding)"
            )
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

    Signals of a training and zero-cost ones know different things, and those of one kind much the
    same: where there are both, each kind has one half of the vote, however many stand for it. On
    146 cells of NAS-Bench-201 a validation loss beside three zero-cost scores ranks so with .94,
    and with .35 within the best fifth, where four equal votes have .93 and .26
    (`benchmarks/votes.py`).

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
        num_trained = len(trained_among(signals))
        kinds = {True: num_trained, False: len(signals) - num_trained}
        self._weights = [1 / kinds[is_trained(signal)] for signal in signals]

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals that are combined."""
        return self._signals

    def of(self, evaluation: Evaluation) -> float:
        """Mean rank, each kind with one half; 0 is the worst of the reference, 1 its best."""
        ranks = [
            rank_among(self._values[signal], oriented(evaluation, signal))
            for signal in self._signals
        ]
        return float(np.average(ranks, weights=self._weights))


def make_score(
    settings: ScoreSettings,
    reference: Sequence[Evaluation],
    truth: Mapping[Architecture, float] | None = None,
    encode: Encode | None = None,
) -> Score:
    """The score that the settings ask for.

    Args:
        settings: The configuration section `score`, or a recipe's.
        reference: Evaluations of the reference sample; not read by `single`.
        truth: What full training reached on its architectures; read by `calibrated` alone.
        encode: The space's encoding, for `calibrated`.

    Raises:
        StudyError: If the sample is too small for the combination, or tells nothing apart.
    """
    if settings.combine == "single":
        return SingleSignal(settings.signals[0])
    if settings.combine == "rank_mean":
        return RankMean(settings.signals, reference)
    encoding = encode if settings.use_encoding else None
    return CalibratedScore(settings.signals, reference, truth or {}, encoding, settings.regressor)
