"""A score that is learned from architectures whose full training is known."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from torch import Tensor

from nas_proxy.errors import StudyError
from nas_proxy.scores._ranking import oriented, rank_among
from nas_proxy.types import Architecture, Evaluation

MIN_CALIBRATION = 20  # complete evaluations below which nothing is fitted
_NUM_FOLDS = 10

Values = NDArray[np.float64]
Encode = Callable[[Architecture], Tensor]


@dataclass(frozen=True)
class Prediction:
    """What the score expects of an architecture, as a normal score.

    A normal score is the normal quantile of a reference's rank among the calibration
    architectures: 0 is their median, 1.64 their best twentieth.

    Attributes:
        mean: The expected normal score; this is what ranks.
        deviation: Standard deviation of what would be observed, noise included.
    """

    mean: float
    deviation: float


class CalibratedScore:
    """The mean rank of the signals, corrected by what the calibration sample teaches.

    Every signal and the reference are turned into normal scores of their ranks among the
    calibration architectures, so outliers weigh no more than their rank. The mean of the signals'
    normal scores, times a slope fitted by least squares, is the prior mean of a Gaussian process
    on the signals and the architecture's encoding, whose linear, radial and noise kernels are
    fitted by marginal likelihood (Rasmussen and Williams, "Gaussian processes for machine
    learning", 2006). So a small sample leaves the plain rank mean, and a large one improves it.
    The encoding is scaled to weigh as much as one signal. Signals that are the same for all
    calibration architectures are left out.

    Args:
        signals: What is measured on every architecture.
        calibration: Evaluations of the calibration architectures; failed ones are left out.
        references: What full training reached, higher is better.
        encode: From an architecture to features `(d,)`; None fits on signals alone.

    Raises:
        StudyError: If fewer than 20 calibration architectures are complete, or all signals or all
            references are the same.
    """

    def __init__(
        self,
        signals: tuple[str, ...],
        calibration: Sequence[Evaluation],
        references: Mapping[Architecture, float],
        encode: Encode | None,
    ) -> None:
        self._signals = signals
        self._encode = encode
        self._known = [e for e in calibration if e.complete and e.architecture in references]
        if len(self._known) < MIN_CALIBRATION:
            raise StudyError(
                f"combine: calibrated is fitted on at least {MIN_CALIBRATION} architectures, but "
                f"only {len(self._known)} of {len(calibration)} calibration architectures have "
                "signals and a reference; raise calibrate.num_architectures, or use rank_mean"
            )
        found = np.array([references[e.architecture] for e in self._known])
        self._references = np.sort(found)
        values = {s: np.sort([oriented(e, s) for e in self._known]) for s in signals}
        self._values = {signal: v for signal, v in values.items() if v[0] < v[-1]}
        if not self._values:
            raise StudyError(
                f"every signal of the score ({', '.join(signals)}) has the same value for all "
                f"{len(self._known)} calibration architectures, so nothing can be learned from "
                "them; choose other signals or train longer"
            )
        if self._references[0] == self._references[-1]:
            raise StudyError(
                f"all {len(self._known)} calibration architectures have the same reference "
                f"({self._references[0]:g}), so there is no ranking to learn"
            )
        encodings = self._encodings([e.architecture for e in self._known])
        total = float(np.sqrt(encodings.var(axis=0).sum()))
        self._scale = 1 / total if total > 0 else 0.0
        self._features = np.stack([self._describe(e) for e in self._known])
        self._targets = np.array([self.normal_score(value) for value in found])
        self._model = _Model(self._features, self._targets, len(self._values))

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals that are measured, constant ones included."""
        return self._signals

    def of(self, evaluation: Evaluation) -> float:
        """The expected normal score of the reference."""
        return self.predict(evaluation).mean

    def predict(self, evaluation: Evaluation) -> Prediction:
        """The same with its uncertainty."""
        return self._model.predict(self._describe(evaluation))

    def normal_score(self, reference: float) -> float:
        """A reference, in its own unit, as a normal score; limited beyond the calibration's."""
        return _normal_score(self._references, reference)

    def out_of_fold(self) -> dict[Architecture, Prediction]:
        """Every calibration architecture as predicted by a model that was fitted without it.

        Ten folds of every tenth architecture by reference, so that each spans the whole range.
        """
        fold = np.empty(len(self._known), dtype=np.intp)
        fold[np.argsort(self._targets, kind="stable")] = np.arange(len(self._known)) % _NUM_FOLDS
        found = {}
        for number in range(_NUM_FOLDS):
            inside = fold != number
            model = _Model(self._features[inside], self._targets[inside], len(self._values))
            for index in np.flatnonzero(~inside):
                architecture = self._known[index].architecture
                found[architecture] = model.predict(self._features[index])
        return found

    def _describe(self, evaluation: Evaluation) -> Values:
        """The features of one evaluation, `(num_signals + d,)`."""
        ranked = [
            _normal_score(reference, oriented(evaluation, signal))
            for signal, reference in self._values.items()
        ]
        encoding = self._encodings([evaluation.architecture])[0] * self._scale
        return np.concatenate([ranked, encoding])

    def _encodings(self, architectures: Sequence[Architecture]) -> Values:
        if self._encode is None:
            return np.zeros((len(architectures), 0))
        return np.stack([self._encode(a).double().numpy() for a in architectures])


def _normal_score(reference: Values, value: float) -> float:
    """Normal quantile of the rank of `value` among the ascending `reference`, `(n,)`."""
    n = len(reference)
    share = (rank_among(reference, value) * (n - 1) + 0.5) / n
    inside = np.clip(share, 0.5 / n, 1 - 0.5 / n)
    # Beyond the reference by less than half a member's share: the quantile is infinite at 0 and 1.
    return float(scipy.stats.norm.ppf(inside + (share - inside) / 4))


class _Model:
    """The regression behind the score.

    Args:
        features: `(n, d)`; the first `num_signals` columns are normal scores of signals.
        targets: Normal scores of the references, `(n,)`.
        num_signals: How many.
    """

    def __init__(self, features: Values, targets: Values, num_signals: int) -> None:
        self._num_signals = num_signals
        means = self._mean_rank(features)
        power = float(means @ means)
        # Signals that contradict each other everywhere have no mean rank, but for rounding.
        self._slope = float(means @ targets) / power if power > 1e-9 else 0.0
        self._process = _fit(features, targets - self._slope * means)

    def predict(self, features: Values) -> Prediction:
        """For one architecture, `(d,)`."""
        correction, deviation = self._process.predict(features[None], return_std=True)
        prior = self._slope * float(self._mean_rank(features[None])[0])
        return Prediction(prior + float(correction[0]), float(deviation[0]))

    def _mean_rank(self, features: Values) -> Values:
        mean: Values = features[:, : self._num_signals].mean(axis=1)
        return mean


def _fit(features: Values, residuals: Values) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel
    from threadpoolctl import threadpool_limits  # scikit-learn brings it

    kernel = (
        ConstantKernel(0.3) * RBF(3.0)
        + ConstantKernel(0.3) * DotProduct(1.0)
        + WhiteKernel(0.1, (1e-3, 10.0))
    )
    # Threads that share matrices this small wait for one another, on a busy machine for seconds.
    with warnings.catch_warnings(), threadpool_limits(1):
        # A bound that is reached is an answer: a part has no use.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianProcessRegressor(kernel).fit(features, residuals)
