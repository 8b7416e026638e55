"""A score that is learned from architectures whose full training is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray
from torch import Tensor

from nas_proxy.errors import StudyError
from nas_proxy.scores._ranking import oriented, rank_among
from nas_proxy.scores.regressors import Regressor, make_regressor
from nas_proxy.types import Architecture, Evaluation

MIN_CALIBRATION = 20  # complete evaluations below which nothing is fitted
_NUM_FOLDS = 10
_LIMIT = 4.0  # deviations from the mean of what is known

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
    calibration architectures, so outliers weigh no more than their rank. A regressor learns the
    reference's from the signals' and from the architecture's encoding; those that ship
    (`nas_proxy.scores.regressors`) correct the mean of the signals, so a small sample leaves the
    plain rank mean, and a large one improves it. Features of the encoding are scaled by their
    deviation in the calibration sample, and together weigh as much as one signal; those that are
    the same for all of it, or as another one, are left out, and so are such signals.

    Without signals it ranks by labels and encoding alone.

    Args:
        signals: What is measured on every architecture; may be none if there is an encoding.
        calibration: Evaluations of the calibration architectures; failed ones are left out.
        references: What full training reached, higher is better.
        encode: From an architecture to features `(d,)`; None fits on signals alone.
        regressor: See `make_regressor`.

    Raises:
        StudyError: If fewer than 20 calibration architectures are complete, if nothing tells them
            apart, if all references are the same, or if the regressor fails.
    """

    def __init__(
        self,
        signals: tuple[str, ...],
        calibration: Sequence[Evaluation],
        references: Mapping[Architecture, float],
        encode: Encode | None,
        regressor: str = "gaussian_process",
    ) -> None:
        self._signals = signals
        self._encode = encode
        self._regressor = regressor
        known = [e for e in calibration if e.complete and e.architecture in references]
        if len(known) < MIN_CALIBRATION:
            raise StudyError(
                f"combine: calibrated is fitted on at least {MIN_CALIBRATION} architectures, but "
                f"only {len(known)} of {len(calibration)} calibration architectures have "
                "signals and a reference; raise calibrate.num_architectures (without a section "
                "calibrate, the score's num_reference), or use rank_mean"
            )
        self._known = [e.architecture for e in known]
        found = np.array([references[architecture] for architecture in self._known])
        self._references = np.sort(found)
        values = {s: np.sort([oriented(e, s) for e in known]) for s in signals}
        self._values = {signal: v for signal, v in values.items() if v[0] < v[-1]}
        self._scaling = _Scaling(self._encodings(self._known))
        self._check_sample()
        self._features = self._describe(known)
        self._targets = np.array([self.normal_score(value) for value in found])
        self._model = self._fitted(self._features, self._targets)

    def _check_sample(self) -> None:
        if not self._values and (self._signals or not self._scaling.size):
            what = f"every signal of the score ({', '.join(self._signals)}) has the same value"
            if not self._signals:
                what = "there is no signal, and the encoding is the same"
            raise StudyError(
                f"{what} for all {len(self._known)} calibration architectures, so nothing can be "
                "learned from them; choose other signals or train longer"
            )
        if self._references[0] == self._references[-1]:
            raise StudyError(
                f"all {len(self._known)} calibration architectures have the same reference "
                f"({self._references[0]:g}), so there is no ranking to learn"
            )

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals that are measured, constant ones included."""
        return self._signals

    def of(self, evaluation: Evaluation) -> float:
        """The expected normal score of the reference."""
        return self.predict(evaluation).mean

    def predict(self, evaluation: Evaluation) -> Prediction:
        """The same with its uncertainty."""
        return self.predict_all([evaluation])[0]

    def predict_all(self, evaluations: Sequence[Evaluation]) -> list[Prediction]:
        """The same for several at once, at least one."""
        return self._predicted(self._model, self._describe(evaluations))

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
            model = self._fitted(self._features[inside], self._targets[inside])
            predictions = self._predicted(model, self._features[~inside])
            for index, prediction in zip(np.flatnonzero(~inside), predictions, strict=True):
                found[self._known[index]] = prediction
        return found

    def _fitted(self, features: Values, targets: Values) -> Regressor:
        model = make_regressor(self._regressor, len(self._values))
        with self._blamed():
            model.fit(features, targets)
        return model

    def _predicted(self, model: Regressor, features: Values) -> list[Prediction]:
        """For architectures `(m, d)`, one each."""
        with self._blamed():
            means, deviations = (
                np.asarray(each, dtype=np.float64).reshape(len(features))
                for each in model.predict(features, return_std=True)
            )
        if not (np.isfinite(means).all() and np.isfinite(deviations).all()):
            raise StudyError(
                f"the regressor {self._regressor} predicts what is not finite; choose another"
            )
        return [Prediction(*each) for each in zip(means.tolist(), deviations.tolist(), strict=True)]

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a model of the user's own may raise anything
            raise StudyError(
                f"the regressor {self._regressor} fails on {len(self._known)} calibration "
                f"architectures ({type(error).__name__}: {error}); mend it, or choose another"
            ) from error

    def _describe(self, evaluations: Sequence[Evaluation]) -> Values:
        """The features of evaluations, `(n, num_signals + d)`."""
        ranked = [
            [_normal_score(known, oriented(each, signal)) for signal, known in self._values.items()]
            for each in evaluations
        ]
        encodings = self._encodings([each.architecture for each in evaluations])
        signals = np.array(ranked).reshape(len(evaluations), len(self._values))
        return np.concatenate([signals, self._scaling.of(encodings)], axis=1)

    def _encodings(self, architectures: Sequence[Architecture]) -> Values:
        if self._encode is None:
            return np.zeros((len(architectures), 0))
        return np.stack([self._encode(a).double().numpy() for a in architectures])


class _Scaling:
    """Features in units of their deviation among known architectures, `(n, d)`.

    Attributes:
        size: How many features are left.
    """

    def __init__(self, known: Values) -> None:
        deviations = known.std(axis=0)
        self._columns = _told_apart(known, deviations)
        self._centres = known.mean(axis=0)[self._columns]
        self.size = len(self._columns)
        # All of them together weigh as much as one signal does.
        self._units = deviations[self._columns] * np.sqrt(max(1, self.size))

    def of(self, encodings: Values) -> Values:
        """Scaled, and limited where an architecture is unlike all that are known."""
        scaled = (encodings[:, self._columns] - self._centres) / self._units
        limit = _LIMIT / np.sqrt(max(1, self.size))
        found: Values = np.clip(scaled, -limit, limit)
        return found


def _told_apart(known: Values, deviations: Values) -> NDArray[np.intp]:
    """The columns that vary, without those that another one before them repeats."""
    varied = np.flatnonzero(deviations > 1e-6)
    if len(varied) < 2:
        return varied
    alike = np.abs(np.corrcoef(known[:, varied].T)) > 1 - 1e-6
    return varied[~np.tril(alike, -1).any(axis=1)]


def _normal_score(reference: Values, value: float) -> float:
    """Normal quantile of the rank of `value` among the ascending `reference`, `(n,)`."""
    n = len(reference)
    share = (rank_among(reference, value) * (n - 1) + 0.5) / n
    inside = np.clip(share, 0.5 / n, 1 - 0.5 / n)
    # Beyond the reference by less than half a member's share: the quantile is infinite at 0 and 1.
    return float(scipy.special.ndtri(inside + (share - inside) / 4))
